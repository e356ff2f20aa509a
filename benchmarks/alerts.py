"""Alert routing: against a walk with regular expressions, against Apprise alone, and within limits.

What has a limit of its own, and waits for nothing, is measured in the time of its thread: what else runs on
the machine does not count.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apprise
import go_templates
from codomyrmex.integrations import attach
from codomyrmex.integrations.configuration.matchers import Matcher, Op
from codomyrmex.integrations.notification import (
    Alert,
    AlertConfig,
    AlertEngine,
    AlertRouter,
    AlertSink,
    RouteMatch,
    Silence,
    load_alert_config,
    parse_matchers,
)
from codomyrmex.integrations.notification.alerts.config import Route
from codomyrmex.integrations.notification.alerts.group import route_matches
from codomyrmex.streaming import Event, InMemoryStream, create_event
from measure import Result, compare_prepared
from streams import counting_handler, run

Labels = dict[str, str]

DOMAINS = ("cart", "mail", "pay", "price", "risk", "ship", "stock", "user")
TEAMS = [f"{domain}-{part}" for domain in DOMAINS for part in ("core", "data", "edge", "ops", "web")]
SERVICES = ("api", "jobs", "web", "search", "admin", "export", "import")
ROLES = ("web", "db", "cache", "queue", "batch")
NAMES = [
    *(f"Kube{what}" for what in ("PodCrash", "PodNotReady", "JobFailed", "QuotaFull", "NodeLost")),
    *(f"Node{what}" for what in ("DiskFull", "ClockSkew", "LoadHigh", "MemoryFull", "NetworkErrors")),
    *(f"{what}High" for what in ("ErrorRate", "Latency", "QueueAge", "Retries", "Saturation")),
    *(f"{what}Low" for what in ("CacheHits", "Orders", "Payments", "Replicas", "Signups")),
    *("BackupTooOld", "CertificateExpires", "DeadLetters", "ReplicationLag", "Watchdog"),
]
MANY = 100_000


def measure() -> Iterator[Result]:
    yield from matching()
    yield from go_templates.rendering()
    yield from observing()
    yield from inhibiting()
    yield silencing()
    yield memory()
    yield from hanging()
    yield from importing()
    yield from publishing()


# What is routed


def labels_of(number: int) -> Labels:
    """Return the labels of an alert: instance and pod are unique, the others are shared."""
    team = TEAMS[number % 40]
    spread = number // 40
    service, role = f"{team}-{SERVICES[spread // 3 % 7]}", ROLES[spread // 11 % 5]
    host = f"{team}-{role}-{number}.eu-1.example.net" if spread % 2 else f"10.0.{number}"
    return {
        "alertname": NAMES[spread % 25],
        "cluster": ("eu-1", "eu-2", "us-1")[spread // 5 % 3],
        "env": ("prod", "staging", "prod", "dev", "prod")[spread // 13 % 5],
        "instance": f"{host}:9100",
        "job": f"{team}/{role}",
        "namespace": f"{team}-{'staging' if spread // 17 % 3 == 0 else 'prod'}",
        "pod": f"{team}-{role}-{number * 2_654_435_761 % 2**32:08x}-{number:05x}",
        "service": f"{service}-canary" if spread // 19 % 5 == 0 else service,
        "severity": ("warning", "critical", "error", "info", "warning")[spread // 23 % 5],
        "team": team,
    }


def decoded(labels: Labels) -> Labels:
    """Return labels in which each text is an object of its own, names included."""
    found: Labels = json.loads(json.dumps(labels))
    return found


def node(*matchers: str, routes: Sequence[Any] = (), more: bool = False, **settings: Any) -> dict[str, Any]:
    return {"matchers": list(matchers), "routes": list(routes), "continue": more, **settings}


def routes_of(team: str) -> list[dict[str, Any]]:
    """Return the 24 routes below that of a team."""
    pod = rf'pod=~"{team}-[a-z]+-[0-9a-f]+-.*"'
    return [
        node('severity!~"info|none"', 'alertname!="Watchdog"', more=True),
        *(
            node(f'service=~"{team}-{each}|{team}-{each}-canary"', routes=[node('severity="critical"')])
            for each in SERVICES[:5]
        ),
        *(node(rf'instance=~"{team}-{role}-[0-9]+\\..*"', more=role == "web") for role in ROLES[:4]),
        node('alertname=~"Kube.+|Node.+"'),
        node('severity="critical"', routes=[node(pod), node('env!="prod"'), node('cluster=~"eu-.*"')]),
        node('severity=~"warning|error"', routes=[node(pod), node('env=~"staging|dev"')]),
        node('env!~"prod|staging"', 'severity!="critical"'),
    ]


def ways_to(number: int, team: str) -> list[str]:
    """Return the matchers of a team: most match its name, others what it runs."""
    listed = "|".join(f"{team}-{service}" for service in SERVICES)
    ways = {
        4: [f'service=~"{listed}"'],
        5: [f'service=~"{team}-[a-z]+(-canary)?"'],
        6: [f'namespace=~"{team}-(prod|staging)(-[0-9]+)?"'],
        7: [f'job=~"{team}/.+"', 'env!="dev"'],
    }
    return ways.get(number % 8, [f'team="{team}"'])


def configuration(
    routes: Sequence[Any], group_by: Sequence[str] = ("alertname",), **more: Any
) -> AlertConfig:
    return load_alert_config(
        {
            "route": {"receiver": "all", "group_by": list(group_by), "routes": list(routes)},
            "receivers": [{"name": name} for name in ("all", *TEAMS)],
            **more,
        }
    )


@cache
def tree() -> AlertConfig:
    """Return 1,000 routes below the root: 40 teams with 24 each."""
    teams = [
        node(*ways_to(number, team), routes=routes_of(team), more=number % 8 == 7, receiver=team)
        for number, team in enumerate(TEAMS)
    ]
    return configuration(teams, ("alertname", "cluster"))


def flat() -> AlertConfig:
    """Return 1,000 sibling routes, 25 for each team, as programs generate them."""
    return configuration(
        [
            node(*ways_to(number, team), *each["matchers"], more=each["continue"], receiver=team)
            for number, team in enumerate(TEAMS)
            for each in [*spread_out(routes_of(team)), node()]
        ],
        ("alertname", "cluster"),
    )


def spread_out(routes: Sequence[Any], above: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Return a tree as sibling routes, each with the matchers of its parents too, children before parents."""
    for each in routes:
        matchers = [*above, *each["matchers"]]
        yield from spread_out(each["routes"], matchers)
        yield {**each, "matchers": matchers}


