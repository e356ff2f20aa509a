"""Records what processes did with stores and streams, and checks that it all fits together.

Each process writes JSON lines to a file of its own, so that what it did before it was killed is known. A line
has the name of the operation, the process, and when the operation began and ended on the clock that all
processes of a machine share. `check` returns what contradicts the promises:

| operation | fields | recorded |
| --- | --- | --- |
| append | log, values | before a batch is sent |
| acked | log, values, first | when the position of the batch is known |
| start | log, reader, after | when a reader begins |
| read | log, reader, entries: [[position, value], ...] | when entries arrived |
| finished | log, reader | when a reader has read to the end, after the last append |
| trimmed | log, first | before a log is trimmed: older entries may be gone |
| group | log, group, after | when a group is made |
| delivered | log, group, token, position, value, and key if it is in order for each key | before a delivery |
| skipped | log, group, first, last | a dead letter or a counted gap: not delivered, and it was said |
| acquired, renewed | name, owner, token, seconds | when the lease is held |
| releasing | name, owner, token | before a lease is released |
| saving, saved | name, token, values: {name: value or null} | before a save, and when it is acknowledged |
| loaded | prefix, values: {name: value} | when values have been loaded |

Every value is a string that is appended or saved once.
"""

from __future__ import annotations

import json
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

Record = dict[str, Any]

TOLERANCE = 0.05  # seconds by which the clocks of a server and of its clients may differ over a lease


