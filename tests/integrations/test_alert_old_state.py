"""The state file of earlier versions: a shared state continues from it, exactly once."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from alert_channels import Inbox, ends, fires, routing, until
from codomyrmex.integrations import attach
from codomyrmex.integrations.durable import SQLiteStore, StoreConfigError
from codomyrmex.integrations.notification import (
    AlertEngine,
    AlertSink,
    Silence,
    load_alert_config,
    parse_matchers,
)
from codomyrmex.integrations.notification.alerts.old_state import find_old_state, move_old_state
from codomyrmex.integrations.notification.alerts.state_admin import StateAdmin, StateName
from codomyrmex.streaming import InMemoryStream
from codomyrmex.streaming.clock import SYSTEM_CLOCK
from helpers import in_time

QUICK = routing(route={"group_wait": "0s", "group_interval": "20ms"})
SILENCE = Silence(tuple(parse_matchers("a=b")), 1.0, 32_000_000_000.0, "ann", id="old")


def write_old(path: Path, state: Mapping[tuple[str, str], Any], *rows: tuple[Any, ...]) -> None:
    """Write a state file as earlier versions did."""
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE state (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
    )
    database.execute("PRAGMA user_version=1")
    database.execute("PRAGMA journal_mode=WAL")
    all_rows = [(kind, json.dumps(key), json.dumps(value)) for (kind, key), value in state.items()]
    with database:
        database.executemany("INSERT INTO state VALUES (?, ?, ?)", [*all_rows, *rows])
    database.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state file in which `disk` was notified, with a silence."""
    path = tmp_path / "state.db"
    now = SYSTEM_CLOCK.time()
    config = load_alert_config(
        {**QUICK, "receivers": [{"name": "ops", "apprise_configs": [{"url": "json://127.0.0.1/"}]}]}
    )
    engine = AlertEngine(config)
    alert = config.label_rules.alert_of(fires("disk"))
    assert alert is not None
    engine.observe([alert], now)
    [notification] = engine.due(now)
    engine.delivered(notification, now)
    engine.add_silence(SILENCE)
    write_old(path, engine.pop_changes())
    return path


def files(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()} - {"state.db-wal", "state.db-shm", "state.db.lock"}


def sink_at(path: Path, inbox: Inbox) -> AlertSink:
    return AlertSink({**QUICK, "state": {"url": str(path), "lease": "1s"}}, {"ops": inbox})


@in_time
async def test_a_new_version_continues_from_the_old_file_and_keeps_it_under_another_name(old):
    before, inbox, stream = old.read_bytes(), Inbox(), InMemoryStream()
    async with attach(stream, sink := sink_at(old, inbox)):
        assert await sink.silences() == [SILENCE]
        await stream.publish(fires("disk"))  # it was notified
        await stream.publish(fires("fan"))
        assert await inbox.wait_for(1) == ["firing: fan"]
        await stream.publish(ends("disk"))
        assert (await inbox.wait_for(2))[1] == "resolved: disk"
    assert files(old) == {"state.db", "state.db.migrated"}
    assert old.with_suffix(".db.migrated").read_bytes() == before


@in_time
async def test_an_emptied_state_does_not_continue_from_the_old_file_again(old):
    inbox, stream = Inbox(), InMemoryStream()
    async with attach(stream, sink_at(old, inbox)):
        pass
    for each in old.parent.glob("state.db*"):
        if each.name != "state.db.migrated":
            each.unlink()
    async with attach(stream, sink := sink_at(old, inbox)):
        assert await sink.silences() == await sink.groups() == []


@in_time
async def test_of_two_processes_that_start_at_once_one_continues_and_the_other_follows(old):
    inbox, streams = Inbox(), [InMemoryStream(), InMemoryStream()]
    sinks = [sink_at(old, inbox) for _ in streams]
    attachments = [attach(stream, sink) for stream, sink in zip(streams, sinks, strict=True)]
    await asyncio.gather(*(each.__aenter__() for each in attachments))
    try:
        for sink in sinks:
            while await sink.silences() != [SILENCE] or len(await sink.groups()) != 1:
                await asyncio.sleep(0.01)
    finally:
        await asyncio.gather(*(each.__aexit__(None, None, None) for each in attachments))
    assert files(old) == {"state.db", "state.db.migrated"}
    assert inbox.received == []


