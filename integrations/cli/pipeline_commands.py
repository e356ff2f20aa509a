"""`codomyrmex-streaming run` and `check`."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from codomyrmex.integrations._extras import MissingExtraError
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    counted,
    err,
    fail,
    print_json,
    print_problems,
    say,
    shown,
    telling,
)
from codomyrmex.integrations.cli.progress import show_progress
from codomyrmex.integrations.configuration.files import stamp_of
from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.delivery.errors import DeliveryError
from codomyrmex.integrations.delivery.report import SinkReport
from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.pipelines.loading import PipelineConfig, load_pipeline
from codomyrmex.integrations.pipelines.pipeline import Pipeline, Report

_LOOK_EVERY = 1.0  # seconds between looks at the file

Config = Annotated[Path, typer.Argument(help="The file of the pipeline.", metavar="CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON, for other programs.")]


def check(config: Config, *, as_json: AsJson = False) -> None:
    """Tell what is wrong with the file of a pipeline, and with the alert files it names."""
    with telling(as_json=as_json):
        loaded = load_pipeline(config)
    if as_json:
        print_json({"ok": True, "errors": [], "notes": [note.to_dict() for note in loaded.notes]})
        return
    print_problems(err(), loaded.notes, "note", "cyan")
    parts = [
        counted(len(loaded.sources), "source"),
        counted(len(loaded.processors), "processor"),
        counted(len(loaded.sinks), "sink"),
    ]
    say(f"{config}: {', '.join(parts)}, nothing wrong")


def run(
    config: Config,
    *,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Load the file anew when it changes.")] = True,
    drain: Annotated[
        float | None, typer.Option(help="Seconds to deliver what is under way at the end.", min=0)
    ] = None,
) -> None:
    """Run a pipeline, until its sources end or it is stopped.

    SIGTERM and Ctrl-C stop it: what is under way is delivered, and what became of the events is told. SIGHUP
    or a changed file loads the file anew; one with mistakes changes nothing. Exit code 0 if nothing was lost.
    """
    with telling(as_json=as_json):
        loaded = load_pipeline(config)
    gc.freeze()  # what was imported stays
    gc.set_threshold(50_000, 20, 50)  # events come and go by the thousand, and are in no circles
    logging.getLogger("codomyrmex.integrations.delivery.attachment").addFilter(_is_not_told_anyway)
    try:
        report = asyncio.run(_Run(loaded, watch=watch, drain=drain).run())
    except KeyboardInterrupt:  # before anybody listened to it
        raise typer.Exit(PROBLEMS) from None
    except Exception as error:  # noqa: BLE001 - a part that cannot be opened, whatever it is
        fail(f"the pipeline cannot start: {_why(error)}", as_json=as_json)
    if as_json:
        _print_report(report, loaded)
    else:
        _tell(report)
    _let_go_of_stdout()
    if not report.complete:
        raise typer.Exit(PROBLEMS)


class _Run:
    """A pipeline with its signals, its file and its progress."""

    def __init__(self, config: PipelineConfig, *, watch: bool, drain: float | None) -> None:
        self._pipeline = Pipeline(config)
        self._path = config.path
        self._watch = watch
        self._drain = drain
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> Report:
        self._on("SIGTERM", self._stop.set)
        self._on("SIGINT", self._stop.set)
        self._on("SIGHUP", self._reload.set)
        pipeline = self._pipeline
        if not await self._unless_stopped(pipeline.start()):
            return pipeline.report()
        for name, url in pipeline.addresses.items():
            say(f"{name}: {url}")
        beside = [
            asyncio.create_task(show_progress(pipeline)),
            asyncio.create_task(self._reload_when_asked()),
        ]
        try:
            ended = await self._unless_stopped(pipeline.wait())
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
        if not ended:
            say("stopping; Ctrl-C again gives up what is under way")
        self._stop.clear()
        await self._unless_stopped(pipeline.stop(self._drain))
        return pipeline.report()

    async def _unless_stopped(self, doing: Coroutine[Any, Any, object]) -> bool:
        """Do something to its end, or cancel it when it is to stop; tell whether it came to its end."""
        task, stopped = asyncio.create_task(doing), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                return False
        task.result()  # or what it has raised
        return True

    def _on(self, name: str, call: Callable[[], Any]) -> None:
        number = getattr(signal, name, None)
        if number is None:  # Windows has no SIGHUP
            return
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not in the main thread
            asyncio.get_running_loop().add_signal_handler(number, call)

    async def _reload_when_asked(self) -> None:
        stamp = stamp_of(self._path)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._reload.wait()
            now = stamp_of(self._path)
            changed = self._watch and now is not None and now != stamp
            if not (changed or self._reload.is_set()):
                continue
            self._reload.clear()
            stamp = now or stamp
            await self._load_anew()

    async def _load_anew(self) -> None:
        try:
            config = await asyncio.to_thread(load_pipeline, self._path)
            await self._pipeline.reload(config)
        except ConfigError as error:
            print_problems(err(), error.problems, "error", "red")
            say("the pipeline goes on as it was", "yellow")
        except Exception as error:  # noqa: BLE001 - a part that cannot be opened, whatever it is
            say(f"not all of the new pipeline could be started: {_why(error)}", "red")
        else:
            say(f"loaded {self._path} anew")


def _why(error: Exception) -> str:
    """Say in a sentence why something cannot be opened."""
    if isinstance(error, OSError):
        said = error.strerror or str(error)
        return said if error.filename is None else f"{error.filename}: {said}"
    return str(error) if isinstance(error, (MissingExtraError, DeliveryError)) else describe(error)


def _is_not_told_anyway(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("events were not delivered")


def _let_go_of_stdout() -> None:
    """Keep Python from complaining at its end of a reader that is gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_report(report: Report, config: PipelineConfig) -> None:
    """Write the report for another program: to stdout, unless that has the events."""
    text = json.dumps(_as_dict(report), indent=2)
    typer.echo(text, err=any(_uses_stdout(part.file) for part in config.sinks))


