"""`StateFile`: what is saved is there again; silences of others; and what may not be."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alert_channels import record_connections
from codomyrmex.integrations.notification import Silence, StateError, StateFile, parse_matchers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOW = 1_767_614_400.0
texts = st.text(st.characters(), max_size=20)  # with what UTF-8 cannot say
values = st.none() | st.dictionaries(texts, texts | st.floats(allow_nan=False) | st.lists(texts), max_size=3)
kinds = st.sampled_from(["alert", "group", "log"])


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def file(path) -> Iterator[StateFile]:
    file = StateFile(path)
    yield file
    file.close()


def silence(ends_at: float = NOW + 60, **options: Any) -> Silence:
    return Silence(tuple(parse_matchers('{team=~"a|b", x!=""}')), NOW, ends_at, "me", "why", **options)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(changes=st.lists(st.dictionaries(st.tuples(kinds, texts), values, max_size=5), max_size=4))
def test_saved_state_is_loaded_by_the_next_process(changes, tmp_path):
    path = tmp_path / "each.db"
    path.unlink(missing_ok=True)
    file, expected = StateFile(path), {}
    for each in changes:
        file.save(each)
        expected |= each
    file.close()
    again = StateFile(path)
    assert again.load() == {key: value for key, value in expected.items() if value is not None}
    again.close()


def test_a_save_is_all_or_nothing(path, monkeypatch):
    connections = record_connections(monkeypatch)
    file = StateFile(path)
    file.save({("alert", "a"): {"x": 1}})
    with pytest.raises(TypeError):
        file.save({("alert", "a"): None, ("alert", "b"): object()})
    [pages] = connections[0].execute("PRAGMA page_count").fetchone()
    connections[0].execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StateError, match=r"cannot be written: .*full"):
        file.save({("alert", "a"): None, ("alert", "b"): "x" * 100_000})
    assert file.load() == {("alert", "a"): {"x": 1}}
    file.save({("alert", "a"): {"x": 2}})
    assert file.load() == {("alert", "a"): {"x": 2}}
    file.close()


def test_silences_are_saved_with_all_their_fields(file):
    first, second = silence(), silence(NOW + 120)
    file.add_silence(first)
    file.add_silence(second)
    assert file.silences() == [second, first]


def test_a_silence_can_be_ended_once(file):
    mine = silence()
    file.add_silence(mine)
    ended = file.expire_silence(mine.id, NOW + 10)
    assert (ended.ends_at, ended.id) == (NOW + 10, mine.id)
    assert file.silences() == [ended]
    with pytest.raises(ValueError, match="has expired already"):
        file.expire_silence(mine.id, NOW + 20)
    with pytest.raises(KeyError):
        file.expire_silence("another", NOW)


def test_a_silence_that_has_not_begun_can_be_ended(file):
    mine = silence()
    file.add_silence(mine)
    assert file.expire_silence(mine.id, NOW - 100).ends_at == NOW - 100


def test_what_others_write_is_seen_and_what_one_has_written_oneself_is_not(file, path):
    assert not file.changed_by_others()
    file.add_silence(silence())
    assert not file.changed_by_others()
    other = StateFile(path)
    assert not file.changed_by_others()  # to open it and to look is no change
    other.silences()
    assert not file.changed_by_others()
    other.add_silence(silence())
    other.close()
    assert file.changed_by_others()
    assert not file.changed_by_others()


def test_one_process_sends_by_a_state_and_others_may_set_silences(file, path):
    file.claim()
    other = StateFile(path)
    with pytest.raises(StateError, match=f"in use by process {os.getpid()}; "):
        other.claim()
    other.add_silence(silence())
    file.close()
    other.claim()
    other.close()


def test_a_process_that_was_killed_holds_nothing(path):
    program = """