class PlainNode:
    """The plain way: walk the tree, and ask each matcher of each route on the way."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.children = [PlainNode(child) for child in route.children]
        self.matchers = [self.compiled(matcher) for matcher in route.matchers]

    @staticmethod
    def compiled(matcher: Matcher) -> tuple[str, Callable[[str], object], bool]:
        literal = matcher.op in {Op.EQUAL, Op.NOT_EQUAL}
        pattern = re.compile(re.escape(matcher.value) if literal else matcher.value)
        return matcher.name, pattern.fullmatch, matcher.op in {Op.NOT_EQUAL, Op.NOT_REGEX}

    def match(self, labels: Labels) -> list[RouteMatch]:
        found: list[Route] = []
        self.collect(labels, found)
        return route_matches(found, labels)

    def collect(self, labels: Labels, found: list[Route]) -> bool:
        for name, fullmatch, negative in self.matchers:
            if (fullmatch(labels.get(name, "")) is not None) is negative:
                return False
        taken = False
        for child in self.children:
            if child.collect(labels, found):
                taken = True
                if not child.route.continues:
                    break
        if not taken:
            found.append(self.route)
        return True


# What is measured


def within(work: str, value: float, limit: float, unit: str, more: str = "") -> Result:
    """Make a line of a figure that has a limit of its own."""
    detail = f"{value:.3g} {unit}{more}" if value < 1_000 else f"{value:,.0f} {unit}{more}"
    return Result(work, f"{limit:g} {unit}", value / limit, 1.0, rate=False, detail=detail)


def at_least(work: str, nanoseconds: float, limit: int) -> Result:
    """Make a line of a rate that has a limit of its own."""
    rate = 1e9 / nanoseconds
    detail = f"{rate:,.0f} a second, {nanoseconds / 1_000:.1f} µs each"
    return Result(work, f"{limit:,} a second", rate / limit, 1.0, rate=True, detail=detail)


def nanoseconds_each(prepare: Callable[[], None], work: Callable[[], int], rounds: int) -> float:
    """Return the median time of one unit over several rounds."""
    times = []
    gc.collect()
    for _ in range(rounds):
        prepare()
        start = time.thread_time_ns()
        units = work()
        times.append((time.thread_time_ns() - start) / units)
    return statistics.median(times)


def matching() -> Iterator[Result]:
    config = tree()
    assert len(config.route.walk()) == 1_001
    router, n = AlertRouter(config), 500
    label_sets = [labels_of(number * 7) for number in range(5_000)]
    for labels in 2 * label_sets:
        router.match(labels)
    batch: list[Labels] = []
    turn = iter(range(10**9))

    def match_all(by: Callable[[Labels], list[RouteMatch]]) -> int:
        for labels in batch:
            by(labels)
        return n

    def take_known() -> None:
        first = next(turn) % 10 * n
        batch[:] = [decoded(labels) for labels in label_sets[first : first + n]]

    def take_new() -> None:
        first = MANY + next(turn) * n
        batch[:] = [decoded(labels_of(number)) for number in range(first, first + n)]

    times = nanoseconds_each(take_known, lambda: match_all(router.match), 41)
    yield at_least("match over 1,000 routes (a tree), 10 labels, label sets seen before", times, 200_000)
    times = nanoseconds_each(take_new, lambda: match_all(router.match), 41)
    yield at_least("the same, new label sets", times, 5_000)
    for what, each, bar in (
        ("the same, new label sets", config, 1.0),
        ("all 1,000 routes as siblings", flat(), 3.0),
    ):
        assert len(each.route.walk()) == 1_001
        router, plain = AlertRouter(each), PlainNode(each.route)
        for number in range(1_000):
            assert router.match(labels_of(number)) == plain.match(labels_of(number))

        def ours(router: AlertRouter = router) -> int:
            return match_all(router.match)

        def theirs(plain: PlainNode = plain) -> int:
            return match_all(plain.match)

        yield compare_prepared(
            what,
            "a plain walk with re.fullmatch of every matcher",
            (take_new, ours),
            (take_new, theirs),
            bar=bar,
            rounds=31,
            clock=time.thread_time_ns,
        )


def alerts_of(numbers: range, make: Callable[[Labels], Labels] = dict) -> list[Alert]:
    all_labels = [labels_of(number) for number in numbers]
    return [
        Alert(make(labels), {"summary": f"{labels['alertname']} on {labels['instance']}, for 5 minutes"})
        for labels in all_labels
    ]


def batches(count: int, size: int = 1_000) -> Iterator[range]:
    return (range(first, first + size) for first in range(0, count, size))


def microseconds_to_observe(engine: AlertEngine, count: int, now: float) -> float:
    """Return the mean time for one alert, including garbage collection."""
    spent = 0
    for numbers in batches(count):
        alerts = alerts_of(numbers)
        start = time.thread_time_ns()
        engine.observe(alerts, now)
        spent += time.thread_time_ns() - start
        engine.pop_changes()  # as the sink does after each step
    return spent / count / 1_000


def by_team(**more: Any) -> AlertConfig:
    """Return 40 routes, and 25 groups in each for these alerts."""
    return configuration([node(f'team="{team}"', receiver=team) for team in TEAMS], **more)


def observing() -> Iterator[Result]:
    config, now = by_team(), 1_700_000_000.0
    new, engine = [], AlertEngine(config)
    for _ in range(3):
        engine = AlertEngine(config)
        gc.collect()
        new.append(microseconds_to_observe(engine, MANY, now))
        assert (len(engine.alerts()), len(engine.groups()), engine.refused) == (MANY, 1_000, 0)
    yield within(
        "observe, until 100,000 new alerts are active in 1,000 groups", statistics.median(new), 25, "µs"
    )
    again = microseconds_to_observe(engine, MANY, now + 10)
    yield within("observe, the same 100,000 alerts again", again, 25, "µs")
    yield nothing_due(engine, now + 20)
    del engine  # whose garbage would be looked through again and again
    time_over_all = microseconds_to_observe(AlertEngine(tree()), 20_000, now)
    yield within("observe, 20,000 new alerts over the 1,000 routes", time_over_all, 25, "µs")._replace(
        bar=None
    )


def inhibit_rules() -> list[dict[str, Any]]:
    """Return 86 rules; most alerts are targets of 46 of them, and each rule has a few hundred sources."""
    by_team = [
        {
            "source_matchers": [f'team="{team}"', 'severity="critical"'],
            "target_matchers": [f'team="{team}"', 'severity=~"warning|info"'],
            "equal": ["alertname", "cluster"],
        }
        for team in TEAMS
    ]
    pairs = [(name, label) for label in ("instance", "pod") for name in NAMES[:23]]
    by_name = [
        {
            "source_matchers": [f'alertname="{name}"'],
            "target_matchers": [f'alertname!="{name}"', 'severity!~"none|debug.*"'],
            "equal": [label],
        }
        for name, label in pairs
    ]
    return [*by_team, *by_name]


def inhibiting() -> Iterator[Result]:
    """Measure rules like those in prometheus/alertmanager#3932, and the worst case."""
    channels = {"apprise_configs": [{"url": "json://127.0.0.1"}]}
    receivers = [{"name": name, **channels} for name in ("all", *TEAMS)]
    same = {"source_matchers": ['severity!="none"'], "target_matchers": ['env=~".+"'], "equal": ["cluster"]}
    for what, rules in (
        ("86 inhibition rules: a tick of all groups of 10,000 alerts", inhibit_rules()),
        ("the same, all alerts match both sides of all rules", [same] * 86),
    ):
        assert len(rules) == 86
        times, inhibited, groups = [], 0, 0
        for _ in range(3):
            engine, now = AlertEngine(by_team(inhibit_rules=rules, receivers=receivers)), 1_700_000_000.0
            engine.observe(alerts_of(range(10_000)), now)
            groups = len(engine.groups())
            gc.collect()
            start = time.thread_time()
            notifications = engine.due(now + 60)
            times.append(time.thread_time() - start)
            inhibited = len(engine.pop_suppressed())
            assert sum(len(each.parts[0].alerts) for each in notifications) == 10_000 - inhibited
        more = f", {groups:,} groups, {inhibited:,} alerts inhibited"
        yield within(what, statistics.median(times), 1, "s", more)


