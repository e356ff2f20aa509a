"""Processes with an `AlertSink` whose state is shared, of which the one that notifies is killed and cut off.

`AlertChaos.run` starts three processes with leases of 1 s on a store, fires alerts in any of them, and
resolves each some time after the receiver had a notification of it. Meanwhile it kills (`kill -9`) and stops
the process that holds the lease, kills the server, and disturbs the connections of the holder and of the
others. It returns what contradicts the promises of `AlertSink`, by what the processes and the receiver have
recorded:

| operation | fields | recorded |
| --- | --- | --- |
| changed | group, alert, status | before an alert is published |
| sending, sent | group, id | by a process before and after it calls the receiver |
| arrived | sender, group, key, status, alerts, id | by the receiver |
| fault, healed | what, victim | when a process or server is killed, stopped or cut off, and runs again |
| lost | | by a process, when it has found out that it lost the lease |
| holder | name | when another process holds the lease, by a question about it each 50 ms |
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from availability.figures import Figures, measure
from availability.hook import Hook
from availability.load import Change, Incident
from availability.systems import Processes, Settings, wait_for
from codomyrmex.integrations.durable import DurableStream, StoreUnavailableError, open_store
from durable.history import Record, read_history, recording
from durable.proxy import Proxy

SETTINGS = Settings(0.2, 0.5, (), resend=0, lease=1.0, away=0)
MEMBERS = 3
STUCK = 30.0  # seconds in which all that fired is resolved, once nothing is disturbed any more
EVERY = 0.5  # seconds, between two new groups
LIVES = 1.0  # seconds at most from a notification to the end of an alert
RECORDED = 0.5  # seconds at most from the end of a send until it is recorded in the store, which is busy
RECONNECTED = 1.5  # seconds at most until a process uses a store again that has been away


class AlertChaos:
    """The processes of a run; `run` says how it went.

    Args:
        place: where the store is; it has `url` and `server`.
        folder: for the histories.
        seed: of the moments.
    """

    def __init__(self, place, folder: Path, seed: int) -> None:
        self.place, self.folder, self.seed = place, folder, seed
        self.chance = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.proxies: dict[str, Proxy] = {}
        self.figures: Figures | None = None
        self.in_flight = 0  # sends at the moment of a fault
        self._lock = threading.Lock()
        self._ends: dict[str, float] = {}  # when alerts end of which there was a notification
        self._open: dict[str, Incident] = {}
        self._unresolved: set[str] = set()
        self._full, self._over = threading.Event(), threading.Event()

    def run(self, kills: int) -> list[str]:
        with ExitStack() as ends:
            self.recorder = ends.enter_context(recording(self.folder / "chaos.jsonl", "chaos"))
            hook = ends.enter_context(Hook(self.recorder, arrived=self.arrived))
            if self.place.server:
                for number in range(1, MEMBERS + 1):
                    proxy = ends.enter_context(Proxy(self.place.server.port))
                    self.proxies[f"member-{number}"] = proxy
            self.system = Processes(
                self.folder,
                hook,
                SETTINGS,
                MEMBERS,
                url=self.place.url,
                server=self.place.server,
                chance=random.Random(self.seed),
                when_away="hold",
                urls={name: proxy.url(self.place.url) for name, proxy in self.proxies.items()},
            )
            ends.callback(self.system.close)
            self.system.open()
            for task in (self.load, self.watch):
                thread = threading.Thread(target=task)
                ends.callback(thread.join)
                thread.start()
            ends.callback(self._over.set)
            problems = self.play(kills)
        records = read_history(self.folder)
        self.figures = measure(records, SETTINGS.group_wait, 5.0)
        return [*problems, *self.problems(records)]

    # The load

    def arrived(self, alerts: dict[str, str]) -> None:
        """Let each alert end some time after the first notification of it."""
        with self._lock:
            for alert, status in alerts.items():
                if status == "firing" and alert in self._open:
                    self._ends.setdefault(alert, time.monotonic() + self.chance.uniform(0, LIVES))
                elif status == "resolved":
                    self._unresolved.discard(alert)

    def load(self) -> None:
        number, chance = 0, random.Random(self.seed + 1)
        while not self._over.wait(EVERY * chance.uniform(0.5, 1.5)):
            if not self._full.is_set():
                number += 1
                for index in range(chance.randint(1, 2)):
                    self.change(Incident(f"g{number}", f"g{number}.{index}", 0, 0), "firing")
            with self._lock:
                ended = [alert for alert, at in self._ends.items() if at < time.monotonic()]
            for alert in ended:
                self.change(self._open[alert], "resolved")

    def change(self, incident: Incident, status: str) -> None:
        with self._lock:
            if status == "firing":
                self._open[incident.name] = incident
                self._unresolved.add(incident.name)
            else:
                del self._open[incident.name], self._ends[incident.name]
        self.recorder.note("changed", group=incident.group, alert=incident.name, status=status)
        self.system.publish(Change(0, incident, status))

    def watch(self) -> None:
        """Record who holds the lease."""

        async def run() -> None:
            holder = None
            while not self._over.is_set():
                try:
                    async with open_store(self.place.url) as store:
                        while not self._over.is_set():
                            leases = await store.leases("events/group/alerts/shard/")
                            name = leases[0].owner.partition("#")[0] if leases else None
                            if name != holder:
                                holder = name
                                self.recorder.note("holder", name=name)
                            await asyncio.sleep(0.05)
                except StoreUnavailableError:
                    continue

        asyncio.run(run())

    # The faults

    def play(self, kills: int) -> list[str]:
        for number in range(kills):
            self.pass_time()
            self.kill()
            if number % 3 == 0:
                self.pass_time()
                self.stop()
            if self.proxies and number % 3 == 1:
                self.pass_time()
                self.kill_server()
            if self.proxies:
                self.pass_time()
                self.disturb()
        self.pass_time()
        return self.finish()

    def pass_time(self) -> None:
        time.sleep(self.chance.uniform(0.2, 1.4))

    def begin(self, what: str, victim: str) -> None:
        self.faults[what] += 1
        self.recorder.note("fault", what=what, victim=self.life(victim))

    def life(self, name: str) -> str:
        return self.system.running[name].name if name in self.system.running else name

    def kill(self) -> None:
        victim = self.system.notifying()
        self.begin("killed", victim)
        self.system.kill(victim)
        self.system.start(victim)

    def stop(self) -> None:
        victim = self.system.notifying()
        self.system.stop(victim)
        self.begin("stopped", victim)
        time.sleep(self.chance.uniform(1.2, 2.5) * SETTINGS.lease)
        self.recorder.note("healed", what="stopped", victim=self.life(victim))
        self.system.resume(victim)

    def kill_server(self) -> None:
        self.begin("store killed", "store")
        self.place.server.kill()
        time.sleep(self.chance.uniform(0, 2.0) * SETTINGS.lease)
        self.place.server.start()
        self.recorder.note("healed", what="store killed", victim="store")

    def disturb(self) -> None:
        """Disturb the connections of the holder or of another process for a while."""
        holder = self.system.notifying()
        others = [name for name in self.proxies if name != holder]
        victim, role = self.chance.choice([(holder, "holder"), (self.chance.choice(others), "standby")])
        what = self.chance.choice(["cut", "stall", "lose_answer", "delay"])
        self.begin(f"connections of the {role}: {what}", victim)
        proxy = self.proxies[victim]
        if what == "delay":
            proxy.delay(self.chance.uniform(0.01, 0.2))
        elif what == "lose_answer":
            proxy.lose_answer(self.chance.randrange(9))
        else:
            getattr(proxy, what)()
        time.sleep(self.chance.uniform(0.1, 2.5))
        proxy.heal()
        self.recorder.note("healed", what=what, victim=self.life(victim))

    def finish(self) -> list[str]:
        """Fire nothing more, and wait until all is resolved and all processes have ended."""
        self._full.set()
        problems = []
        try:
            wait_for(lambda: not self._unresolved, "the end of all alerts", STUCK)
        except AssertionError:
            problems.append(f"not resolved: {sorted(self._unresolved)}; not notified: {self.unnotified()}")
            problems += asyncio.run(self.published(self._unresolved))
        for name in self.system.names:
            self.system.end(name)
            code = self.system.processes[name].returncode
            if code:
                problems.append(f"{self.life(name)} ended with {code}")
        errors = {path.stem: path.read_text() for path in self.folder.glob("*.err")}
        # nats-py leaves a task with the error of a connection that is reset while it closes it.
        bad = {
            name: text for name, text in errors.items() if "Traceback" in text and "/nats/aio/" not in text
        }
        return [*problems, *(f"{name}: {text}" for name, text in bad.items())]

    async def published(self, alerts: set[str]) -> list[str]:
        """Return what the stream has of some alerts, in its order."""
        async with DurableStream(open_store(self.place.url)) as stream:
            records = await stream.read(limit=10_000)
        found = [(record.cursor, record.event.metadata["labels"], record.event) for record in records]
        return [
            f"{cursor}: {labels['alert']} {event.metadata['status']}"
            for cursor, labels, event in found
            if labels["alert"] in alerts
        ]

    def unnotified(self) -> list[str]:
        with self._lock:
            return sorted(self._open.keys() - self._ends.keys())

    # What contradicts the promises

    def problems(self, records: list[Record]) -> Iterator[str]:
        figures = self.figures
        if figures.lost or figures.unresolved or figures.wrong:
            yield str(figures)
        self.in_flight = sum(map(was_in_flight(records), sends_of(records)))
        yield from self.order_problems(records)
        yield from self.repeat_problems(records)
        yield from self.takeover_problems(records)

    @staticmethod
    def order_problems(records: list[Record]) -> Iterator[str]:
        """Find groups of which the last notification says that they fire.

        What was in the hands of a process when it was stopped comes late, and nobody can take it back.
        """
        late = [
            (record["victim"], record["end"])
            for record in records
            if record["op"] == "healed" and record["what"] == "stopped"
        ]
        last: dict[str, Record] = {}
        for record in records:
            if record["op"] == "arrived" and not any(
                record["sender"] == victim and 0 <= record["begin"] - at < SETTINGS.lease
                for victim, at in late
            ):
                last[record["group"]] = record
        for group, record in last.items():
            if record["status"] != "resolved":
                yield f"the last notification of {group} says {record['alerts']}, by {record['sender']}"

    @staticmethod
    def repeat_problems(records: list[Record]) -> Iterator[str]:
        """Find notifications that were sent again although they were not in flight at a fault."""
        last: dict[tuple[str, str, frozenset], Send] = {}
        in_flight = was_in_flight(records)
        for send in sends_of(records):
            what = (send.group, send.status, send.alerts)
            earlier, last[what] = last.get(what), send
            if earlier is not None and not in_flight(earlier):
                yield (
                    f"{send.process} sent {sorted(send.alerts)} of {send.group} at {send.begin:.3f}, which "
                    f"{earlier.process} had sent from {earlier.begin:.3f} to {earlier.end:.3f}"
                )

    @staticmethod
    def takeover_problems(records: list[Record]) -> Iterator[str]:
        """Find what processes sent that had been stopped for longer than their lease."""
        holders = [record for record in records if record["op"] == "holder"]
        for fault in records:
            if fault["op"] != "healed" or fault["what"] != "stopped":
                continue
            victim, resumed = fault["victim"], fault["end"]
            later = [each for each in holders if each["end"] > resumed and each["name"] == victim]
            until = later[0]["end"] - 0.1 if later else float("inf")
            holder = [each["name"] for each in holders if each["end"] <= resumed][-1:]
            if holder == [victim]:
                continue  # nobody has taken over
            sent = [
                record
                for record in records
                if record["op"] == "sending"
                and record["process"] == victim
                and resumed < record["end"] < until
            ]
            if len(sent) > 1:  # one may have been in its hands
                yield f"{victim} sent {len(sent)} notifications after it had been stopped, at {resumed:.3f}"


class Send:
    """A notification on its way: `end` is when its sender had the answer, or when it was killed."""

    def __init__(self, record: Record, end: float, arrived: Record) -> None:
        self.process, self.begin, self.end = record["process"], record["end"], end
        self.group, self.status = record["group"], arrived["status"]
        self.alerts = frozenset(arrived["alerts"].items())


def sends_of(records: list[Record]) -> list[Send]:
    """Return all notifications that arrived, in the order in which they were sent."""
    by_send: defaultdict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    found = []
    for record in records:
        if record["op"] == "sending":
            found.append(record)
        elif record["op"] == "sent":
            by_send[record["process"], record["id"]]["sent"] = record
        elif record["op"] == "arrived":
            by_send[record["sender"], record["id"]]["arrived"] = record
    end = records[-1]["end"]
    killed = {
        record["victim"]: record["end"]
        for record in records
        if record["op"] == "fault" and record["what"] == "killed"
    }
    return [
        Send(
            record,
            known["sent"]["end"] if "sent" in known else killed.get(record["process"], end),
            known["arrived"],
        )
        for record in found
        if "arrived" in (known := by_send[record["process"], record["id"]])
    ]


def was_in_flight(records: list[Record]) -> Callable[[Send], bool]:
    """Return a function that returns whether a notification was being sent, or recorded, at a takeover."""
    times = [
        (record["victim"], record["end"], record["end"] + outage(record, records))
        for record in records
        if record["op"] == "fault"
    ]
    # It could not record what it sent since it renewed the lease for the last time.
    times += [
        (record["process"], record["end"] - SETTINGS.lease, record["end"])
        for record in records
        if record["op"] == "lost"
    ]

    def was(send: Send) -> bool:
        return any(
            victim in {send.process, "store"} and send.begin <= end and begin <= send.end + RECORDED
            for victim, begin, end in times
        )

    return was


def outage(fault: Record, records: list[Record]) -> float:
    """Return for how long the store or its connections were away: what was sent then was not recorded."""
    if fault["what"] in {"killed", "stopped"}:
        return 0.0
    healed = [
        record["end"]
        for record in records
        if record["op"] == "healed" and record["victim"] == fault["victim"] and record["end"] > fault["end"]
    ]
    return healed[0] - fault["end"] + RECONNECTED if healed else 0.0
