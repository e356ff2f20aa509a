"""`codomyrmex-streaming run` and `check`: the command line of `codomyrmex.integrations.pipelines`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.arguments import AsJson, existing_file, finite
from codomyrmex.integrations.cli.garbage import rare_collections
from codomyrmex.integrations.cli.interrupts import Interrupts, on_signal
from codomyrmex.integrations.cli.messages import patient_messages, without_log
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    discard_stdout,
    fail,
    plural,
    print_json,
    print_message,
    print_problems,
    printable,
    reason_of,
    reporting_errors,
    stderr,
)
from codomyrmex.integrations.configuration.files import stamp_of
from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.delivery.health import SinkReport
from codomyrmex.integrations.pipelines.config import PipelineConfig, load_pipeline_config
from codomyrmex.integrations.pipelines.pipeline import Pipeline
from codomyrmex.integrations.pipelines.report import PipelineReport
from rich.markup import escape

_WATCH_INTERVAL = 1.0  # seconds between two checks of the file
_PROGRESS_INTERVAL = 0.5

ConfigFile = Annotated[Path, existing_file("The file of the pipeline.", "CONFIG")]


def check(config: ConfigFile, *, as_json: AsJson = False) -> None:
    """Check the file of a pipeline and the alert files that it names.

    All problems are shown with file, line and column. Exit code 1 if there are any.
    """
    with reporting_errors(as_json=as_json):
        loaded = load_pipeline_config(config)
    if as_json:
        print_json({"ok": True, "errors": [], "notes": [note.to_dict() for note in loaded.notes]})
        return
    print_problems(stderr(), loaded.notes, "note", "cyan")
    parts = {"source": loaded.sources, "processor": loaded.steps, "sink": loaded.sinks}
    counts = ", ".join(plural(len(found), word) for word, found in parts.items())
    print_message(f"{config}: {counts}, no problems")


@patient_messages()
def run(
    config: ConfigFile,
    *,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Reload the file when it changes.")] = True,
    drain: Annotated[
        float | None,
        typer.Option(help="Seconds to deliver queued events at the end.", min=0, callback=finite),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if input was skipped, such as invalid lines.")
    ] = False,
) -> None:
    """Run a pipeline until its sources end or it is stopped.

    SIGTERM and Ctrl-C stop it: queued events are delivered and a report is printed. A second one drops them,
    and the exit code is 130 for Ctrl-C and 143 for SIGTERM; a third one ends the process at once. SIGHUP and
    changes of the file reload it; an invalid file changes nothing. Exit code 0 if nothing was lost.
    """
    with reporting_errors(as_json=as_json):
        loaded = load_pipeline_config(config)
    with Interrupts() as interrupts:
        try:
            # The report shows the losses.
            with rare_collections(), without_log("delivery.attachment", "events were not delivered"):
                report = asyncio.run(_Run(loaded, interrupts, watch=watch, drain=drain).run())
        except Exception as error:  # noqa: BLE001 - a part may raise anything when it is opened
            fail(f"the pipeline cannot start: {reason_of(error)}", as_json=as_json)
        ok = report.complete and not (strict and report.skipped)
        _show(report, loaded, ok=ok, as_json=as_json)
    if interrupts.exit_code is not None:
        raise typer.Exit(interrupts.exit_code)
    if not ok:
        raise typer.Exit(PROBLEMS)


def _show(report: PipelineReport, loaded: PipelineConfig, *, ok: bool, as_json: bool) -> None:
    if as_json:
        events_on_stdout = any(_uses_stdout(part.config) for part in loaded.sinks)
        result = {"ok": ok, **report.to_dict()}
        typer.echo(json.dumps(result, indent=2), err=events_on_stdout)
    else:
        _print_report(report)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()


class _Run:
    """A pipeline with signal handlers, a watched file and a line of progress."""

    def __init__(
        self, config: PipelineConfig, interrupts: Interrupts, *, watch: bool, drain: float | None
    ) -> None:
        self._pipeline = Pipeline(config)
        self._interrupts = interrupts
        self._path = config.path
        self._watch = watch
        self._drain = drain
        self._reload = asyncio.Event()

    async def run(self) -> PipelineReport:
        on_signal("SIGHUP", self._reload.set)
        pipeline = self._pipeline
        with without_log("durable.runtime", "the store is not available"):  # that is why the start fails
            started = await self._interrupts.unless_interrupted(pipeline.start())
        if not started:
            return pipeline.report()
        for name, url in pipeline.urls().items():
            print_message(f"{name}: {url}")
        tasks = [asyncio.create_task(_show_progress(pipeline)), asyncio.create_task(self._reload_on_demand())]
        try:
            ended = await self._interrupts.unless_interrupted(pipeline.wait())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not ended:
            print_message("stopping; press Ctrl-C again to drop queued events")
        await self._interrupts.unless_interrupted(pipeline.aclose(self._drain), 2)
        return pipeline.report()

    async def _reload_on_demand(self) -> None:
        stamp = seen = stamp_of(self._path)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_INTERVAL):
                    await self._reload.wait()
            before, seen = seen, stamp_of(self._path)
            # A file that is still being written may look whole; it is loaded once it has stopped changing.
            changed = self._watch and seen is not None and before == seen != stamp
            if not (changed or self._reload.is_set()):
                continue
            self._reload.clear()
            stamp = seen or stamp
            old = self._pipeline.config
            try:
                await self._pipeline.reload()
            except ConfigError as error:
                print_problems(stderr(), error.problems, "error", "red")
                print_message("the pipeline continues unchanged", "yellow")
            except Exception as error:  # noqa: BLE001 - a part may raise anything when it is opened
                print_message(f"not all parts of the new pipeline could start: {reason_of(error)}", "red")
            else:
                print_message(f"{self._path} was reloaded{_changes(old, self._pipeline.config)}")


def _changes(old: PipelineConfig, new: PipelineConfig) -> str:
    """Return which parts a reload has removed and added."""
    before, after = [*old.sources, *old.steps, *old.sinks], [*new.sources, *new.steps, *new.sinks]
    removed = [part.name for part in before if part not in after]
    added = [part.name for part in after if part not in before]
    changes = (("removed", removed), ("added", added))
    return "".join(f"; {word}: {', '.join(names)}" for word, names in changes if names)


# Progress


async def _show_progress(pipeline: Pipeline) -> None:
    """Show a line of progress on stderr until cancelled; nothing if that is not a terminal."""
    console = stderr()
    if not console.is_terminal:
        return
    received, at = pipeline.received, time.monotonic()
    with console.status("starting", spinner="dots") as status:
        while True:
            await asyncio.sleep(_PROGRESS_INTERVAL)
            now = time.monotonic()
            rate = (pipeline.received - received) / (now - at)
            received, at = pipeline.received, now
            status.update(", ".join(_progress(pipeline, rate)))


def _progress(pipeline: Pipeline, rate: float) -> Iterator[str]:
    yield f"{plural(pipeline.received, 'event')}, {rate:,.0f} per second"
    health = pipeline.health()
    if health.spool is not None and not health.spool.available:
        yield f"[red]the store has not been available for {health.spool.unavailable_for:.0f} s[/red]"
    sinks = health.sinks
    queued = sum(sink.queued + sink.in_flight for sink in sinks.values())
    if queued:
        yield f"{queued:,} queued"
    dropped = sum(sum(sink.dropped.values()) + sink.dead for sink in sinks.values())
    if dropped:
        yield f"[red]{dropped:,} dropped[/red]"
    failing = [name for name, sink in sinks.items() if sink.state not in {"ok", "closed", "standby"}]
    if failing:
        yield f"[yellow]failing: {escape(', '.join(failing))}[/yellow]"


# Report


def _uses_stdout(sink: Any) -> bool:
    return getattr(sink, "path", None) == "-" or getattr(sink, "output", None) == "stdout"


def _print_report(report: PipelineReport) -> None:
    print_message(f"{plural(report.received, 'event')} received, {report.published:,} sent to the sinks")
    for source_and_reason, count in report.skipped.items():
        print_message(f"  {source_and_reason}: {count:,}", "yellow")
    for name, reason in report.source_errors.items():
        print_message(f"  {name}: ended early: {printable(reason)}", "red")
    for name, count in report.filtered.items():
        print_message(f"  {name}: {count:,} filtered out")
    for name, count in report.failed.items():
        reason = "the store refuses them" if name == "spool" else "the step failed"
        print_message(f"  {name}: {count:,} lost because {reason}", "red")
    if report.added:
        print_message(f"  {report.added:,} added by steps that returned several events for one")
    if report.lost:
        print_message(f"  {report.lost:,} lost because the drain timeout expired", "red")
    for name, sink in report.delivery.sinks.items():
        not_exported = report.not_exported[name]
        style = "" if sink.complete and not not_exported else "red"
        print_message(f"  {name}: {', '.join(_outcomes(sink, not_exported))}", style)


def _outcomes(sink: SinkReport, not_exported: int) -> Iterator[str]:
    yield f"{plural(sink.delivered, 'event')} delivered"
    if sink.retried:
        yield f"{sink.retried:,} retried"
    if sink.given_up:
        yield f"{sink.given_up:,} failed"
    for reason, count in sink.dropped.items():
        if count:
            yield f"{count:,} dropped ({reason.replace('_', ' ')})"
    if sink.lost:
        yield f"{sink.lost:,} lost because the drain timeout expired"
    if sink.left:
        yield f"{sink.left:,} left in the spool, to be delivered later"
    if not_exported:
        yield f"{not_exported:,} of them not accepted by the collector"