def silencing() -> Result:
    """Measure silences that match no alert, which is the worst case."""
    engine, now = AlertEngine(by_team()), 1_700_000_000.0
    engine.observe(alerts_of(range(10_000)), now)
    for number in range(500):
        text = f'team="{TEAMS[number % 40]}", alertname=~"Kube.+|Node.+", pod=~".*-gone{number}"'
        engine.add_silence(Silence(tuple(parse_matchers(text)), now, now + 3_600))
    start = time.thread_time()
    engine.due(now + 60)
    seconds = time.thread_time() - start
    assert not engine.pop_suppressed()
    return within("500 silences: a tick of all groups of 10,000 alerts", seconds, 1, "s")


def nothing_due(engine: AlertEngine, now: float) -> Result:
    assert (engine.next_deadline() or 0) > now
    times = []
    for _ in range(1_001):  # the first of them also forgets what is too old
        start = time.thread_time_ns()
        assert not engine.due(now)
        times.append((time.thread_time_ns() - start) / 1_000_000)
    worst = f", {max(times):.2g} ms at worst"
    return within("due, nothing is due, the same alerts", statistics.median(times), 1, "ms", worst)


def memory() -> Result:
    child = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    megabytes = float(child.stdout)
    each = f", {megabytes * 1e6 / MANY:,.0f} B each"
    return within("100,000 active alerts of 10 labels: memory of the process", megabytes, 200, "MB", each)


