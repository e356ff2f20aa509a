"""The real Alertmanager and amtool of Debian: the same configuration and alerts, and no difference.

A failure shows the random seed; set `ALERTMANAGER_SEED` to it to repeat the run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from codomyrmex.integrations.notification import (
    Alert,
    AlertEngine,
    AlertRouter,
    MatcherError,
    load_alert_config,
    parse_matchers,
    simulate,
)
from codomyrmex.integrations.notification.alerts.config import AlertConfig

PATIENCE = 20.0
SEED = os.environ.get("ALERTMANAGER_SEED") or str(random.randrange(1_000_000))
ALERTMANAGER = shutil.which("prometheus-alertmanager")
AMTOOL = shutil.which("amtool")

Labels = Mapping[str, str]
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def programs() -> None:
    """Skip on a person's machine where they are absent; fail in CI, which installs them."""
    if not (ALERTMANAGER and AMTOOL):
        what = "Debian's prometheus-alertmanager"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{what} is absent, and CI should have installed it")
        pytest.skip(f"{what} is not installed here")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def agree(differences: list[Any]) -> None:
    __tracebackhide__ = True
    shown = "\n".join(map(str, differences[:5]))
    assert not differences, f"{len(differences)} differences with ALERTMANAGER_SEED={SEED}, such as\n{shown}"


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def frozen(labels: Labels) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def written(config: Json, path: Path) -> Path:
    path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
    return path


# The server, and one for its webhooks


class Alertmanager:
    def __init__(self, url: str, file: Path) -> None:
        self.client = httpx.Client(base_url=url, timeout=PATIENCE)
        self._file = file

    def reload(self, config: Json) -> None:
        written(config, self._file)
        answer = self.client.post("/-/reload")
        assert answer.is_success, answer.text

    def post(self, alerts: Iterable[Json]) -> None:
        answer = self.client.post("/api/v2/alerts", json=list(alerts))
        assert answer.is_success, answer.text

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/v2/{path}").raise_for_status().json()

    def is_ready(self) -> bool:
        try:
            return self.client.get("/-/ready").is_success
        except httpx.TransportError:
            return False


@contextmanager
def alertmanager(folder: Path, config: Json) -> Iterator[Alertmanager]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    file, log = written(config, folder / "alertmanager.yml"), folder / "alertmanager.log"
    command = [
        *(str(ALERTMANAGER), f"--config.file={file}", f"--storage.path={folder / 'data'}"),
        *(f"--web.listen-address={address}", "--cluster.listen-address="),
    ]
    server = Alertmanager(f"http://{address}", file)
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process, server.client:
        try:
            ready = wait_for(lambda: process.poll() is not None or server.is_ready())
            ready = ready and process.poll() is None
            assert ready, log.read_text(errors="replace")[-2_000:]
            yield server
        finally:
            process.kill()


