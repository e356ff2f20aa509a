"""`codomyrmex-streaming store info`, `groups`, `dead` and `verify`: they change nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from codomyrmex.integrations.cli.arguments import AsJson
from codomyrmex.integrations.cli.output import (
    PROBLEMS,
    Row,
    plural,
    print_json,
    print_message,
    print_table,
    printable,
    stderr,
)
from codomyrmex.integrations.cli.store_access import Name, opened, run, select, selected, stream_names
from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.entries import StoredLetter, format_cursor
from codomyrmex.integrations.durable.saved_groups import GroupInfo
from codomyrmex.streaming.encoding import to_json

_PAYLOAD = 200  # characters of a dead letter's payload
_MEGABYTE = 1_000_000


def info(ctx: typer.Context, *, name: Name = None, as_json: AsJson = False) -> None:
    """Show the streams of a store: how many events they hold, from when, and who reads them."""

    async def read() -> tuple[str, tuple[str, ...], list[dict[str, Any]]]:
        async with opened(ctx.obj) as store:
            if name is None:
                streams = [StreamAdmin(store, each) for each in await stream_names(store)]
            else:
                streams = [await select(store, name)]
            return store.url, store.warnings, [await _describe(stream) for stream in streams]

    url, warnings, streams = run(read, as_json=as_json)
    if as_json:
        print_json({"store": url, "warnings": list(warnings), "streams": streams})
        return
    print_message(f"{url}: {plural(len(streams), 'stream')}")
    for warning in warnings:
        print_message(f"  {warning}", "yellow")
    names = ["stream", "events", "size", "oldest", "newest", "groups", "dead", "first", "last"]
    rows = []
    for stream in streams:
        size = f"{stream['size'] / _MEGABYTE:,.1f} MB"
        cells = [stream["name"], f"{stream['events']:,}", size, stream["oldest"] or "-"]
        cells += [stream["newest"] or "-", str(stream["groups"]), f"{stream['dead']:,}"]
        rows.append(Row(cells, [stream["first"], stream["last"]]))
    print_table(names, rows)


async def _describe(stream: StreamAdmin) -> dict[str, Any]:
    bounds = await stream.bounds()
    times = [await _time_after(stream, cursor) for cursor in (bounds.first, _before(bounds.last))]
    return {
        "name": stream.name,
        "events": bounds.events,
        "size": bounds.size,
        "first": bounds.first,
        "last": bounds.last,
        "oldest": times[0],
        "newest": times[1],
        "groups": len(await stream.saved_groups()),
        "dead": len(await stream.letters()),
    }


def _before(cursor: str) -> str:
    epoch, _, position = cursor.partition(":")
    return format_cursor(epoch, max(0, int(position) - 1))


async def _time_after(stream: StreamAdmin, cursor: str) -> str | None:
    """Return when the first event after a cursor was stored."""
    entries = await stream.store.read(stream.name, int(cursor.partition(":")[2]), 1)
    return _iso(entries[0].time) if entries else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def groups(ctx: typer.Context, *, name: Name = None, as_json: AsJson = False) -> None:
    """Show who reads a stream, up to where that was delivered, and how far behind they are."""

    async def read() -> list[GroupInfo]:
        async with selected(ctx, name) as stream:
            return await stream.groups()

    found = run(read, as_json=as_json)
    if as_json:
        print_json([group._asdict() for group in found])
        return
    if not found:
        print_message("no groups")
    names = ["group", "topic", "lag", "behind", "missed", "dead", "read by", "delivered up to"]
    print_table(names, [_row(group) for group in found])


def _row(group: GroupInfo) -> Row:
    behind = str(Duration(round(group.lag_seconds))) if group.lag else "-"
    holders = printable(", ".join(group.holders)) or "-"
    cells = [printable(group.name), group.topic, f"{group.lag:,}", behind, f"{group.missed:,}"]
    return Row([*cells, f"{group.dead:,}"], [holders, group.position], "red" if group.missed else "")


def dead(
    ctx: typer.Context,
    group: Annotated[
        str | None, typer.Argument(metavar="GROUP", help="Only those of a group.", show_default=False)
    ] = None,
    *,
    limit: Annotated[int | None, typer.Option(help="At most this many, the newest.", min=1)] = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Show the events that were given up and neither replayed nor dropped, with the reason, oldest first."""

    async def read() -> list[StoredLetter]:
        async with selected(ctx, name) as stream:
            return await stream.letters(group)

    letters = run(read, as_json=as_json)
    if limit is not None:
        letters = letters[-limit:]
    if as_json:
        print_json([_letter_to_dict(letter) for letter in letters])
        return
    if not letters:
        print_message("no dead letters")
    rows = []
    for letter in letters:
        topic = "-" if letter.event is None else letter.event.topic or "-"
        payload = letter.entry.decode("utf-8", "replace")
        if letter.event is not None:
            payload = to_json(letter.event.data)
        cells = [_iso(letter.time), printable(letter.group), printable(topic), str(letter.attempts)]
        rows.append(Row(cells, [printable(letter.reason), printable(payload[:_PAYLOAD])]))
    print_table(["given up", "group", "topic", "attempts", "reason", "payload"], rows)


def _letter_to_dict(letter: StoredLetter) -> dict[str, Any]:
    event = None if letter.event is None else letter.event.to_dict()
    return {
        "position": letter.position,
        "group": letter.group,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "time": _iso(letter.time),
        "event": event,
        "entry": letter.entry.decode("utf-8", "replace") if event is None else None,
    }


def verify(ctx: typer.Context, *, name: Name = None, as_json: AsJson = False) -> None:
    """Read everything, and report what is missing or damaged. Exit code 1 if there is any problem."""

    async def read() -> tuple[str, list[str]]:
        async with selected(ctx, name) as stream:
            return stream.name, await stream.verify()

    stream, problems = run(read, as_json=as_json)
    if as_json:
        print_json({"ok": not problems, "stream": stream, "problems": problems})
    for problem in () if as_json else problems:
        stderr().print(printable(problem), style="red", soft_wrap=True)
    if problems:
        raise typer.Exit(PROBLEMS)
    if not as_json:
        print_message(f"{stream}: no problems", "green")
