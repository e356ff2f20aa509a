"""`codomyrmex-streaming alerts send-test`: shows or sends a test notification of a receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from codomyrmex.integrations.cli.arguments import AsJson, ConfigPath, read_labels
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    plural,
    print_json,
    print_message,
    printable,
    reporting_errors,
    stdout,
)
from codomyrmex.integrations.cli.store_access import run
from codomyrmex.integrations.configuration.problems import did_you_mean
from codomyrmex.integrations.notification import AlertConfig, load_alert_config
from codomyrmex.integrations.notification.alerts.trial import ChannelTrial, try_receiver
from rich.text import Text


def send_test(
    file: ConfigPath,
    receiver: Annotated[
        str, typer.Argument(metavar="RECEIVER", help="The name of the receiver.", show_default=False)
    ],
    *,
    send: Annotated[bool, typer.Option("--send", help="Send it, once, instead of only showing it.")] = False,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="A label of the alert; can be repeated."),
    ] = None,
    annotations: Annotated[
        list[str] | None,
        typer.Option("--annotation", metavar="NAME=TEXT", help="An annotation; can be repeated."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Mark the alert as resolved, to close the incident of a test.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a receiver would send for a test alert, or send it.

    Nothing is sent without --send. For each channel of the receiver, the title and body are shown, or the
    JSON of its requests; secrets are hidden. The alert is named Test unless --label alertname=... is given.
    Exit code 1 if a channel fails to deliver, or could not.
    """
    alert_labels = {"alertname": "Test", **read_labels(labels)}
    texts = {"summary": f"This is a test of the receiver {receiver}.", **_read_annotations(annotations)}
    with reporting_errors(as_json=as_json):
        config = load_alert_config(file)
    _check_receiver(config, receiver)
    trials = run(
        lambda: try_receiver(config, receiver, alert_labels, texts, resolved=resolved, send=send),
        as_json=as_json,
    )
    failed = sum(trial.sent is False if send else not trial.can_deliver for trial in trials)
    if as_json:
        print_json({"ok": not failed, "receiver": receiver, "channels": [asdict(each) for each in trials]})
    else:
        for trial in trials:
            for line in _lines(trial):
                stdout().print(line, soft_wrap=True)
        if not trials:
            message = "the receiver has no channels, so nothing is sent"
        elif send:
            message = f"{plural(len(trials) - failed, 'channel')} delivered, {failed} failed"
        elif failed:
            message = f"nothing was sent; {failed} of {plural(len(trials), 'channel')} cannot deliver"
        else:
            message = "nothing was sent; --send sends it"
        print_message(f"{printable(receiver)}: {message}", "red" if failed else "")
    if failed:
        raise typer.Exit(PROBLEMS)


def _check_receiver(config: AlertConfig, name: str) -> None:
    if name not in config.receivers:
        known = ", ".join(config.receivers) or "none"
        hint = did_you_mean(name, config.receivers)
        message = printable(f"there is no receiver {name!r}{hint}; the file has these: {known}")
        raise typer.BadParameter(message, param_hint="RECEIVER")


def _read_annotations(texts: list[str] | None) -> dict[str, str]:
    annotations: dict[str, str] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise typer.BadParameter(f"expected name=text, got {text!r}", param_hint="--annotation")
        if name in annotations:
            raise typer.BadParameter(f"the annotation {name} was given twice", param_hint="--annotation")
        annotations[name.strip()] = value
    return annotations


def _lines(trial: ChannelTrial) -> Iterator[Text]:
    yield Text(f"{printable(trial.channel)} ({trial.type})", style="bold")
    if trial.problem is not None:
        yield Text(f"  problem: {printable(trial.problem)}", style="yellow")
    if trial.requests is not None:
        for body in trial.requests:
            for line in json.dumps(body, indent=2, ensure_ascii=False).splitlines():
                yield Text(f"  {printable(line)}")
    for name, value in {**trial.fields, "title": trial.title}.items():
        if value:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield Text(f"  {printable(name)}: {printable(text)}")
    for line in trial.body.splitlines():
        yield Text(f"  {printable(line)}".rstrip())
    if trial.sent:
        yield Text("  => delivered", style="green")
    elif trial.sent is False:
        yield Text(f"  => not delivered: {printable(trial.error or '')}", style="red")