class Hook(ThreadingHTTPServer):
    """Takes webhooks, many at once."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HookAnswers)
        self.got: list[Json] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def receiver(self, name: str, **options: Any) -> Json:
        return {"name": name, "webhook_configs": [{"url": self.url, **options}]}


class HookAnswers(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Log nothing."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(AMTOOL), *arguments], capture_output=True, text=True, check=False)


# Routing and grouping

NAMES = ["a", "b", "c", "a_b"]
VALUES = ["", "x", "y", "xy", "x,y", 'say "hi"', "C:\\temp", "é 🙂", "line\nbreak", "1"]
PATTERNS = ["x|y", "x.*", ".*", ".+", "|x", "(x|xy),?y?", r"\d", r"[^x]+", "(?i)X.", r"\p{L} .", "y?", "a.b"]


def a_matcher(chance: random.Random) -> str:
    op = chance.choice(["=", "=", "!=", "=~", "=~", "!~"])
    value = chance.choice(PATTERNS if "~" in op else VALUES)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{chance.choice(NAMES)}{op}"{escaped}"'


def some_labels(chance: random.Random) -> dict[str, str]:
    return {name: chance.choice(VALUES) for name in NAMES if chance.random() < 0.7}


def a_tree(chance: random.Random) -> Json:
    names = [f"r{number}" for number in range(40)]
    unused = iter(names)

    def routes(depth: int, most: int) -> list[Json]:
        return [route(depth) for _ in range(chance.randint(0, most))] if depth else []

    def route(depth: int) -> Json:
        found: Json = {
            "matchers": [a_matcher(chance) for _ in range(chance.choice([0, 1, 1, 1, 2]))],
            "continue": chance.random() < 0.6,
            "routes": routes(depth - 1, 3),
        }
        if chance.random() < 0.8:
            found["receiver"] = next(unused)
        if chance.random() < 0.4:
            found["group_by"] = chance.choice([["..."], *([name] for name in NAMES), ["a", "c"]])
        return found

    root = {"receiver": "root", "group_by": chance.choice([[], ["a"], ["..."]]), "group_wait": "1h"}
    return {
        "route": {**root, "routes": routes(1, 3) + routes(3, 3)},
        "receivers": [{"name": name} for name in ["root", *names]],
    }


Groups = Counter[tuple[str, frozenset[tuple[str, str]], frozenset[str]]]


def groups_there(server: Alertmanager) -> Groups:
    return Counter(
        (
            group["receiver"]["name"],
            frozen(group["labels"]),
            frozenset(alert["labels"]["alertname"] for alert in group["alerts"]),
        )
        for group in server.get("alerts/groups")
    )


def groups_here(router: AlertRouter, alerts: Iterable[Labels]) -> Groups:
    members: dict[str, set[str]] = defaultdict(set)
    matches = {}
    for labels in alerts:
        for match in router.match(labels):
            matches[match.group_key] = match
            members[match.group_key].add(labels["alertname"])
    return Counter(
        (match.receiver, frozen(match.group_labels), frozenset(members[key]))
        for key, match in matches.items()
    )


def test_alerts_are_routed_and_grouped_as_by_alertmanager(chance, tmp_path):
    alerts: list[dict[str, str]] = []
    differences: list[Any] = []
    with alertmanager(tmp_path, a_tree(chance)) as server:
        for _ in range(10):
            tree = a_tree(chance)
            server.reload(tree)
            new = [{"alertname": f"n{len(alerts) + n}", **some_labels(chance)} for n in range(60)]
            server.post({"labels": labels} for labels in new)
            alerts += new
            router = AlertRouter(load_alert_config(tree))
            names = {
                alert["labels"]["alertname"]: [receiver["name"] for receiver in alert["receivers"]]
                for alert in server.get("alerts")
            }
            assert len(names) == len(alerts)
            differences += [
                (tree["route"], labels, expected, got)
                for labels in alerts
                if (got := [match.receiver for match in router.match(labels)])
                != (expected := names[labels["alertname"]])
            ]
            here = groups_here(router, alerts)
            if not wait_for(lambda here=here: groups_there(server) == here, PATIENCE):
                there = groups_there(server)
                differences.append((tree["route"], "groups", there - here, here - there))
    agree(differences)


def test_receivers_are_in_the_order_of_amtool(chance, tmp_path):
    differences = []
    for number in range(4):
        tree = a_tree(chance)
        file = written(tree, tmp_path / f"{number}.yml")
        router = AlertRouter(load_alert_config(tree))
        for _ in range(8):
            labels = {name: value for name, value in some_labels(chance).items() if value}
            given = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()]
            answer = amtool("config", "routes", "test", f"--config.file={file}", *given)
            got = ",".join(match.receiver for match in router.match(labels))
            if answer.stdout.strip() != got:
                differences.append((tree["route"], labels, answer.stdout, got))
    agree(differences)


def test_groups_have_the_keys_of_alertmanager(hook, tmp_path):
    config = {
        "route": {
            "receiver": "hook",
            "group_by": ["..."],
            "group_wait": "0s",
            "routes": [
                {"matchers": ['b=~"x.*"', 'a="1"'], "routes": [{"matchers": [r'c!="\"\\\n"', "a:b="]}]},
                {"matchers": ['a!~"[v]"', 'a="[v]"', "a=~.*"]},
            ],
        },
        "receivers": [hook.receiver("hook")],
    }
    alerts = [
        {"a": "1", "b": "xy"},
        {"a": "[v]"},
        {"a": 'say "hi"', "b": "C:\\temp"},
        {"a": "é 🙂 \u00a0\u2028"},
        {"a": "tab\tline\nreturn\rbell\a delete\x7f"},
    ]
    router = AlertRouter(load_alert_config(config))
    with alertmanager(tmp_path, config) as server:
        server.post({"labels": labels} for labels in alerts)
        assert wait_for(lambda: len(hook.got) >= len(alerts))
    keys = {frozen(notified["groupLabels"]): notified["groupKey"] for notified in hook.got}
    agree(
        [
            (labels, keys[frozen(labels)], match.group_key)
            for labels in alerts
            for match in router.match(labels)
            if match.group_key != keys[frozen(labels)]
        ]
    )


# Inhibition


def a_rule(chance: random.Random) -> Json:
    def side() -> list[str]:
        return [simple_matcher(chance) for _ in range(chance.choice([1, 1, 2]))]

    source, target = side(), side()
    if chance.random() < 0.4:  # two-sided: a target that can be a source too
        target = chance.choice([source, source[:1], target + source[:1]])
    equal = chance.sample(NAMES, chance.choice([0, 1, 1, 2]))
    return {"source_matchers": source, "target_matchers": target, "equal": equal}


def simple_matcher(chance: random.Random) -> str:
    value = chance.choice(["x", "y", "", "x|y", "x.*"])
    op = chance.choice(["=~", "!~"] if len(value) > 1 else ["=", "=", "!="])
    return f'{chance.choice(NAMES)}{op}"{value}"'


def test_alerts_are_inhibited_as_by_alertmanager(chance, tmp_path):
    base = {"route": {"receiver": "r", "group_wait": "1h"}, "receivers": [{"name": "r"}]}
    alerts: dict[str, dict[str, str]] = {}
    ended: set[str] = set()
    differences: list[Any] = []
    inhibited = 0
    with alertmanager(tmp_path, base) as server:
        for _ in range(8):
            config = {**base, "inhibit_rules": [a_rule(chance) for _ in range(chance.randint(1, 4))]}
            server.reload(config)
            new = {
                f"n{len(alerts) + n}": {name: chance.choice("xyz") for name in NAMES if chance.random() < 0.5}
                for n in range(15)
            }
            server.post({"labels": {"alertname": name, **labels}} for name, labels in new.items())
            alerts |= new
            over = chance.sample(sorted(new), 4)
            ended.update(over)
            server.post(
                {"labels": {"alertname": name, **new[name]}, "endsAt": "2020-01-01T00:00:00Z"}
                for name in over
            )
            engine, now = AlertEngine(load_alert_config(config)), time.time()
            labelled = {name: {"alertname": name, **labels} for name, labels in alerts.items()}
            engine.observe((Alert(labels) for labels in labelled.values()), now - 1)
            engine.observe((Alert(labelled[name], ends_at=now) for name in ended), now)
            here = {
                name: engine.inhibitor_of(labels, now) is not None
                for name, labels in labelled.items()
                if name not in ended
            }

            def there() -> dict[str, bool]:
                return {
                    alert["labels"]["alertname"]: bool(alert["status"]["inhibitedBy"])
                    for alert in server.get("alerts")
                }

            if not wait_for(lambda here=here, there=there: there() == here, PATIENCE):
                theirs = there()
                differences += [
                    (config["inhibit_rules"], labelled[name], f"{theirs.get(name)} there, {here[name]} here")
                    for name in here
                    if theirs.get(name) != here[name]
                ]
            inhibited += sum(here.values())
    agree(differences)
    assert inhibited > 0, f"nothing was inhibited with ALERTMANAGER_SEED={SEED}"


# Time intervals


def a_span(chance: random.Random, first: int, last: int) -> tuple[int, int]:
    one, other = chance.randint(first, last), chance.randint(first, last)
    return min(one, other), max(one, other)


def a_spec(chance: random.Random, now: datetime) -> Json:
    days = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]

    def times() -> Json:
        start, end = a_span(chance, 0, 24 * 60)
        end += start == end
        return {"start_time": clock(start), "end_time": clock(end)}

    def day_of_month() -> str:
        start, end = chance.choice(
            [a_span(chance, 1, 31), a_span(chance, -31, -1), (chance.randint(1, 14), chance.randint(-14, -1))]
        )
        return chance.choice([str(start), f"{start}:{end}"])

    def weekday() -> str:
        start, end = a_span(chance, 0, 6)
        return chance.choice([days[start], f"{days[start]}:{days[end]}"])

    def month() -> str:
        start, end = a_span(chance, 1, 12)
        return chance.choice([str(start), f"{start}:{end}", f"{calendar_name(start)}:{calendar_name(end)}"])

    def year() -> str:
        start, end = a_span(chance, now.year - 2, now.year + 2)
        return chance.choice([str(start), f"{start}:{end}"])

    kinds = {
        "times": times,
        "days_of_month": day_of_month,
        "weekdays": weekday,
        "months": month,
        "years": year,
    }
    fields = chance.sample(sorted(kinds), chance.choice([1, 1, 2, 3]))
    spec: Json = {field: [kinds[field]() for _ in range(chance.choice([1, 1, 2]))] for field in fields}
    if chance.random() < 0.8:  # without summer time, around which Alertmanager counts days wrongly
        spec["location"] = f"Etc/GMT{chance.randint(-14, 12):+d}"
    return spec


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def calendar_name(month: int) -> str:
    return datetime(2026, month, 1, tzinfo=UTC).strftime("%B")


def test_time_intervals_mute_as_in_alertmanager(chance, hook, tmp_path):
    count, now = 400, datetime.now(UTC)
    intervals = [
        {"name": f"t{n}", "time_intervals": [a_spec(chance, now) for _ in range(chance.choice([1, 1, 2]))]}
        for n in range(count)
    ]
    kinds = [chance.choice(["mute", "active"]) for _ in range(count)]
    config = {
        "route": {
            "receiver": "none",
            "group_by": ["n"],
            "group_wait": "0s",
            "group_interval": "1h",
            "routes": [
                {"receiver": "hook", "matchers": [f"n={n}"], f"{kinds[n]}_time_intervals": [f"t{n}"]}
                for n in range(count)
            ],
        },
        "receivers": [{"name": "none"}, hook.receiver("hook")],
        "time_intervals": intervals,
    }
    loaded = load_alert_config(config)

    def told_at(moment: datetime) -> set[int]:
        return {n for n in range(count) if loaded.intervals[f"t{n}"].holds(moment) is (kinds[n] == "active")}

    def notified() -> set[int]:
        return {int(each["groupLabels"]["n"]) for each in list(hook.got)}

    with alertmanager(tmp_path, config) as server:
        before = told_at(datetime.now(UTC))
        server.post({"labels": {"n": str(n)}} for n in range(count))
        wait_for(lambda: notified() >= before, PATIENCE)
        wait_for(lambda: notified() - before, 0.5)  # what should not be notified
        after = told_at(datetime.now(UTC))
    sure = set(range(count)) - (before ^ after)  # the minute may have ended in between
    agree(
        [
            (intervals[n], kinds[n], f"notified: {n in notified()} there, {n in before} here, at about {now}")
            for n in sorted((notified() ^ before) & sure)
        ]
    )
    assert 0 < len(before) < count


# Matchers

CORPUS = [
    *("", "{}", "foo=", "foo=a b", '{foo="bar"', 'foo="bar"}', 'foo="bar",', 'foo="bar",,', "foo=bar=baz"),
    *("foo==bar", "foo=!bar", r'foo=~"\d+"', "foo=~a{2}", '"foo bar"=x', "foo.bar=x", "foo-bar=x", "föö=x"),
    *(
        "0foo=x",
        r'foo="\xf0\x9f\x99\x82"',
        "foo='bar'",
        "foo=`bar`",
        "{,}",
        ",",
        " ",
        "foo",
        "=x",
        "{{foo=x}}",
    ),
    *(
        "{foo=bar}}",
        "{foo=bar}},}",
        "{foo=,bar=}}",
        "{foo=}b",
        "}",
        "{",
        "a:b=c",
        "_a=b",
        "{ foo=x }",
        " {foo=x} ",
    ),
    *(
        r"t==\\=\=\"",
        "tricky=~~~",
        r"foo=bar\n",
        r"foo=bar\t",
        r'foo="\"a\\\n"',
        "foo=a\\",
        'foo="a\\',
        'job="v',
    ),
    *(
        'job=v"',
        'foo="a"b"',
        'foo="" x',
        'foo=~"["',
        'foo=~"(?=x)"',
        'foo="a\nb"',
        "foo\n=\nx",
        "foo=x\n,bar=y",
    ),
    *(r"foo=a\,b", r'foo="x\,y"', "a=1, ,b=2", 'c=1, a!~"x,y" ,b!=2,', "foo=\x0bx", "foo=\u00a0x", "foo=🙂"),
    *(
        'a="v",a!~"v",a!="v",a=~"v"',
        "a=2,a=1",
        'foo="}"',
        "foo=}",
        "foo!=",
        "foo=~",
        "foo!~(?i:a)",
        "\t{foo=x}",
    ),
]


def what_amtool_reads(text: str, file: Path) -> str | None:
    """Return the matchers as amtool shows them; None if it refuses them."""
    routes = [{"receiver": "there", "matchers": [text]}]
    config = {
        "route": {"receiver": "r", "routes": routes},
        "receivers": [{"name": "r"}, {"name": "there"}],
    }
    answer = amtool("config", "routes", "show", f"--config.file={written(config, file)}")
    if answer.returncode:
        return None
    shown = answer.stdout.rpartition("└── ")[2].rstrip("\n").removesuffix("  receiver: there")
    return "{}" if shown == "default-route" else shown


def what_is_read_here(text: str) -> str | None:
    try:
        return f"{{{','.join(map(str, sorted(parse_matchers(text, 'classic'))))}}}"
    except MatcherError:
        return None


def test_matchers_are_read_as_by_amtool(chance, tmp_path):
    pieces = [
        "foo",
        "a",
        "=",
        "=",
        "=~",
        "!=",
        "!~",
        '"',
        '"',
        '\\"',
        "\\",
        "\\n",
        ",",
        "{",
        "}",
        " ",
        "x|y",
        "é",
    ]
    wild = ["".join(chance.choices(pieces, k=chance.randint(1, 6))) for _ in range(20)]
    tame = [f'{chance.choice(["", "{"])}foo="{"".join(chance.choices(pieces, k=3))}"' for _ in range(40)]
    texts = [*CORPUS, *wild, *tame]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = [tmp_path / f"{number}.yml" for number in range(len(texts))]
        read = list(pool.map(what_amtool_reads, texts, files))
    assert None in read
    agree(
        [
            (text, f"{there} there, {here} here")
            for text, there in zip(texts, read, strict=True)
            if there != (here := what_is_read_here(text))
        ]
    )


# Timers

OLD = -3600.0  # seconds before the beginning

# What happens in each group: when, to which alert, and what.
STORIES: dict[str, list[tuple[float, str, str]]] = {
    "new": [(0, "A", "fires"), (1.5, "B", "fires"), (3.5, "A", "ends"), (3.5, "B", "ends")],
    "some": [(0, "A", "fires"), (0, "B", "fires"), (1.5, "A", "ends")],
    "repeat": [(0, "A", "fires")],
    "short": [(0, "A", "fires"), (0.5, "A", "ends")],
    "flaps": [(0, "A", "fires"), (1.5, "A", "ends"), (2.5, "A", "fires")],
    "again": [(0, "A", "fires"), (1.5, "A", "ends"), (3.5, "A", "fires")],
    "old": [(0, "A", "is old"), (2.5, "A", "ends")],
    "late": [(1.5, "A", "fires"), (2, "B", "fires"), (3.5, "B", "ends")],
}
END = 5.7  # between the ticks


def timed(receivers: list[Json]) -> Json:
    return {
        "route": {
            "receiver": "all",
            "group_by": ["story"],
            "group_wait": "1s",
            "group_interval": "2s",
            "repeat_interval": "3s",
            "routes": [{"receiver": "all", "continue": True}, {"receiver": "firing", "matchers": ["x="]}],
        },
        "receivers": receivers,
    }


NotifiedStories = dict[tuple[str, str], list[tuple[str, str, list[tuple[str, str]]]]]


def in_order(notifications: Iterable[Json]) -> NotifiedStories:
    """Return what each receiver was notified about, by story."""
    notified: NotifiedStories = defaultdict(list)
    for each in notifications:
        alerts = sorted((alert["labels"]["alertname"], alert["status"]) for alert in each["alerts"])
        place = (each["groupLabels"]["story"], each["receiver"])
        notified[place].append((each["status"], each["groupKey"], alerts))
    return notified


def happenings() -> list[tuple[float, str, str, str]]:
    return sorted((at, story, name, what) for story, steps in STORIES.items() for at, name, what in steps)


def sent_by_alertmanager(server: Alertmanager, hook: Hook) -> NotifiedStories:
    begin, began = time.monotonic(), time.time()
    for at in sorted({at for at, *_ in happenings()}):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        server.post(
            {
                "labels": {"alertname": name, "story": story},
                **({"endsAt": stamp(time.time())} if what == "ends" else {}),
                **({"startsAt": stamp(began + OLD)} if what == "is old" else {}),
            }
            for when, story, name, what in happenings()
            if when == at
        )
    time.sleep(max(0.0, begin + END - time.monotonic()))
    return in_order(list(hook.got))


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def sent_by_simulation(config: AlertConfig) -> NotifiedStories:
    began = 1_800_000_000.0
    alerts = [
        (
            began + at,
            Alert(
                {"alertname": name, "story": story},
                starts_at=began + OLD if what == "is old" else None,
                ends_at=began + at if what == "ends" else None,
            ),
        )
        for at, story, name, what in happenings()
    ]
    return in_order(sent.notification.to_dict() for sent in simulate(config, alerts, began + END))


def test_a_simulation_sends_what_alertmanager_sends_in_real_time(hook, tmp_path):
    def channel(name: str, **options: Any) -> Json:
        return {"name": name, "apprise_configs": [{"url": "json://127.0.0.1/", **options}]}

    here = sent_by_simulation(
        load_alert_config(timed([channel("all"), channel("firing", send_resolved=False)]))
    )
    assert [status for status, _, _ in here["new", "all"]] == ["firing", "firing", "resolved"]
    config = timed([hook.receiver("all"), hook.receiver("firing", send_resolved=False)])
    with alertmanager(tmp_path, config) as server:
        there = sent_by_alertmanager(server, hook)
    agree(
        [
            (place, f"{there.get(place)} there, {here.get(place)} here")
            for place in sorted({*there, *here})
            if there.get(place) != here.get(place)
        ]
    )
