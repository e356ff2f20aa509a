"""The command `store`: what it shows of a store, what it changes, and its errors."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.streaming import Event, create_event
from helpers import until
from typer.testing import CliRunner, Result

ONCE = DeliveryPolicy(max_attempts=1, batch_size=1, batch_age=0)


class Files:
    """SQLite stores in a folder, and the command."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.path = folder / "events.db"
        self.url = f"sqlite:///{self.path}"
        self._monkeypatch = monkeypatch

    def store(self, *arguments: str, code: int = 0, url: str | None = None, **environ: str) -> Result:
        url = self.url if url is None else url
        self._monkeypatch.delenv("CODOMYRMEX_STORE", raising=False)
        everything = ["store", *([url] if url else []), *arguments]
        result = CliRunner().invoke(app, everything, env={"COLUMNS": "200", **environ})
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def json(self, *arguments: str, **options: Any) -> Any:
        return json.loads(self.store(*arguments, "--json", **options).stdout)

    def tail(self, *arguments: str, **options: Any) -> list[Any]:
        lines = self.store("tail", *arguments, "--json", **options).stdout.splitlines()
        return [json.loads(line)["data"] for line in lines]

    def fill(self, *payloads: Any, topic: str = "orders", name: str = "events") -> None:
        async def publish(stream: DurableStream) -> None:
            for payload in payloads:
                await stream.publish(create_event(payload, topic=topic))

        self.use(publish, name)

    def use(self, work: Callable[[DurableStream], Coroutine[Any, Any, None]], name: str = "events") -> None:
        async def run() -> None:
            async with DurableStream(SQLiteStore(self.path), name) as stream:
                await work(stream)

        asyncio.run(run())

    def read(self, group: str, *, failing: tuple[Any, ...] = (), count: int = 0) -> list[Any]:
        """Let a group read what there is for it; its handler raises on some payloads."""
        received: list[Any] = []

        async def work(stream: DurableStream) -> None:
            def handle(event: Event) -> None:
                received.append(event.data)
                if event.data in failing:
                    raise RuntimeError("no stock")

            await stream.subscribe(handle, group=group, after="earliest", policy=ONCE)
            await until(lambda: len(received) >= count)
            place = {g.name: g.lag for g in await stream.groups()}
            while place[group]:
                await asyncio.sleep(0.01)
                place = {g.name: g.lag for g in await stream.groups()}

        self.use(work)
        return received


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(tmp_path, monkeypatch)


# Looking


def test_info_shows_each_stream_of_a_store(files: Files) -> None:
    files.fill(1, 2, 3)
    files.fill(1, name="audit")
    info = files.json("info")
    assert info["store"] == files.url
    assert [(each["name"], each["events"], each["dead"]) for each in info["streams"]] == [
        ("audit", 1, 0),
        ("events", 3, 0),
    ]
    assert files.json("info", "--name", "audit")["streams"] == info["streams"][:1]
    table = files.store("info").stdout
    assert "audit" in table
    assert info["streams"][1]["last"] in table


def test_tail_shows_the_newest_events_or_those_after_a_cursor(files: Files) -> None:
    files.fill(*range(20))
    files.fill("a", topic="users")
    assert files.tail() == [*range(11, 20), "a"]
    assert files.tail("--limit", "2") == [19, "a"]
    assert files.tail("--limit", "0") == []
    assert files.tail("--topic", "orders", "--limit", "1") == [19]
    assert files.tail("--after", "earliest", "--limit", "2") == [0, 1]
    cursors = [json.loads(line)["cursor"] for line in files.store("tail", "--json").stdout.splitlines()]
    assert files.tail("--after", cursors[-2]) == ["a"]
    line = files.store("tail", "--limit", "1").stdout
    assert line.startswith(cursors[-1])
    assert "users" in line


def test_tail_finds_rare_events_far_from_the_end(files: Files) -> None:
    files.fill("rare", topic="users")
    files.fill(*range(1_200))
    assert files.tail("--topic", "users") == ["rare"]


