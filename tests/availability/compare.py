"""Compare two Alertmanagers with two processes that share a store, under the same load and faults.

    PYTHONPATH=tests .venv/bin/python -m availability.compare alertmanager
    PYTHONPATH=tests .venv/bin/python -m availability.compare sqlite postgres --quick --faults 8 --seed 1

Every second a new group fires; its alerts end after a while. At a random moment of each round, the member
that notifies is killed, stopped, or restarted, or both are, or the server with the store is killed. The
kinds of faults are tried at the same time, each with members of its own. The table goes to the standard
output, and what each kind recorded to a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from availability.figures import Figures, measure
from availability.hook import Hook
from availability.load import changes_of, make_incidents, play
from availability.systems import DEFAULTS, QUICK, Alertmanagers, Processes, Settings, System
from durable.history import read_history, recording
from durable.servers import PostgresServer

ROUNDS = 3.0  # times `away`, the time between two faults


def no_fault(system: System) -> str:
    return ""


def killed(system: System) -> str:
    victim = system.notifying()
    system.kill(victim)
    time.sleep(system.settings.away)
    system.start(victim)
    return victim


def stopped(system: System) -> str:
    victim = system.notifying()
    system.stop(victim)
    time.sleep(system.settings.away)
    system.resume(victim)
    return victim


def restarted(system: System) -> str:
    victim = system.notifying()
    system.end(victim)
    system.start(victim)
    return victim


def all_killed(system: System) -> str:
    for name in system.names:
        system.kill(name)
    time.sleep(system.settings.away / 4)
    for name in system.names:
        system.start(name)
    return "all"


def store_killed(system: System) -> str:
    assert isinstance(system, Processes)
    system.server.kill()
    time.sleep(system.settings.away)
    system.server.start()
    return "the store"


FAULTS: dict[str, Callable[[System], str]] = {
    "none": no_fault,
    "killed": killed,
    "stopped": stopped,
    "restarted": restarted,
    "both killed": all_killed,
    "store killed": store_killed,
}


def run(kind: str, fault: str, settings: Settings, faults: int, seed: int, folder: Path) -> Figures:
    """Run one system under one kind of fault."""
    chance = random.Random(f"{seed} {fault}")  # the same for each system
    every = ROUNDS * settings.away
    waits = [chance.uniform(0.1, 0.4) * every for _ in range(faults)]
    lives = (1.5 * settings.group_interval, 3 * settings.group_interval)
    incidents = make_incidents(chance, every * (faults + 0.5), 1.0, lives)
    with ExitStack() as ends:
        recorder = ends.enter_context(recording(folder / "compare.jsonl", "compare"))
        hook = ends.enter_context(Hook(recorder))
        system: System
        if kind == "alertmanager":
            system = Alertmanagers(folder, hook, settings)
        else:
            server = ends.enter_context(PostgresServer()) if kind == "postgres" else None
            url = server.fresh_url() if server else f"sqlite:///{folder}/store.db"
            system = Processes(folder, hook, settings, url=url, server=server, chance=chance)
        ends.callback(system.close)
        system.open()
        load = threading.Thread(target=play, args=(changes_of(incidents), recorder, system.publish))
        begin = time.monotonic()
        load.start()
        for number, wait in enumerate(waits):
            time.sleep(max(0.0, begin + number * every + wait - time.monotonic()))
            recorder.note("fault", fault=fault)
            recorder.note("healed", victim=FAULTS[fault](system))
        load.join()
        time.sleep(2 * settings.group_interval + 20)  # at most what a second Alertmanager waits
    return measure(read_history(folder), settings.group_wait, every * 0.6)


def row(kind: str, fault: str, figures: Figures) -> str:
    silent = f"{statistics.median(figures.silent):.1f} / {max(figures.silent):.1f}"
    cells = (
        *(kind, fault, len(figures.silent), figures.alerts, figures.lost, figures.unresolved),
        *(
            figures.notifications,
            figures.duplicates,
            figures.wrong,
            f"{figures.late:.2f}",
            f"{figures.latest:.1f}",
            silent,
        ),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("systems", nargs="+", choices=["alertmanager", "sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true", help="short timeouts and leases for both")
    parser.add_argument("--faults", type=int, default=6, help="of each kind")
    parser.add_argument("--only", choices=[*FAULTS], action="append", help="these kinds")
    parser.add_argument("--jobs", type=int, default=6, help="how many kinds are tried at the same time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="for the histories")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="availability-"))
    settings = QUICK if asked.quick else DEFAULTS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tried = [
        (kind, fault)
        for kind in asked.systems
        for fault in asked.only or FAULTS
        if fault != "store killed" or kind == "postgres"
    ]
    with ThreadPoolExecutor(asked.jobs) as pool:
        running = {}
        for kind, fault in tried:
            place = folder / f"{kind}-{fault.replace(' ', '-')}"
            place.mkdir(parents=True)
            running[kind, fault] = pool.submit(run, kind, fault, settings, asked.faults, asked.seed, place)
        print(f"seed {asked.seed}, {settings}; histories in {folder}\n")
        print(
            "| system | fault | faults | alerts | lost | unresolved | notifications | duplicates | wrong |"
            " late, median | latest | silent after a fault: median / longest |"
        )
        print("| --- | --- " + "| ---: " * 10 + "|")
        for (kind, fault), future in running.items():
            figures = future.result()
            print(row(kind, fault, figures), flush=True)
            name = f"{kind}-{fault.replace(' ', '-')}"
            (folder / name / "figures.json").write_text(json.dumps(figures._asdict()))


if __name__ == "__main__":
    main()
