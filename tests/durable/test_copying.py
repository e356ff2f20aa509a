"""Copying a stream from a store to another, of each kind: events, groups, places and dead letters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.durable import (
    DurableStream,
    Retention,
    SQLiteStore,
    Store,
    StoreError,
    StreamAdmin,
)
from codomyrmex.integrations.durable.copying import copy_stream
from codomyrmex.streaming import Event, create_event
from durable.stores import Place, leaks
from helpers import until
from typer.testing import CliRunner

ONCE = DeliveryPolicy(max_attempts=1, batch_size=1, batch_age=0)


async def fill(store: Store) -> None:
    """Publish ten events, of which a group gives up the fifth, and two more; remove the first."""
    received: list[int] = []

    def handle(event: Event) -> None:
        received.append(event.data)
        if event.data == 5:
            raise RuntimeError("no stock")

    async with DurableStream(store) as stream:
        await stream.subscribe(handle, group="mail/é", after="earliest", policy=ONCE)
        for number in range(1, 11):
            await stream.publish(create_event(number, topic="orders"))
        await until(lambda: len(received) == 10)
        await until_read(stream)
    async with DurableStream(store) as stream:
        for number in (11, 12):
            await stream.publish(create_event(number, topic="orders"))
        await stream.call(stream.admin.trim(Retention(max_events=11), unread=False))


async def until_read(stream: DurableStream) -> None:
    while any(group.lag for group in await stream.groups()):
        await asyncio.sleep(0.01)


async def describe(admin: StreamAdmin) -> Any:
    groups = [(group.name, group.lag, group.missed, group.dead) for group in await admin.groups()]
    letters = [(letter.group, letter.reason, letter.event) for letter in await admin.letters()]
    return [record.event for record in await admin.read("earliest", 100)], groups, letters


async def test_a_copy_has_the_events_the_groups_and_the_dead_letters(store: Store, tmp_path: Path) -> None:
    original = SQLiteStore(tmp_path / "original.db")
    await fill(original)
    async with original, SQLiteStore(tmp_path / "back.db") as back:
        admin = StreamAdmin(original, "events")
        expected = await describe(admin)
        assert [event.data for event in expected[0]] == list(range(2, 13))
        assert expected[1] == [("mail/é", 2, 0, 1)]
        copied = await copy_stream(admin, store, "me")
        assert (copied.events, copied.dead, copied.groups) == (11, 1, ("mail/é",))
        assert await describe(StreamAdmin(store, "events")) == expected
        await copy_stream(StreamAdmin(store, "events"), back, "me")
        assert await describe(StreamAdmin(back, "events")) == expected


async def test_a_group_goes_on_in_the_copy_where_it_was(place: Place, tmp_path: Path) -> None:
    original = SQLiteStore(tmp_path / "original.db")
    await fill(original)
    async with original, place.store() as store:
        await copy_stream(StreamAdmin(original, "events"), store, "me")
    received: list[int] = []
    async with DurableStream(place.store()) as stream:
        await stream.subscribe(lambda event: received.append(event.data), group="mail/é", policy=ONCE)
        await stream.call(stream.admin.replay("mail/é", "me"))
        await until(lambda: len(received) == 3)
    assert received == [11, 12, 5]


async def test_a_copy_that_was_interrupted_continues(store: Store, tmp_path: Path) -> None:
    original = SQLiteStore(tmp_path / "original.db")
    async with DurableStream(original) as stream:
        await asyncio.gather(*(stream.publish(create_event(number)) for number in range(1_200)))

    def interrupt(_log: str, copied: int, _total: int) -> None:
        if copied == 500:
            raise KeyError(copied)

    async with original:
        admin = StreamAdmin(original, "events")
        with pytest.raises(KeyError):
            await copy_stream(admin, store, "me", interrupt)
        steps: list[int] = []
        copied = await copy_stream(admin, store, "me", lambda _log, done, _total: steps.append(done))
        assert (copied.events, steps[0]) == (1_200, 1_000)
        records = await StreamAdmin(store, "events").read("earliest", 2_000)
        assert [record.event.data for record in records] == list(range(1_200))


@pytest.mark.parametrize("change", ["other", "more", "complete"])
async def test_a_target_with_another_stream_is_refused(tmp_path: Path, change: str) -> None:
    original, target = SQLiteStore(tmp_path / "original.db"), SQLiteStore(tmp_path / "target.db")
    await fill(original)

    def interrupt(*_: object) -> None:
        raise KeyError

    async with original, target:
        admin = StreamAdmin(original, "events")
        if change == "complete":
            await copy_stream(admin, target, "me")
        elif change == "more":
            with pytest.raises(KeyError):
                await copy_stream(admin, target, "me", interrupt)
        if change != "complete":
            async with DurableStream(SQLiteStore(tmp_path / "target.db")) as stream:
                await stream.publish(create_event("other"))
        before = await StreamAdmin(target, "events").read("earliest", 100)
        with pytest.raises(StoreError, match=r"already has a stream 'events'|is not a part of"):
            await copy_stream(admin, target, "me")
        assert await StreamAdmin(target, "events").read("earliest", 100) == before


async def test_one_process_copies_at_a_time(tmp_path: Path) -> None:
    original, target = SQLiteStore(tmp_path / "original.db"), SQLiteStore(tmp_path / "target.db")
    await fill(original)
    async with original, target:
        await target.acquire("events/copy", "another", 10.0)
        with pytest.raises(StoreError, match="another process is copying"):
            await copy_stream(StreamAdmin(original, "events"), target, "me")


def test_the_commands_work_on_each_kind_of_store_and_show_no_password(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SQLiteStore(tmp_path / "original.db")
    asyncio.run(fill(original))
    monkeypatch.setenv("TARGET", place.url)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["store", *arguments], env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        assert not leaks(result.output)
        return result.output

    assert "copied: 11 events, 1 group, 1 dead letter" in run("copy", original.url, "${TARGET}")
    assert "already has a stream" in run("copy", original.url, "${TARGET}", code=1)
    assert "1 stream" in run("${TARGET}", "info")
    assert "orders" in run("${TARGET}", "tail")
    assert "mail/é" in run("${TARGET}", "groups")
    assert "no stock" in run("${TARGET}", "dead")
    assert "no problems" in run("${TARGET}", "verify")
    assert "will be delivered again" in run("${TARGET}", "replay")
    assert "continue" not in run("${TARGET}", "seek", "mail/é", "end", "--yes")
    assert "11 events removed" in run("${TARGET}", "trim", "--max-events", "1", "--yes")
    assert "was deleted" in run("${TARGET}", "delete", "mail/é", "--yes")