def test_groups_shows_how_far_each_is_behind(files: Files) -> None:
    files.fill(1)
    assert files.json("groups") == []
    assert files.read("mail", count=1) == [1]
    files.fill(2, 3)
    (group,) = files.json("groups")
    assert (group["name"], group["lag"], group["missed"], group["dead"]) == ("mail", 2, 0, 0)
    assert group["lag_seconds"] > 0
    assert "mail" in files.store("groups").stdout


def test_dead_shows_what_was_given_up_and_why(files: Files) -> None:
    assert files.fill(1, 2, 3) is None
    files.read("mail", failing=(2,), count=3)
    (letter,) = files.json("dead")
    assert (letter["group"], letter["event"]["data"], letter["attempts"]) == ("mail", 2, 1)
    assert "no stock" in letter["reason"]
    assert "there is no such group" in files.store("dead", "other", code=1).stderr
    assert "no stock" in files.store("dead", "mail", "--limit", "1").stdout


def test_verify_finds_missing_and_damaged_entries(files: Files) -> None:
    files.fill(1, 2, 3, 4)
    assert files.json("verify") == {"ok": True, "stream": "events", "problems": []}
    with sqlite3.connect(files.path) as connection:
        connection.execute("DELETE FROM entries WHERE position = 2")
        connection.execute("UPDATE entries SET value = X'7B' WHERE position = 3")
    connection.close()
    found = files.json("verify", code=1)
    assert not found["ok"]
    assert len(found["problems"]) == 2
    assert "3" in files.store("verify", code=1).stderr
    assert files.tail() == [1, 4]


def test_a_command_that_reads_creates_nothing(files: Files) -> None:
    for command in ("info", "tail", "groups", "dead", "verify"):
        assert "there is no such file" in files.store(command, code=1).stderr
    assert list(files.folder.iterdir()) == []
    files.path.touch()
    assert "it holds no store" in files.store("info", code=1).stderr
    assert files.path.read_bytes() == b""


# The store and the stream


def test_the_url_may_come_from_the_environment_and_name_variables(files: Files) -> None:
    files.fill(1)
    assert files.tail(url="", CODOMYRMEX_STORE=files.url) == [1]
    assert files.tail(url="sqlite:///${FOLDER}/events.db", FOLDER=str(files.folder)) == [1]
    assert files.tail(url="", CODOMYRMEX_STORE="sqlite:///${FOLDER}/events.db", FOLDER=str(files.folder)) == [
        1
    ]


@pytest.mark.parametrize(
    ("arguments", "url", "code", "message"),
    [
        (["info"], "", 2, "CODOMYRMEX_STORE"),
        (["info"], "ftp://host/x", 2, "must start with sqlite://"),
        (["info"], "sqlite:///${NOT_SET}", 2, "NOT_SET is not set"),
        (["info"], "sqlite:///x.db?mode=ro", 2, "unknown parameter"),
        (["tail", "--topic", "a..b"], None, 2, "topic"),
        (["tail", "--after", "nonsense"], None, 1, "must be a cursor"),
        (["tail", "--after", "other:1"], None, 1, "is not a position of this log"),
        (["tail", "--name", "nope"], None, 1, "there is no stream 'nope'; there are: events"),
        (["seek", "nobody", "end", "--yes"], None, 1, "there is no such group"),
        (["seek", "mail", "nonsense", "--yes"], None, 1, "must be a cursor"),
        (["delete", "nobody", "--yes"], None, 1, "there is no such group"),
        (["replay", "nobody"], None, 1, "there is no such group"),
        (["drop", "nobody", "--yes"], None, 1, "there is no such group"),
        (["trim", "--yes"], None, 2, "is required"),
        (["trim", "--max-size", "many", "--yes"], None, 2, "a size like 10MB"),
        (["trim", "--max-age", "0s", "--yes"], None, 2, "greater than 0"),
        (["copy", "sqlite:///x.db"], "", 2, "TO"),
    ],
)
def test_a_mistake_is_a_sentence(
    files: Files, arguments: list[str], url: str | None, code: int, message: str
) -> None:
    files.fill(1)
    files.read("mail", count=1)
    result = files.store(*arguments, code=code, url=url)
    assert message in result.output