def _uses_stdout(sink: Any) -> bool:
    return getattr(sink, "path", None) == "-" or getattr(sink, "output", None) == "stdout"


def _as_dict(report: Report) -> dict[str, Any]:
    sinks = {
        name: {
            "delivered": sink.delivered,
            "given_up": sink.given_up,
            "dropped": dict(sink.dropped),
            "lost": sink.lost,
            "retried": sink.retried,
            "not_exported": report.not_exported.get(name, 0),
        }
        for name, sink in report.delivery.sinks.items()
    }
    return {
        "ok": report.complete,
        "came": report.came,
        "added": report.added,
        "left_out": dict(report.left_out),
        "failed": dict(report.failed),
        "cut_off": report.cut_off,
        "passed": report.passed,
        "unread": dict(report.unread),
        "sources": report.sources,
        "sinks": sinks,
    }


def _tell(report: Report) -> None:
    say(f"{_events(report.came)} came, {report.passed:,} went to the sinks")
    for what, counts, style in (
        ("left out by", report.left_out, ""),
        ("lost, because it failed, by", report.failed, "red"),
    ):
        for name, count in counts.items():
            say(f"  {count:,} {what} {name}", style)
    for what_of, count in report.unread.items():
        source, _, what = what_of.partition(": ")
        say(f"  {source}: {count:,} {what}", "yellow")
    if report.added:
        say(f"  {report.added:,} added by a function that gives several for one")
    if report.cut_off:
        say(f"  {report.cut_off:,} lost, as there was no time for them at the end", "red")
    for name, why in report.sources.items():
        say(f"  source {name} ended: {shown(why)}", "red")
    for name, sink in report.delivery.sinks.items():
        missing = report.not_exported.get(name, 0)
        style = "" if sink.complete and not missing else "red"
        say(f"  {name}: {', '.join(_became(sink, missing))}", style)


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _became(sink: SinkReport, not_exported: int) -> Iterator[str]:
    """Say what became of the events of a sink."""
    yield f"{_events(sink.delivered)} delivered"
    if sink.retried:
        yield f"{sink.retried:,} sent again"
    if sink.given_up:
        yield f"{sink.given_up:,} given up, as they could not be delivered"
    for reason, count in sink.dropped.items():
        if count:
            yield f"{count:,} dropped ({reason.replace('_', ' ')})"
    if sink.lost:
        yield f"{sink.lost:,} lost, as there was no time for them at the end"
    if not_exported:
        yield f"{not_exported:,} of these not taken by the collector"