@in_time
async def test_a_process_that_was_killed_after_moving_the_file_is_continued_by_the_next_one(old):
    assert move_old_state(old) is not None  # and then it was killed
    assert files(old) == {"state.db.old"}
    async with attach(InMemoryStream(), sink := sink_at(old, Inbox())):
        assert await sink.silences() == [SILENCE]
    assert files(old) == {"state.db", "state.db.migrated"}


@in_time
async def test_a_process_that_was_killed_after_the_first_save_renames_the_file_later(old):
    moved = move_old_state(old)
    assert moved is not None
    content = moved.path.read_bytes()
    async with SQLiteStore(old) as store:
        admin = StateAdmin(store, StateName("alerts", "alerts"), "host:1#command", moved)
        await admin.expire_silence("old", SYSTEM_CLOCK.time())
    moved.path.write_bytes(content)  # as if it had not been renamed
    async with attach(InMemoryStream(), sink := sink_at(old, Inbox())):
        [silence] = await sink.silences()
        assert silence.ends_at < SILENCE.ends_at
        assert len(await sink.groups()) == 1
    assert files(old) == {"state.db", "state.db.migrated"}


def test_a_process_of_the_old_version_keeps_its_file(old):
    lock = old.with_name("state.db.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreConfigError) as caught:
            move_old_state(old)
    assert str(caught.value) == f"state: {old}: it is in use by a process of an older version; stop it first"
    assert files(old) == {"state.db"}


@in_time
async def test_a_damaged_file_is_said_and_nothing_is_lost_until_it_is_moved_away(old):
    with old.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100)
    inbox, stream = Inbox(), InMemoryStream()
    async with attach(stream, sink := sink_at(old, inbox)) as attachment:
        await stream.publish(fires("disk"))
        await until(lambda: "state" in sink.health())
        assert attachment.health()["alerts"].state.value == "degraded"
        [error] = [part.last_error for name, part in sink.health().items() if name == "state"]
        moved = old.with_name("state.db.old")
        problem = "it is damaged, database disk image is malformed; move it away to start without it"
        assert error == f"state: {moved}: {problem}"
        await asyncio.sleep(0.1)
        assert inbox.received == []
        moved.rename(old.with_name("elsewhere"))
        assert await inbox.wait_for(1) == ["firing: disk"]
        assert "state" not in sink.health()


def test_a_damaged_row_affects_only_itself(tmp_path):
    path = tmp_path / "state.db"
    rows = [("log", "{", "1"), ("alert", '"a"', None), ("group", '"g"', "[[["), ("silence", b"\xff", "1")]
    write_old(path, {("silence", "old"): SILENCE.to_dict()}, *rows)
    found = find_old_state(path)
    assert found is not None
    assert found.load() == {("silence", "old"): SILENCE.to_dict()}


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE orders (id); PRAGMA user_version=1",
        "CREATE TABLE state (kind, key, value); CREATE TABLE orders (id); PRAGMA user_version=1",
        "CREATE TABLE state (id); PRAGMA user_version=1",
        "CREATE TABLE state (kind, key, value); PRAGMA user_version=2",
    ],
)
def test_the_database_of_another_program_is_not_moved(script, tmp_path):
    path = tmp_path / "state.db"
    database = sqlite3.connect(path)
    database.executescript(script)
    database.close()
    before = path.read_bytes()
    assert move_old_state(path) is None
    assert path.read_bytes() == before
    assert files(path) == {"state.db"}


def test_reading_an_old_file_changes_nothing(old):
    before = {each.name: each.read_bytes() for each in old.parent.iterdir()}
    found = find_old_state(old)
    assert found is not None
    assert ("silence", "old") in found.load()
    assert {each.name: each.read_bytes() for each in old.parent.iterdir()} == before
    assert find_old_state(old.with_name("other.db")) is None