def grow() -> float:
    """Return by how many megabytes a process grows with the alerts; it runs in a child process."""

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    engine = AlertEngine(by_team())
    gc.collect()
    before = resident()
    for numbers in batches(MANY):
        engine.observe(alerts_of(numbers, decoded), 1_700_000_000.0)
        engine.pop_changes()
    gc.collect()
    assert len(engine.alerts()) == MANY
    return resident() - before


# Channels that hang


class Receiver:
    """An HTTP server in this loop; what is posted to `/good` is noted and answered, all else hangs."""

    def __init__(self) -> None:
        self.port = 0
        self.arrived = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"POST /good"):
            return
        self.arrived.set()
        found = re.search(rb"(?i)content-length: *(\d+)", head)
        await reader.readexactly(int(found[1]) if found else 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    def url(self, path: str) -> str:
        return f"json://127.0.0.1:{self.port}/{path}"

    async def seconds_to_arrive(self, send: Callable[[], object]) -> float:
        self.arrived.clear()
        start = time.perf_counter()
        send()
        await asyncio.wait_for(self.arrived.wait(), 60)
        return time.perf_counter() - start


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for writer in receiver.writers:
            writer.transport.abort()
        await asyncio.sleep(0.1)


@contextmanager
def silent() -> Iterator[None]:
    """Suppress logs about channels that hang."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def hanging() -> Iterator[Result]:
    figures: dict[str, list[float]] = {}

    async def work() -> int:
        figures["alone"] = await delays(0)
        figures["beside"] = await delays(10)
        figures["apprise"] = [await delay_of_apprise(10)]
        return 0

    with silent():
        run(work())
    alone, beside, apprise_alone = (statistics.median(each) * 1_000 for each in figures.values())
    more = f", {max(figures['beside']) * 1_000:.0f} ms at worst; {alone:.1f} ms without the others"
    yield within("10 hung channels and one good one, publish to arrival there", beside, 100, "ms", more)
    yield within(
        "the same, Apprise alone with the 11 URLs in one object, the good one last", apprise_alone, 100, "ms"
    )._replace(bar=None)


async def delays(hung: int, rounds: int = 12) -> list[float]:
    """Return the seconds from publishing an alert to its arrival, for one alert after another."""
    async with receiving() as receiver:
        names = [*(f"hung-{number}" for number in range(hung)), "good"]
        sink = AlertSink(
            {
                "route": {
                    "receiver": "good",
                    "group_by": ["..."],
                    "group_wait": "0s",
                    "routes": [{"receiver": name, "continue": True} for name in names],
                },
                "receivers": [
                    {"name": name, "apprise_configs": [{"url": receiver.url(name), "timeout": "300ms"}]}
                    for name in names
                ],
            },
            drain_timeout=0,
        )
        stream, times = InMemoryStream(), []
        async with attach(stream, sink):
            for number in range(rounds):
                event = create_event(None, topic="alerts", labels=labels_of(number))
                times.append(await receiver.seconds_to_arrive(partial(stream.publish_nowait, event)))
                await asyncio.sleep(0.1)
    return times[1:]  # the first opens what the others use


async def delay_of_apprise(hung: int) -> float:
    async with receiving() as receiver:
        one = apprise.Apprise()
        for name in [*(f"hung-{number}" for number in range(hung)), "good"]:
            assert one.add(receiver.url(name))
        loop = asyncio.get_running_loop()
        return await receiver.seconds_to_arrive(lambda: loop.run_in_executor(None, one.notify, "it burns"))


# What it costs others


def importing() -> Iterator[Result]:
    package = "codomyrmex.integrations.notification"
    named = f"from {package} import AlertSink, AppriseChannel"
    programs = {"pass": "pass"} | {
        code: f"{code}\nimport sys\nassert 'apprise' not in sys.modules"
        for code in (f"import {package}", named)
    }
    figures: dict[str, list[float]] = {code: [] for code in programs}
    with TemporaryDirectory() as compiled:
        for times in [{}, *[figures] * 7]:  # the first of them compiles what is imported
            for code, program in programs.items():
                times.setdefault(code, []).append(milliseconds_of(program, compiled))
    nothing, *others = (statistics.median(each) for each in figures.values())
    details = [f" of CPU, {each - nothing:.0f} more than `python -c pass`" for each in others]
    yield within(f"import {package}, which imports no apprise", others[0], 150, "ms", details[0])
    yield within(
        "the same, and AlertSink and AppriseChannel from it", others[1], 150, "ms", details[1]
    )._replace(bar=None)


def milliseconds_of(program: str, compiled: str) -> float:
    """Return the CPU time of a new process, whose imports are compiled already."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1_000


def publishing() -> Iterator[Result]:
    sink = AlertSink(by_team(), drain_timeout=0)
    alerts, plain = InMemoryStream(), InMemoryStream()
    plain.subscribe_nowait(counting_handler())
    attachment = attach(alerts, sink)
    events: list[Event] = []
    turn, n = iter(range(10**9)), 1_000

    async def start() -> int:
        await attachment.start()
        return 0

    async def settle() -> int:
        await sink.flush()
        await asyncio.sleep(0.01)
        return 0

    def take(*, new: bool) -> None:
        run(settle())
        first = next(turn) * n if new else 0
        numbers = range(first, first + n) if new else [0] * n
        events[:] = [create_event(None, topic="alerts", labels=labels_of(number)) for number in numbers]

    def publish_to(stream: InMemoryStream) -> int:
        for event in events:
            stream.publish_nowait(event)
        return n

    async def stop() -> int:
        await attachment.aclose(10)
        return 0

    run(start())
    for new, which in ((False, "one alert again and again"), (True, "alerts that are all new")):

        def prepare(new: bool = new) -> None:  # noqa: FBT001 - of this function only
            take(new=new)

        result = compare_prepared(
            f"publish to an AlertSink, {which}",
            "publish to one plain handler, which counts",
            (prepare, lambda: publish_to(alerts)),
            (prepare, lambda: publish_to(plain)),
            bar=0.0,
        )
        yield result._replace(ratio=1 / result.ratio, bar=None, rate=False)
    assert not attachment.health()["alerts"].dropped
    run(stop())


if __name__ == "__main__":
    print(grow())
