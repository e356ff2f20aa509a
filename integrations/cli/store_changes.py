"""`codomyrmex-streaming store replay`, `drop`, `seek`, `delete`, `trim` and `copy`: they change a store."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from codomyrmex.integrations.cli.arguments import read_duration
from codomyrmex.integrations.cli.output import plural, print_message, stderr
from codomyrmex.integrations.cli.store_access import (
    Group,
    Name,
    Yes,
    confirm,
    opened,
    owner,
    run,
    select,
    selected,
)
from codomyrmex.integrations.durable.admin import StreamAdmin
from codomyrmex.integrations.durable.copying import Copied, copy_stream
from codomyrmex.integrations.durable.saved_groups import GroupInfo
from codomyrmex.integrations.durable.store import Retention
from codomyrmex.integrations.pipelines.parts import Size

_EveryGroup = Annotated[
    str | None, typer.Argument(metavar="GROUP", help="Only those of a group.", show_default=False)
]


def replay(ctx: typer.Context, group: _EveryGroup = None, *, name: Name = None) -> None:
    """Deliver dead letters again, each to the group that gave it up."""

    async def change() -> tuple[int, int]:
        async with selected(ctx, name) as stream:
            letters = await stream.letters(group)
            groups = [group] if group is not None else sorted({letter.group for letter in letters})
            return sum([await stream.replay(each, owner()) for each in groups]), len(letters)

    replayed, total = run(change)
    print_message(f"{plural(replayed, 'dead letter')} will be delivered again")
    if replayed < total:
        print_message(f"{total - replayed:,} cannot be: their entries are damaged", "yellow")


def drop(ctx: typer.Context, group: _EveryGroup = None, *, name: Name = None, yes: Yes = False) -> None:
    """Forget dead letters: they are neither shown nor delivered any more."""

    async def change() -> int:
        async with selected(ctx, name) as stream:
            letters = await stream.letters(group)
            groups = [group] if group is not None else sorted({letter.group for letter in letters})
            if letters:
                confirm(f"Drop {plural(len(letters), 'dead letter')} of {', '.join(groups)}?", yes=yes)
            return sum([await stream.drop(each, owner()) for each in groups])

    print_message(f"{plural(run(change), 'dead letter')} dropped")


def seek(
    ctx: typer.Context,
    group: Group,
    cursor: Annotated[
        str,
        typer.Argument(
            metavar="CURSOR", help="A cursor, as `tail` shows it, or `earliest` or `end`.", show_default=False
        ),
    ],
    *,
    name: Name = None,
    yes: Yes = False,
) -> None:
    """Let a group continue after a cursor. A process that reads it follows within seconds."""

    async def change() -> str:
        async with selected(ctx, name) as stream:
            after = None if cursor == "end" else cursor
            position, current = await stream.resolve(after), await _find(stream, group)
            skipped = position - int(current.position.partition(":")[2])
            if not skipped:
                consequence = "it is there already"
            elif skipped > 0:
                consequence = f"it will not receive the next {plural(skipped, 'event')}"
            else:
                consequence = f"it will receive {plural(-skipped, 'event')} again"
            confirm(f"Let group {group} continue after {cursor}? ({consequence})", yes=yes)
            await stream.seek(group, after, owner())
            return consequence

    print_message(f"group {group}: {run(change)}")


async def _find(stream: StreamAdmin, group: str) -> GroupInfo:
    await stream.saved_group(group)
    return next(each for each in await stream.groups() if each.name == group)


def delete(ctx: typer.Context, group: Group, *, name: Name = None, yes: Yes = False) -> None:
    """Delete a group that is not needed any more, such as that of a sink that was removed.

    Events that it has not read are no longer kept for it. Deleting the group of an alert sink also deletes
    its alerts, silences and notification log.
    """

    async def change() -> None:
        async with selected(ctx, name) as stream:
            lag = (await _find(stream, group)).lag
            confirm(f"Delete group {group}, which has not read {plural(lag, 'event')}?", yes=yes)
            await stream.delete_group(group, owner())

    run(change)
    print_message(f"group {group} was deleted")


def trim(
    ctx: typer.Context,
    *,
    max_events: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Keep this many events.", min=1)
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Keep events for this long, such as 7d.")
    ] = None,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Keep this much, such as 1GB.")] = None,
    unread: Annotated[
        bool, typer.Option("--unread", help="Also remove events that a group has not read.")
    ] = False,
    name: Name = None,
    yes: Yes = False,
) -> None:
    """Remove the oldest events beyond any of the limits. A running stream does this by its retention."""
    if max_events is None and max_age is None and max_size is None:
        raise typer.BadParameter("one of --max-events, --max-age and --max-size is required")
    age = math.inf if max_age is None else read_duration(max_age, "--max-age")
    try:
        size = math.inf if max_size is None else Size.parse(max_size)
        retention = Retention(max_events=max_events or math.inf, max_bytes=size, max_age=age)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--max-size") from None

    async def change() -> int:
        async with selected(ctx, name) as stream:
            events = (await stream.bounds()).events
            also = ", also those that a group has not read" if unread else ""
            question = f"Remove the events of {stream.name} beyond the limits{also}? It has {events:,} now."
            confirm(question, yes=yes)
            return await stream.trim(retention, unread=unread)

    print_message(f"{plural(run(change), 'event')} removed")


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The URL of a store.", show_default=False)],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="The URL of a store without the stream.", show_default=False)
    ],
    *,
    name: Name = None,
) -> None:
    """Copy a stream to another store, with its groups, dead letters, and the state of alert sinks.

    Stop the processes that use it first. A copy that was interrupted continues if the command is repeated.
    """

    async def change() -> Copied:
        async with opened(source, hint="FROM") as first:
            stream = await select(first, name)
            holders = {holder for group in await stream.groups() for holder in group.holders}
            if holders:
                message = f"{', '.join(sorted(holders))} still reads the stream: its progress may be missed"
                print_message(message, "yellow")
            async with opened(target, must_exist=False, hint="TO") as second:
                console = stderr()
                if not console.is_terminal:
                    return await copy_stream(stream, second, owner())
                with console.status("copying") as status:
                    return await copy_stream(
                        stream,
                        second,
                        owner(),
                        lambda log, done, total: status.update(f"{log}: {done:,} of {total:,}"),
                    )

    copied = run(change)
    parts = [plural(copied.events, "event"), plural(len(copied.groups), "group")]
    print_message(f"copied: {', '.join(parts)}, {plural(copied.dead, 'dead letter')}")
