"""The checker of histories: it accepts what may happen, and finds each thing that must not."""

from __future__ import annotations

import json
from itertools import count

import pytest
from durable.history import check, read_history, recording


class History:
    """Records whose operations follow each other, one a second, unless another time is given."""

    def __init__(self):
        self.records = []
        self.clock = count(1)

    def add(self, op, process="p", at=None, **fields):
        moment = next(self.clock) if at is None else at
        begin, end = moment if isinstance(moment, tuple) else (moment, moment + 0.5)
        self.records.append({"op": op, "process": process, "begin": begin, "end": end, **fields})
        return self

    def append(self, first, *values, log="log", acked=True, at=None):
        self.add("append", log=log, values=values, at=at)
        return self.add("acked", log=log, values=values, first=first, at=at) if acked else self

    def read(self, *entries, reader="r", log="log"):
        return self.add("read", log=log, reader=reader, entries=entries)

    def start(self, reader="r", after=0, log="log"):
        return self.add("start", log=log, reader=reader, after=after)

    def finished(self, reader="r", log="log"):
        return self.add("finished", log=log, reader=reader)

    def delivered(self, position, value, token=1, process="p", **fields):
        fields = {"log": "log", "group": "g", "token": token, "position": position, "value": value, **fields}
        return self.add("delivered", process, **fields)

    def acquired(self, owner, token, seconds=0.1, at=None, op="acquired"):
        return self.add(op, owner, at, name="lease", owner=owner, token=token, seconds=seconds)

    def save(self, token, acked=True, process="p", at=None, **values):
        self.add("saving", process, at, name="lease", token=token, values=values)
        return self.add("saved", process, at, name="lease", token=token, values=values) if acked else self

    def loaded(self, at=None, prefix="", **values):
        return self.add("loaded", at=at, prefix=prefix, values=values)

    @property
    def problems(self):
        return check(self.records)


def written():
    """Return a history of a log with the entries a, b and c."""
    return History().append(1, "a", "b").append(3, "c")


ALLOWED = {
    "nothing": History(),
    "reading to the end": written().start().read((1, "a")).read((2, "b"), (3, "c")).finished(),
    "reading from the middle": written().start(after=2).read((3, "c")).finished(),
    "two readers": written().start().start("s").read((1, "a")).read((1, "a"), reader="s"),
    "a reader that was killed": written().start().read((1, "a")),
    "two logs": written().append(1, "x", log="other").start(log="other").read((1, "x"), log="other"),
    "a batch in doubt that is there": written().append(4, "d", acked=False).start(after=3).read((4, "d")),
    "a batch in doubt that is not there": written().append(4, "d", acked=False).start(after=3).finished(),
    "appends at the same time in any order": (
        History().append(2, "b", at=(1, 3)).append(1, "a", at=(2, 4)).start().read((1, "a"), (2, "b"))
    ),
    "an append that was acknowledged twice": written().add("acked", log="log", values=["c"], first=3),
    "reading behind a trim": (written().add("trimmed", log="log", first=3).start().read((3, "c")).finished()),
    "a group that delivers again after a takeover": (
        written()
        .add("group", log="log", group="g", after=0)
        .delivered(1, "a")
        .delivered(2, "b")
        .delivered(2, "b", token=2, process="q")
        .delivered(3, "c", token=2, process="q")
    ),
    "a group that says what it skipped": (
        written()
        .add("group", log="log", group="g", after=0)
        .add("skipped", log="log", group="g", first=1, last=2)
        .delivered(3, "c")
    ),
    "a new group": written().add("group", log="log", group="g", after=2).delivered(3, "c"),
    "order for each key": written().delivered(2, "b", key="x").delivered(1, "a", key="y"),
    "takeovers": History().acquired("x", 1).acquired("y", 2).acquired("y", 2).acquired("x", 3),
    "a takeover after a release": (
        History().acquired("x", 1, 60).add("releasing", name="lease", owner="x", token=1).acquired("y", 2)
    ),
    "saves": History()
    .acquired("x", 1)
    .save(1, a="1")
    .loaded(a="1")
    .acquired("y", 2)
    .save(2, a="2")
    .loaded(a="2"),
    "a save that overlaps a takeover": (
        History().save(1, a="1", at=(1, 5)).acquired("y", 2, at=(2, 3)).loaded(a="1", at=(6, 7))
    ),
    "a save in doubt that won": History()
    .save(1, a="1")
    .save(1, a="2", acked=False)
    .loaded(a="2")
    .loaded(a="2"),
    "a save in doubt that did not": History().save(1, a="1").save(1, a="2", acked=False).loaded(a="1"),
    "a value that was removed": History().save(1, a="1").save(1, a=None).loaded(),
    "a load of others": History().save(1, a="1").loaded(prefix="b"),
}

