"""`codomyrmex-streaming store tail`: the events of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Annotated

import typer
from codomyrmex.integrations.cli.events import line_writer, write_json
from codomyrmex.integrations.cli.output import stdout
from codomyrmex.integrations.cli.store_access import INTERRUPTED, Name, run, selected
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.entries import Record, format_cursor, parse_cursor
from codomyrmex.integrations.durable.tail import READ_LIMIT, Item
from codomyrmex.streaming import TopicError
from codomyrmex.streaming.topics import EVERYTHING, check_pattern, matches

_SHOWN = 10  # events, by default
_WAIT = 30.0  # seconds until the log is read again, in case the store did not say that it has grown


def tail(
    ctx: typer.Context,
    *,
    topic: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only events of these topics, such as 'orders.>'.")
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Begin after this cursor; `earliest` is the oldest event."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help=f"At most this many of the stored events: the newest, {_SHOWN} by default; "
            "with --after the first, all by default.",
            min=0,
            show_default=False,
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then show events as they are stored, until Ctrl-C.")
    ] = False,
    name: Name = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print whole events with their cursors, a line of JSON for each.")
    ] = False,
) -> None:
    """Show the newest events, or those after a cursor; each line begins with the cursor of its event."""
    try:
        pattern = check_pattern(topic) if topic is not None else EVERYTHING
    except TopicError as error:
        raise typer.BadParameter(str(error), param_hint="--topic") from None
    write = line_writer(stdout())

    def show(record: Record) -> None:
        if as_json:
            write_json(record.event, cursor=record.cursor)
        else:
            write(record.event, record.cursor)

    async def read() -> None:
        async with selected(ctx, name) as stream:
            log = await _Log.open(stream, pattern, show)
            if after is None:
                await log.show_newest(_SHOWN if limit is None else limit)
            else:
                await log.show_after(after, limit)
            if follow:
                await log.follow()

    try:
        run(read)
    except typer.Exit as ending:
        if not follow or ending.exit_code != INTERRUPTED:
            raise


class _Log:
    """The events of a stream that have a topic."""

    def __init__(self, stream: StreamAdmin, pattern: str, show: Callable[[Record], None], end: str) -> None:
        self._stream = stream
        self._pattern = pattern
        self._show = show
        self._epoch, self._end = parse_cursor(end)  # the position up to which the log has been read

    @classmethod
    async def open(cls, stream: StreamAdmin, pattern: str, show: Callable[[Record], None]) -> _Log:
        return cls(stream, pattern, show, (await stream.bounds()).last)

    async def show_newest(self, count: int) -> None:
        start, end = await self._stream.resolve("earliest"), self._end
        count = min(count, end - start)
        size = max(2 * count, READ_LIMIT)
        while True:
            records = deque([record async for record in self._after(max(start, end - size))], count)
            if len(records) >= count or end - size <= start:
                break
            size *= 8
        for record in records:
            self._show(record)

    async def show_after(self, cursor: str, limit: int | None) -> None:
        shown = 0
        async for record in self._after(await self._stream.resolve(cursor)):
            if shown == limit:
                return
            self._show(record)
            shown += 1

    async def follow(self) -> None:
        while True:
            await self._stream.store.wait(self._stream.name, self._end, _WAIT)
            async for record in self._after(self._end):
                self._show(record)

    async def _after(self, position: int) -> AsyncIterator[Record]:
        async for stored in self._stream.entries(self._stream.name, position):
            self._end = max(self._end, stored.position)
            record = self._record(Item(*stored))
            if record is not None:
                yield record

    def _record(self, item: Item) -> Record | None:
        """Return the event of an entry; None if it has another topic, is for a group, or is damaged."""
        event = item.event()
        if item.group is not None or event is None:
            return None
        if self._pattern != EVERYTHING and not matches(self._pattern, event.topic):
            return None
        return Record(format_cursor(self._epoch, item.position), event)