class Recorder:
    """Writes the records of a process to a file."""

    def __init__(self, path: Path | str, process: str) -> None:
        self.process = process
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, operation: str, *, begin: float | None = None, **fields: Any) -> None:
        """Record an operation that ends now and began then, or now."""
        end = time.monotonic()
        record = {"op": operation, "process": self.process, "begin": begin or end, "end": end, **fields}
        os.write(self._file, json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read_history(folder: Path) -> list[Record]:
    """Return the records of all files of a folder in the order in which the operations ended."""
    lines = [
        line
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    # The process was killed while it wrote a line that does not end.
    records = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return sorted(records, key=lambda record: record["end"])


def check(records: Iterable[Record]) -> list[str]:
    """Return what contradicts the promises of stores and streams, a sentence each; nothing if all is well."""
    by_operation: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_operation[record["op"]].append(record)
    found = []
    for log in dict.fromkeys(
        record["log"] for each in by_operation.values() for record in each if "log" in record
    ):
        checked = LogCheck(log, by_operation)
        found += [f"log {log}: {problem}" for problem in checked.problems()]
    for name in {record["name"] for record in by_operation["acquired"]}:
        found += [f"lease {name}: {problem}" for problem in lease_problems(name, by_operation)]
    found += value_problems(by_operation)
    return found


class LogCheck:
    """The entries of a log as all processes have seen them."""

    def __init__(self, log: str, operations: dict[str, list[Record]]) -> None:
        self.operations = {
            name: [record for record in records if record.get("log") == log]
            for name, records in operations.items()
        }
        self.entries: dict[int, str] = {}

    def get(self, operation: str) -> list[Record]:
        return self.operations.get(operation, [])

    def problems(self) -> Iterator[str]:
        yield from self.place_entries()
        yield from self.check_order_of_appends()
        for reader in dict.fromkeys(record["reader"] for record in self.get("start")):
            yield from self.check_reader(reader)
        for group in dict.fromkeys(record["group"] for record in self.get("delivered") + self.get("group")):
            yield from self.check_group(group)

    def place_entries(self) -> Iterator[str]:
        """Put all entries in their places, and find those that do not fit."""
        seen = [
            (record["process"], position, value)
            for record in self.get("acked")
            for position, value in enumerate(record["values"], start=record["first"])
        ]
        seen += [
            (record["process"], position, value)
            for record in self.get("read")
            for position, value in record["entries"]
        ]
        seen += [(record["process"], record["position"], record["value"]) for record in self.get("delivered")]
        attempted = {value for record in self.get("append") for value in record["values"]}
        positions: dict[str, int] = {}
        for process, position, value in seen:
            if (other := self.entries.setdefault(position, value)) != value:
                yield f"position {position} is {other!r}, but {value!r} for {process}"
            elif (place := positions.setdefault(value, position)) != position:
                yield f"{value!r} is at position {place} and at {position}"
            elif value not in attempted:
                yield f"{value!r} at position {position} was never appended"

    def check_order_of_appends(self) -> Iterator[str]:
        """Find batches that come before one whose append had ended when theirs began."""
        ended = sorted((record["end"], record["first"]) for record in self.get("acked"))
        highest = [0]
        for _, first in ended:
            highest.append(max(highest[-1], first))
        for record in self.get("acked"):
            before = highest[bisect_left(ended, (record["begin"], 0))]
            if before > record["first"]:
                yield f"position {record['first']} was appended after position {before} was acknowledged"

    def acknowledged(self) -> list[int]:
        return [
            record["first"] + index for record in self.get("acked") for index in range(len(record["values"]))
        ]

    def check_reader(self, reader: str) -> Iterator[str]:
        """Find entries that a reader missed or read twice or in another order."""
        [start] = [record for record in self.get("start") if record["reader"] == reader]
        kept = max((record["first"] for record in self.get("trimmed")), default=1)
        last = start["after"]
        for record in self.get("read"):
            if record["reader"] == reader:
                for position, _ in record["entries"]:
                    if position <= last:
                        yield f"reader {reader} read position {position} after {last}"
                    elif position != last + 1 and position > kept:
                        yield f"reader {reader} passed over {last + 1} to {position - 1}"
                    last = position
        if any(record["reader"] == reader for record in self.get("finished")):
            missed = [position for position in self.acknowledged() if position > last]
            if missed:
                yield f"reader {reader} ended at {last}, before {len(missed)} acknowledged entries"

    def check_group(self, group: str) -> Iterator[str]:
        """Find entries that a group never delivered, or that one owner delivered in another order."""
        orders: defaultdict[tuple[str, int, str], list[int]] = defaultdict(list)
        delivered = set()
        for record in self.get("delivered"):
            if record["group"] == group:
                delivered.add(record["position"])
                order = (record["process"], record["token"], record.get("key", ""))
                orders[order].append(record["position"])
        for (process, token, _), positions in orders.items():
            for one, other in pairwise(positions):
                if other <= one:
                    yield f"group {group}: {process} with token {token} delivered {other} after {one}"
        made = [record["after"] for record in self.get("group") if record["group"] == group]
        if made:
            skipped = [
                range(record["first"], record["last"] + 1)
                for record in self.get("skipped")
                if record["group"] == group
            ]
            for position in sorted(self.acknowledged()):
                if (
                    position > min(made)
                    and position not in delivered
                    and not any(position in positions for positions in skipped)
                ):
                    yield f"group {group} never delivered {position}, {self.entries[position]!r}"


def lease_problems(name: str, operations: dict[str, list[Record]]) -> Iterator[str]:
    """Find tokens that went back or had two owners, and leases that two owners held at a time."""

    def get(operation: str) -> list[Record]:
        return [record for record in operations[operation] if record["name"] == name]

    first: dict[int, Record] = {}  # the acquisition of each token
    for record in get("acquired"):
        other = first.setdefault(record["token"], record)
        if other["owner"] != record["owner"]:
            yield f"token {record['token']} belongs to {other['owner']} and to {record['owner']}"
    for one, later in product(first.values(), repeat=2):
        if later["begin"] > one["end"] and later["token"] < one["token"]:
            yield f"token {later['token']} of {later['owner']} came after {one['token']} of {one['owner']}"
    released = {record["token"]: record["begin"] for record in get("releasing")}
    for record, later in product(get("acquired") + get("renewed"), first.values()):
        if later["token"] > record["token"] and later["owner"] != record["owner"]:
            expires = min(record["begin"] + record["seconds"], released.get(record["token"], float("inf")))
            old, new = f"token {record['token']} of {record['owner']}", f"token {later['token']}"
            if record["op"] == "renewed" and record["begin"] > later["end"]:
                yield f"{old} was renewed after {later['owner']} had acquired {new}"
            elif later["end"] < expires - TOLERANCE:
                early = expires - later["end"]
                yield f"{later['owner']} acquired {new} {early:.3f}s before {old} expired"


def value_problems(operations: dict[str, list[Record]]) -> Iterator[str]:
    """Find saves of stale owners that won, and values that were lost or went back."""
    for save in operations["saved"]:
        name, token = save["name"], save["token"]
        for lease in operations["acquired"]:
            if lease["name"] == name and lease["token"] > token and lease["end"] < save["begin"]:
                yield (
                    f"lease {name}: {save['process']} saved {save['values']} with token {token} "
                    f"after {lease['owner']} had acquired token {lease['token']}"
                )
                break
    names = {name for save in operations["saving"] for name in save["values"]}
    for name in sorted(names):
        yield from (f"value {name}: {problem}" for problem in one_value_problems(name, operations))


def one_value_problems(name: str, operations: dict[str, list[Record]]) -> Iterator[str]:
    saving = [record for record in operations["saving"] if name in record["values"]]
    saved = [record for record in operations["saved"] if name in record["values"]]
    acknowledged = {record["values"][name]: record for record in saved}
    for load in operations["loaded"]:
        if not name.startswith(load["prefix"]):
            continue
        value = load["values"].get(name)
        sources = [each for each in saving if each["values"][name] == value and each["begin"] <= load["end"]]
        before = [record for record in saved if record["end"] < load["begin"]]
        if value is not None and not sources:
            yield f"{load['process']} loaded {value!r}, which was never saved"
        elif value is None and not sources:
            if before:
                yield f"{load['process']} found nothing after {before[-1]['values'][name]!r} had been saved"
        else:
            token = max(source["token"] for source in sources)
            source = acknowledged.get(value)
            for newer in before:
                after_it = source is not None and newer["begin"] > source["end"]
                if newer["values"][name] != value and (newer["token"] > token or after_it):
                    yield (
                        f"{load['process']} loaded {value!r} with token {token} after "
                        f"{newer['values'][name]!r} with token {newer['token']} had been saved"
                    )
                    break


@contextmanager
def recording(path: Path | str, process: str) -> Iterator[Recorder]:
    recorder = Recorder(path, process)
    try:
        yield recorder
    finally:
        recorder.close()
