"""`codomyrmex-streaming tail`: the events of a server as they happen."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.events import line_writer, write_json
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    discard_stdout,
    plural,
    print_message,
    printable,
    stdout,
)
from codomyrmex.integrations.configuration.environment import is_header_text
from codomyrmex.integrations.configuration.matchers import MatcherError
from codomyrmex.integrations.pipelines.fields import Condition, ConditionLine, condition
from codomyrmex.integrations.web.sse_client import EventSource, RefusedError
from codomyrmex.streaming import EventType, TopicError
from codomyrmex.streaming.topics import EVERYTHING, check_pattern

_REASONS = {  # by the type of the exception, because its message may contain the URL
    "ConnectError": "the server cannot be reached; check the address and that it is running",
    "ConnectTimeout": "the server does not respond",
    "HTTPStatusError": "the server cannot respond now",
    "ReadTimeout": "nothing was received for too long",
    "ReadError": "the connection was interrupted",
    "RemoteProtocolError": "the connection was interrupted",
}


def tail(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The address of an event stream.", show_default=False)
    ],
    *,
    topic: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only events of these topics, such as 'orders.>'.")
    ] = None,
    types: Annotated[list[EventType] | None, typer.Option("--type", help="Only events of this type.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MATCHER",
            help="Only events that match, such as 'data.status=~\"5..\"'. All matchers have to hold.",
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="The bearer token.", envvar="CODOMYRMEX_TOKEN", metavar="TOKEN")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="ID", help="Continue after this event, if the server still has it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print whole events, a line of JSON for each.")
    ] = False,
    count: Annotated[int | None, typer.Option(help="Exit after this many events.", min=1)] = None,
) -> None:
    """Show the events of a server as they happen, until Ctrl-C.

    On a terminal, a line shows the time, the type, the topic and as much of the payload as fits; --json
    prints everything. When the connection is lost it reconnects and continues after the last event; messages
    on stderr say so, and whether events may be missing. Exit code 0, also after Ctrl-C; 1 if the server
    refuses the connection or cannot be reached at the start.
    """
    matches = condition(EVERYTHING, _read_conditions(where or []))
    source = _source(url, topic, token, since)
    write = write_json if as_json else line_writer(stdout())

    async def follow() -> None:
        shown = 0
        # aclosing: a loop that is left early would not close the connection.
        async with source, aclosing(source.events()) as events:
            async for event in events:
                if (types and event.type not in types) or not (matches is None or matches(event)):
                    continue
                write(event)
                shown += 1
                if shown == count:
                    return

    _run(follow)
    if source.invalid:
        print_message(f"{plural(source.invalid, 'event')} could not be decoded", "yellow")


def _read_conditions(texts: list[str]) -> Iterator[Condition]:
    for text in texts:
        try:
            yield from ConditionLine.parse(text).conditions
        except MatcherError as error:
            message = f"{text!r}, column {error.column + 1}: {error}"
            raise typer.BadParameter(message, param_hint="--where") from None


def _source(url: str, topic: str | None, token: str | None, since: str | None) -> EventSource:
    for option, value in (("--token", token), ("--since", since)):
        if value is not None and not (is_header_text(value) and value.strip()):
            raise typer.BadParameter("must be printable ASCII and not empty", param_hint=option)
    try:
        if topic is not None:
            check_pattern(topic)
    except TopicError as error:
        raise typer.BadParameter(str(error), param_hint="--topic") from None
    try:
        return EventSource(
            url, topic=topic, token=token, last_event_id=since, on_status=_Connection().on_change
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from None


def _run(follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine and exit with the right code."""
    try:
        asyncio.run(follow())
        sys.stdout.flush()
    except KeyboardInterrupt:  # the usual end
        pass
    except BrokenPipeError:  # as with `| head`
        discard_stdout()
    except (RefusedError, _UnreachableError) as error:
        message = printable(str(error))
        if "text/html" in message:
            message += "; the events of a live page are at api/events below it"
        print_message(message, "red")
        raise typer.Exit(PROBLEMS) from None


class _UnreachableError(Exception):
    """The first connection failed: the address is probably wrong."""


class _Connection:
    """Prints how the connection changes."""

    def __init__(self) -> None:
        self._was_connected = False
        self._lost_at: float | None = None

    def on_change(self, status: str, details: Mapping[str, Any]) -> None:
        if status == "lost":
            reason = _REASONS.get(details["why"], details["why"])
            if not self._was_connected:
                raise _UnreachableError(reason)
            print_message(f"connection lost: {reason}; trying again in {details['seconds']:.1f} s", "yellow")
            self._lost_at = self._lost_at or time.monotonic()
        elif status == "connected":
            if self._lost_at is not None:
                print_message(f"reconnected after {time.monotonic() - self._lost_at:.1f} s", "green")
            self._was_connected, self._lost_at = True, None
        elif status == "missed":
            last = printable(str(details["requested"]))
            next_events = (
                "the events it has follow" if details.get("first_available") else "it has no later ones"
            )
            message = f"events may be missing: the server no longer has event {last}; {next_events}"
            print_message(message, "yellow")
