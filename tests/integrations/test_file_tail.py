"""`FileTail`: every line once, whatever happens to the file between two looks or while no one reads it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from codomyrmex.integrations.service_mesh.tail import FileTail


def write(path: Path, *lines: str, mode: str = "a") -> None:
    with path.open(mode, encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def read(tail: FileTail) -> list[str]:
    lines: list[str] = []
    while more := tail.lines():
        lines += [line.decode() for line in more]
    return lines


def run(path: Path, position: Path) -> list[str]:
    """Read what is new, as a program that runs for a moment."""
    tail = FileTail(path, position=position, from_start=False)
    lines = read(tail)
    tail.save()
    tail.close()
    return lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


@pytest.fixture
def position(tmp_path: Path) -> Path:
    return tmp_path / "a.log.position"


@pytest.mark.parametrize("count", [1, 4, 20, 500])
def test_another_file_with_the_same_inode_is_read_from_its_beginning(log, position, count):
    write(log, "old one", "old two")
    assert run(log, position) == ["old one", "old two"]
    expected = [f"new {number}" for number in range(count)]
    write(log, *expected, mode="w")  # the inode stays
    assert run(log, position) == expected


def test_a_file_that_begins_like_the_one_before_is_recognized_by_the_bytes_before_the_position(log, position):
    header = ["#" * 2_000]
    write(log, *header, *(f"old {number:04}" for number in range(400)))
    run(log, position)
    new = [*header, *(f"new {number:04}" for number in range(500))]
    write(log, *new, mode="w")
    assert run(log, position) == new


def test_a_file_that_grew_is_read_on(log, position):
    for number in range(5):
        write(log, f"line {number}")
        assert run(log, position) == [f"line {number}"]
    assert run(log, position) == []


@pytest.mark.parametrize("suffix", [".{}", "-2026112{}", ".2026-11-2{}_10-00"])
def test_rotations_while_no_one_reads_lose_nothing(log, position, tmp_path, suffix):
    numbered = suffix == ".{}"
    write(log, "1", "2")
    assert run(log, position) == ["1", "2"]
    write(log, "3")
    log.rename(tmp_path / f"a.log{suffix.format(3 if numbered else 1)}")
    write(log, "4")
    log.rename(tmp_path / f"a.log{suffix.format(2)}")
    write(log, "5")
    log.rename(tmp_path / f"a.log{suffix.format(1 if numbered else 3)}")
    write(log, "6")
    assert run(log, position) == ["3", "4", "5", "6"]
    assert run(log, position) == []


def test_rotations_while_no_one_reads_and_the_inode_is_used_again_lose_nothing(log, position, tmp_path):
    write(log, "1", "2")
    run(log, position)
    inode = log.stat().st_ino
    write(log, "3")
    shutil.copy(log, tmp_path / "a.log.1")
    write(log, "four", "five", "six", mode="w")
    assert log.stat().st_ino == inode
    assert run(log, position) == ["3", "four", "five", "six"]


def test_a_file_that_was_empty_when_it_was_left_is_found_after_its_rotation(log, position, tmp_path):
    log.touch()
    assert run(log, position) == []
    write(log, "1")
    log.rename(tmp_path / "a.log.1")
    write(log, "2")
    assert run(log, position) == ["1", "2"]


def test_two_rotations_within_one_look_lose_nothing(log, tmp_path):
    tail = FileTail(log, position=None, from_start=True)
    write(log, "1")
    assert read(tail) == ["1"]
    write(log, "2")
    log.rename(tmp_path / "a.log.2")
    write(log, "3")
    log.rename(tmp_path / "a.log.1")
    write(log, "4")
    assert read(tail) == ["2", "3", "4"]
    tail.close()


def test_a_copied_and_truncated_file_is_read_on_in_its_copy(log, tmp_path):
    tail = FileTail(log, position=None, from_start=True)
    write(log, "1")
    assert read(tail) == ["1"]
    write(log, "2")
    shutil.copy(log, tmp_path / "a.log.1")
    write(log, "3, which makes it longer than it was", mode="w")
    assert read(tail) == ["2", "3, which makes it longer than it was"]
    write(log, "4")
    assert read(tail) == ["4"]
    tail.close()


def test_other_files_beside_it_are_not_read(log, position, tmp_path):
    for name in ("a.log.position.1", "a.log.1.gz", "b.log.1", "a.log.bak", "a.logs"):
        write(tmp_path / name, "other")
    write(log, "1")
    assert run(log, position) == ["1"]
    log.unlink()
    write(log, "one", "two")
    assert run(log, position) == ["one", "two"]


def test_a_lost_rest_is_logged(log, position, caplog):
    write(log, "1", "2")
    run(log, position)
    log.unlink()
    write(log, "three")
    assert run(log, position) == ["three"]
    assert "was not found" in caplog.text


def test_a_position_of_an_older_version_is_still_read(log, position):
    write(log, "1", "2")
    position.write_text(json.dumps({"inode": log.stat().st_ino, "offset": 2}), encoding="utf-8")
    assert run(log, position) == ["2"]


@pytest.mark.parametrize(
    "saved",
    [
        '{"inode": 1, "offset": -2}',
        '{"inode": "1", "offset": 2}',
        "[]",
        '{"inode": 1, "offset": null}',
        "\udcff",
    ],
)
def test_a_position_that_cannot_be_read_is_as_none(log, position, saved):
    write(log, "1", "2")
    position.write_bytes(saved.encode("utf-8", "surrogateescape"))
    assert run(log, position) == ["1", "2"]


def test_an_earlier_position_can_be_saved_once_its_lines_have_been_processed(log, position):
    write(log, "1")
    tail = FileTail(log, position=position, from_start=False)
    read(tail)
    processed = tail.position()
    write(log, "2")
    assert read(tail) == ["2"]
    tail.save(processed)
    tail.close()
    assert run(log, position) == ["2"]


def test_a_byte_order_mark_is_not_part_of_the_first_line(log, position):
    log.write_bytes(b'\xef\xbb\xbf{"n":1}\n\xef\xbb\xbf2\n')
    assert run(log, position) == ['{"n":1}', "\ufeff2"]


def test_a_named_pipe_or_a_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, problem in ((tmp_path / "pipe", "pipe"), (tmp_path, "directory")):
        with pytest.raises(OSError, match=f"must be a regular file, is a .*{problem}"):
            FileTail(path, position=None, from_start=True)


def test_a_file_that_cannot_be_read_for_a_while_is_logged_and_read_later(log, tmp_path, caplog):
    tail = FileTail(log, position=None, from_start=True)
    log.mkdir()
    assert read(tail) == []
    assert "cannot be read" in caplog.text
    log.rmdir()
    write(log, "1")
    assert read(tail) == ["1"]
    tail.close()
