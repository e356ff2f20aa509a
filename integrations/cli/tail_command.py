"""`codomyrmex-streaming tail`: the events of a server, as they happen."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.arguments import read_matchers
from codomyrmex.integrations.cli.output import PROBLEMS, counted, out, say, shown
from codomyrmex.integrations.pipelines.fields import condition
from codomyrmex.integrations.web.sse_client import EventSource, RefusedError
from codomyrmex.streaming import Event, EventType, TopicError
from codomyrmex.streaming.encoding import to_json
from codomyrmex.streaming.topics import EVERYTHING, check_pattern
from rich.console import Console
from rich.text import Text

_STYLES = {EventType.ERROR: "bold red", EventType.HEARTBEAT: "dim"}
_BROKEN = {  # by the name of the exception, as its message may hold the URL
    "ConnectError": "the server cannot be reached",
    "ConnectTimeout": "the server does not answer",
    "HTTPStatusError": "the server cannot serve it now",
    "ReadTimeout": "nothing came for too long",
    "ReadError": "the connection broke",
    "RemoteProtocolError": "the connection broke",
}
_TOO_MUCH = 4_000  # characters of a payload that no terminal shows in one line

Tell = Callable[[Event], None]


def tail(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of an event stream.", show_default=False)],
    *,
    topic: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only these topics, such as 'orders.>'.")
    ] = None,
    types: Annotated[list[EventType] | None, typer.Option("--type", help="Only events of this type.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MATCHER", help="Only these, such as 'data.status=~\"5..\"'. All given ones have to hold."
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="For the server.", envvar="CODOMYRMEX_TOKEN", metavar="TOKEN")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on after this event, if the server still has it.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whole events as JSON, one in a line, for other programs.")
    ] = False,
    count: Annotated[int | None, typer.Option(help="End after so many events.", min=1)] = None,
) -> None:
    """Show the events of a server as they happen, until Ctrl-C.

    In a terminal a line has the time, the type, the topic and as much of the payload as there is room for;
    --json gives all. After a break it connects again, goes on after the last event, and says so on stderr,
    also where the server does not have all that came meanwhile. Exit code 0, also for Ctrl-C, and 1 if the
    server refuses, or cannot be reached at first.
    """
    passes = condition(EVERYTHING, read_matchers(where or []))
    wanted = frozenset(types or ())
    source = _source(url, topic, token, since)
    write = _write_json if as_json else _line_writer(out())

    async def follow() -> None:
        left = count
        # To leave a loop early would leave the connection open: closed before the client is.
        async with source, aclosing(source.events()) as events:
            async for event in events:
                if (wanted and event.type not in wanted) or not (passes is None or passes(event)):
                    continue
                write(event)
                if left is not None:
                    left -= 1
                    if left == 0:
                        return

    _run(follow)
    if source.invalid:
        say(f"{counted(source.invalid, 'event')} could not be read", "yellow")


def _source(url: str, topic: str | None, token: str | None, since: str | None) -> EventSource:
    for option, value in (("--token", token), ("--since", since)):
        if value is not None and not (value.isascii() and value.isprintable() and value.strip()):
            raise typer.BadParameter("it is not empty, and has only printable ASCII", param_hint=option)
    try:
        if topic is not None:
            check_pattern(topic)
    except TopicError as error:
        raise typer.BadParameter(str(error), param_hint="--topic") from None
    try:
        return EventSource(url, topic=topic, token=token, last_event_id=since, tell=_Connection().tell)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from None


def _run(follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it to its end, and make of how it ends an exit code."""
    try:
        asyncio.run(follow())
        sys.stdout.flush()
    except KeyboardInterrupt:  # it is how a tail ends
        pass
    except BrokenPipeError:  # as with `| head`; what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RefusedError, _NotReachedError) as error:
        message = shown(str(error))
        if "text/html" in message:
            message += "; the events of a live page are below it, at api/events"
        say(message, "red")
        raise typer.Exit(PROBLEMS) from None


class _NotReachedError(Exception):
    """The server was never there: the address is wrong, more likely than not."""


class _Connection:
    """Tells of breaks and what comes after them."""

    def __init__(self) -> None:
        self._was_there = False
        self._lost_at: float | None = None

    def tell(self, what: str, details: Mapping[str, Any]) -> None:
        if what == "lost":
            why = _BROKEN.get(details["why"], details["why"])
            if not self._was_there:
                raise _NotReachedError(why)
            say(f"connection lost: {why}; trying again in {details['seconds']:.1f} s", "yellow")
            self._lost_at = self._lost_at or time.monotonic()
        elif what == "connected":
            if self._lost_at is not None:
                say(f"connected again after {time.monotonic() - self._lost_at:.1f} s", "green")
            self._was_there, self._lost_at = True, None
        elif what == "missed":
            gone = shown(str(details["requested"]))
            follows = "what it still has follows" if details.get("first_available") else "it has no other now"
            say(f"events may be missing: the server does not have event {gone} any more; {follows}", "yellow")


def _write_json(event: Event) -> None:
    sys.stdout.write(f"{to_json(event.to_dict())}\n")
    sys.stdout.flush()


def _line_writer(console: Console) -> Tell:
    """Make a function that writes an event in a line: as wide as the terminal, whole where it is piped."""
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else None

    def write(event: Event) -> None:
        payload = event.data if isinstance(event.data, str) else to_json(event.data)
        if width is not None:
            payload = payload[:_TOO_MUCH]
        line = Text.assemble(
            (f"{event.timestamp.astimezone():%H:%M:%S}.{event.timestamp.microsecond // 1000:03d} ", "dim"),
            (f"{event.type.value:<9} ", _STYLES.get(event.type, "green")),
            (f"{shown(event.topic or str(event.metadata.get('event', '-')))}  ", "cyan"),
            shown(payload),
        )
        if width is not None:
            line.truncate(width, overflow="ellipsis")
        # One write of a plain line, so that a broken pipe is for us to see and not for the console.
        with console.capture() as captured:
            console.print(line, soft_wrap=True)
        sys.stdout.write(captured.get())
        sys.stdout.flush()

    return write