import os, signal, sys
from codomyrmex.integrations.notification import StateFile
file = StateFile(sys.argv[1])
file.claim()
file.save({("alert", "a"): {"x": 1}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=30)
    assert done.returncode == -9
    file = StateFile(path)
    file.claim()
    assert file.load() == {("alert", "a"): {"x": 1}}
    file.close()


def test_where_the_lock_cannot_be_made_it_is_an_error(file, path):
    Path(f"{path}.lock").mkdir()
    with pytest.raises(StateError, match="cannot be locked"):
        file.claim()


@pytest.mark.parametrize("content", [b"\0" * 5_000, b"SQLite format 3\0" + b"x" * 5_000])
def test_a_file_that_is_not_a_state_file_is_an_error(content, path):
    path.write_bytes(content)
    with pytest.raises(StateError, match="is not a state file of alerts or is damaged; move it away"):
        StateFile(path)


def test_a_silence_of_several_sets_is_loaded_as_it_was(file):
    sets = (tuple(parse_matchers('host="a", team="b"')), tuple(parse_matchers('zone!="eu"')))
    file.add_silence(silence(id="x", other_matchers=sets))
    [loaded] = file.silences()
    assert loaded == silence(id="x", other_matchers=sets)
    for labels, matches in (
        ({"host": "a"}, True),  # the last set
        ({"host": "a", "zone": "eu"}, False),
        ({"host": "a", "team": "b", "zone": "eu"}, True),
    ):
        assert loaded.silences({"x": "", **labels}, NOW) is matches


def test_a_file_of_another_format_is_an_error(path):
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=2")
    database.close()
    with pytest.raises(StateError, match="the format is 2, expected 1"):
        StateFile(path)


@pytest.mark.parametrize("version", [0, 1])
def test_the_database_of_another_program_is_an_error_and_unchanged(version, path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE users (name TEXT)")
    database.execute(f"PRAGMA user_version={version}")
    database.close()
    before = path.read_bytes()
    reason = "it has other tables: users" if version else "the format is 0, expected 1"
    for mode in ("ro", "rw", "rwc"):
        with pytest.raises(StateError, match=f"is not a state file of alerts .* {reason}"):
            StateFile(path, mode)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_table_of_the_same_name_does_not_make_a_state_file(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE state (name TEXT)")
    database.execute("PRAGMA user_version=1")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"is not a state file of alerts .* no such column"):
        StateFile(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_only_with_rwc_is_a_file_created_or_an_empty_one_used(mode, path):
    with pytest.raises(StateError, match=r"cannot be opened: .*No such file"):
        StateFile(path, mode)
    path.write_bytes(b"")
    with pytest.raises(StateError, match="is not a state file of alerts: it is empty"):
        StateFile(path, mode)
    assert path.read_bytes() == b""
    assert list(path.parent.iterdir()) == [path]
    StateFile(path).close()
    StateFile(path, mode).close()


def test_reading_a_state_writes_nothing_whether_it_is_in_use_or_not(path):
    file = StateFile(path)
    file.add_silence(silence(id="a"))
    reader = StateFile(path, "ro")
    assert [each.id for each in reader.silences()] == ["a"]
    with pytest.raises(StateError, match="cannot be written"):
        reader.add_silence(silence(id="b"))
    reader.close()
    file.close()
    before = {each: each.read_bytes() for each in path.parent.iterdir()}
    reader = StateFile(path, "ro")
    assert [each.id for each in reader.silences()] == ["a"]
    reader.close()
    assert {each: each.read_bytes() for each in path.parent.iterdir()} == before


def test_a_folder_is_not_a_state_file(tmp_path):
    with pytest.raises(StateError, match="cannot be opened"):
        StateFile(tmp_path)


def test_damaged_rows_are_errors(path, monkeypatch):
    connections = record_connections(monkeypatch)
    file = StateFile(path)
    [database] = connections
    database.execute("""INSERT INTO state VALUES ('silence', '"x"', '{"matchers": [["a", "=", 1]]}')""")
    with pytest.raises(StateError, match="cannot be read"):
        file.silences()
    database.execute("DROP TABLE state")
    for call in (file.load, file.silences):
        with pytest.raises(StateError, match="cannot be read"):
            call()
    with pytest.raises(StateError, match="cannot be written"):
        file.add_silence(silence())
    file.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("row", [("alert", '"a"', None), ("alert", None, "{}"), ("silence", '"a"', None)])
def test_rows_without_a_value_are_errors(row, path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE state (kind TEXT, key TEXT, value TEXT)")
        database.execute("INSERT INTO state VALUES (?, ?, ?)", row)
        database.execute("PRAGMA user_version=1")
    database.close()
    file = StateFile(path)
    with pytest.raises(StateError, match="cannot be read"):
        file.load()
        file.silences()
    file.close()


def test_a_forked_child_does_not_keep_the_lock(path):
    program = """
import os, sys
from codomyrmex.integrations.notification import StateFile
file = StateFile(sys.argv[1])
file.claim()
if os.fork() == 0:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print("forked", flush=True)
os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.read() == b"forked\n"
        parent.wait(10)
        file = StateFile(path)
        file.claim()  # though the child lives
        file.close()


# Links, rights, and files that disappear


def test_a_new_state_file_is_for_its_owner_only(file, path):
    file.claim()
    file.save({("alert", "a"): {}})
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["state.db", "state.db.lock"])
def test_a_link_is_not_followed(name, path, tmp_path):
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / name).symlink_to(other)
    with pytest.raises(StateError, match="is a symbolic link"):
        StateFile(path).claim()
    (tmp_path / name).unlink()
    os.link(other, tmp_path / name)
    with pytest.raises(StateError, match="has several hard links"):
        StateFile(path).claim()
    assert other.read_text() == "precious"


def test_a_path_through_a_linked_folder_is_the_same_file(file, path, tmp_path):
    file.claim()
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    other = StateFile(link / path.name)
    with pytest.raises(StateError, match="in use by process"):
        other.claim()
    other.close()


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_is_removed_is_noticed(what, file, path):
    path.rename(path.with_suffix(".old"))
    if what == "replaced":
        path.write_bytes(b"")
    for use in (file.changed_by_others, lambda: file.save({("alert", "a"): {}})):
        with pytest.raises(StateError, match=f"was {what} while it was in use"):
            use()