FORBIDDEN = {
    "position 1 is 'a', but 'x' for p": written().append(1, "x"),
    "position 2 is 'b', but 'x' for p": written().start().read((1, "a"), (2, "x")),
    "'c' is at position 3 and at 4": written().start(after=2).read((3, "c"), (4, "c")),
    "'x' at position 4 was never appended": written().start(after=3).read((4, "x")),
    "position 1 was appended after position 2 was acknowledged": History().append(2, "b").append(1, "a"),
    "reader r passed over 2 to 2": written().start().read((1, "a"), (3, "c")),
    "reader r passed over 1 to 1": written().start().read((2, "b")),
    "reader r read position 2 after 2": written().start(after=1).read((2, "b")).read((2, "b")),
    "reader r read position 1 after 2": written().start().read((1, "a"), (2, "b")).read((1, "a")),
    "reader r ended at 1, before 2 acknowledged entries": written().start().read((1, "a")).finished(),
    "reader r ended at 0, before 3 acknowledged entries": written().start().finished(),
    "reader r passed over 2 to 3": (
        written().append(4, "d").add("trimmed", log="log", first=3).start(after=1).read((4, "d"))
    ),
    "group g never delivered 2, 'b'": (
        written().add("group", log="log", group="g", after=0).delivered(1, "a").delivered(3, "c")
    ),
    "group g never delivered 1, 'a'": (
        written()
        .add("group", log="log", group="g", after=0)
        .add("skipped", log="log", group="other", first=1, last=1)
        .delivered(2, "b")
        .delivered(3, "c")
    ),
    "group g: p with token 1 delivered 1 after 2": written().delivered(2, "b").delivered(1, "a"),
    "group g: p with token 1 delivered 2 after 2": written().delivered(2, "b").delivered(2, "b"),
    "position 2 is 'b', but 'c' for p": written().delivered(2, "c"),
    "token 1 belongs to x and to y": History().acquired("x", 1).acquired("y", 1),
    "token 1 of y came after 2 of x": History().acquired("x", 2).acquired("y", 1),
    "token 1 of x came after 2 of x": History().acquired("x", 2).acquired("x", 1),
    "y acquired token 2 8.500s before token 1 of x expired": (
        History().acquired("x", 1, 10, at=1).acquired("y", 2, at=2)
    ),
    "y acquired token 2 0.500s before token 1 of x expired": (
        History()
        .acquired("x", 1, 1, at=1)
        .acquired("x", 1, 1, at=2, op="renewed")
        .acquired("y", 2, at=(2, 2.5))
    ),
    "token 1 of x was renewed after y had acquired token 2": (
        History().acquired("x", 1).acquired("y", 2).acquired("x", 1, op="renewed")
    ),
    "p saved {'a': '1'} with token 1 after y had acquired token 2": (
        History().acquired("x", 1).acquired("y", 2).save(1, a="1")
    ),
    "p loaded '9', which was never saved": History().save(1, a="1").loaded(a="9"),
    "p found nothing after '1' had been saved": History().save(1, a="1").loaded(),
    "p loaded '1' with token 1 after '2' with token 1 had been saved": (
        History().save(1, a="1").save(1, a="2").loaded(a="1")
    ),
    "p loaded '1' with token 1 after '2' with token 2 had been saved": (
        History().save(1, a="1", acked=False).save(2, a="2").loaded(a="1")
    ),
    "p loaded '1' with token 1 after None with token 1 had been saved": (
        History().save(1, a="1").save(1, a=None).loaded(a="1")
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_may_happen_is_accepted(name):
    assert ALLOWED[name].problems == []


@pytest.mark.parametrize("problem", FORBIDDEN)
def test_what_must_not_happen_is_found(problem):
    assert any(problem in found for found in FORBIDDEN[problem].problems), FORBIDDEN[problem].problems


def test_each_process_records_to_its_own_file_whose_torn_end_is_ignored(tmp_path):
    with recording(tmp_path / "one.jsonl", "one") as one, recording(tmp_path / "two.jsonl", "two") as two:
        one.note("append", log="log", values=["a"])
        two.note("start", log="log", reader="r", after=0)
        one.note("acked", log="log", values=["a"], first=1, begin=5.0)
    with (tmp_path / "two.jsonl").open("a") as file:
        file.write(json.dumps({"op": "read"})[:-3])
    records = read_history(tmp_path)
    assert [record["op"] for record in records] == ["append", "start", "acked"]
    assert [record["process"] for record in records] == ["one", "two", "one"]
    assert records[2]["begin"] == 5.0
    assert records[0]["begin"] == records[0]["end"] <= records[1]["end"]
    assert check(records) == []
