"""`run` from stdin to a `jsonl` sink against a plain loop over the same file, each as a process."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from measure import Result

LINES, ROUNDS, BAR = 300_000, 3, 0.3

PIPELINE = """
sources: [{type: stdin}]
processors: [{type: filter, matchers: ['data.status=~"5.."']}]
sinks: [{type: jsonl, path: ours.jsonl, data: payload}]
"""
PLAIN = """
import json, sys
with open("plain.jsonl", "w") as out:
    for line in sys.stdin:
        event = json.loads(line)
        if 500 <= event["status"] < 600:
            out.write(json.dumps(event) + "\\n")
"""
OURS = [sys.executable, "-m", "codomyrmex.integrations.cli", "run", "p.yaml"]


class Cost(NamedTuple):
    """The seconds that a process took, including its start."""

    cpu: float
    wall: float


def write_lines(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(LINES):
            line = {
                "number": number,
                "status": (200, 404, 503)[number % 3],
                "path": f"/orders/{number}",
                "host": "web-1",
                "seconds": number % 100 / 1_000,
            }
            file.write(json.dumps(line) + "\n")


def cost_of(program: list[str], folder: Path) -> Cost:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (folder / "in.jsonl").open("rb") as stdin:
        subprocess.run(program, cwd=folder, stdin=stdin, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, time.perf_counter() - start)


def written(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def measure() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lines(folder / "in.jsonl")
        (folder / "p.yaml").write_text(PIPELINE, encoding="utf-8")
        rounds = []
        for _ in range(ROUNDS):
            plain = cost_of([sys.executable, "-c", PLAIN], folder)
            ours = cost_of(OURS, folder)
            assert written(folder / "ours.jsonl") == written(folder / "plain.jsonl") == LINES // 3
            rounds.append((ours, plain))
            (folder / "ours.jsonl").unlink()
    for number, kind in enumerate(("CPU seconds", "wall time")):
        costs = [(ours[number], plain[number]) for ours, plain in rounds]
        ratios = [plain / ours for ours, plain in costs]
        rates = [LINES / statistics.median(each) / 1_000 for each in zip(*costs, strict=True)]
        yield Result(
            f"run, {LINES:,} lines from stdin to a jsonl sink, by {kind}",
            "json.loads, if, json.dumps in a loop",
            statistics.median(ratios),
            BAR,
            rate=True,
            detail="{:.0f} k events/s against {:.0f} k".format(*rates),
        )


if __name__ == "__main__":
    for result in measure():
        print(result.work, f"{result.ratio:.2f} x, bar {BAR}", result.detail, sep="\n  ")