def test_more_events_can_be_asked_for_than_there_are(files: Files) -> None:
    files.fill(1, 2)
    assert files.tail("--limit", str(10**30)) == [1, 2]


def test_an_error_is_json_if_the_result_would_be(files: Files) -> None:
    answer = files.json("groups", code=1)
    assert answer["ok"] is False
    assert "there is no such file" in answer["errors"][0]["message"]


def test_the_only_stream_of_a_store_needs_no_name(files: Files) -> None:
    files.fill(1, name="audit")
    assert files.tail() == [1]
    files.fill(2, name="other")
    assert "choose one of audit, other" in files.store("tail", code=2).stderr
    files.fill(3)
    assert files.tail() == [3]


def test_a_damaged_file_is_a_sentence(files: Files) -> None:
    files.path.write_bytes(b"no database" * 100)
    assert "not a SQLite database" in files.store("info", code=1).stderr


# Changing


def test_replay_delivers_dead_letters_again(files: Files) -> None:
    files.fill(1, 2)
    files.read("mail", failing=(1, 2), count=2)
    assert "2 dead letters will be delivered again" in files.store("replay").stderr
    assert files.json("dead") == []
    assert files.read("mail", count=2) == [1, 2]


def test_drop_forgets_dead_letters(files: Files) -> None:
    files.fill(1)
    files.read("mail", failing=(1,), count=1)
    assert "1 dead letter dropped" in files.store("drop", "mail", "--yes").stderr
    assert files.json("dead") == []
    assert "0 dead letters dropped" in files.store("drop").stderr  # there is nothing to confirm


@pytest.mark.parametrize(
    ("cursor", "expected"), [("earliest", [1, 2, 3]), ("end", [])], ids=["earliest", "end"]
)
def test_seek_lets_a_group_continue_from_another_place(
    files: Files, cursor: str, expected: list[int]
) -> None:
    files.fill(1)
    files.read("mail", count=1)
    files.fill(2, 3)
    files.store("seek", "mail", cursor, "--yes")
    assert files.read("mail", count=len(expected)) == expected


def test_delete_removes_a_group(files: Files) -> None:
    files.fill(1)
    files.read("mail", count=1)
    files.store("delete", "mail", "--yes")
    assert files.json("groups") == []


def test_trim_keeps_what_a_group_has_not_read_unless_told_otherwise(files: Files) -> None:
    files.fill(1, 2)
    files.read("mail", count=2)
    files.fill(3, 4, 5)
    assert "2 events removed" in files.store("trim", "--max-events", "1", "--yes").stderr
    assert files.tail() == [3, 4, 5]
    assert "2 events removed" in files.store("trim", "--max-events", "1", "--unread", "--yes").stderr
    (group,) = files.json("groups")
    assert group["missed"] == 2
    assert "0 events removed" in files.store("trim", "--max-age", "1h", "--max-size", "1GB", "--yes").stderr


@pytest.mark.parametrize(
    "command", [["drop"], ["seek", "mail", "end"], ["delete", "mail"], ["trim", "--max-events=1"]]
)
def test_what_cannot_be_undone_is_not_done_without_a_terminal_and_without_yes(
    files: Files, command: list[str]
) -> None:
    files.fill(1)
    files.read("mail", failing=(1,), count=1)
    files.fill(2)
    before = (files.json("groups")[0]["position"], files.json("dead"), files.tail())
    assert "--yes" in files.store(*command, code=2).stderr
    assert (files.json("groups")[0]["position"], files.json("dead"), files.tail()) == before
