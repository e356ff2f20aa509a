"""`alerts serve` and Debian's Alertmanager: the same requests, the same responses but for ids and times."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from alert_servers import Pair, Server, both, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CONFIG = """
route:
  receiver: default
  group_by: [alertname]
  group_wait: 1h
  routes:
  - matchers: [team="db"]
    receiver: db/pager
    continue: true
  - matchers: [team=~"db|web"]
    receiver: chat
    group_by: [alertname, team]
  - matchers: [team="all"]
    group_by: ['...']
inhibit_rules:
- source_matchers: [severity="critical"]
  target_matchers: [severity="warning"]
  equal: [cluster]
receivers:
- name: default
- name: db/pager
- name: chat
"""
ALERTS, GROUPS, SILENCES, SILENCE = (
    f"/api/v2/{path}" for path in ("alerts", "alerts/groups", "silences", "silence")
)
NOBODY = "00000000-0000-0000-0000-000000000000"
JSON = {"content-type": "application/json"}
FROM, UNTIL = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
A = {"alertname": "A"}
MATCHER = {"name": "alertname", "value": "Quiet", "isRegex": False, "isEqual": True}
QUIET = {"matchers": [MATCHER], "startsAt": FROM, "endsAt": UNTIL, "createdBy": "ann", "comment": "c"}

_NEWER = ("mutedBy", "routeLabels", "annotations")
"""Keys that later versions than Debian's have; they are left out where they are empty."""


class Ask(NamedTuple):
    """A request; `{id}` in it is the last id of a silence that the server has sent."""

    method: str
    path: str
    body: Any = None  # bytes, or what becomes JSON
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed

    def send(self, server: Server, last_id: str) -> tuple[Any, ...]:
        content = self.body if isinstance(self.body, bytes | None) else json.dumps(self.body).encode()
        headers = self.headers or ({} if content is None else JSON)
        if content is not None:
            content = content.replace(b"{id}", last_id.encode())
        path = self.path.replace("{id}", last_id)
        answer = server.client.request(self.method, path, content=content, headers=headers)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind != "application/json":
            return answer.status_code, kind if answer.text else "", answer.text
        return answer.status_code, kind, json.loads(answer.text or "null")


def comparable(answer: tuple[Any, ...]) -> list[Any]:
    """Return what must be the same: of a refusal only its status.

    Debian's version has 422 where a body or a parameter has another form than the description of the API
    says, which does not have this status itself; and 500 where a silence that is to be deleted is unknown.
    """
    status, kind, body = answer
    if status < 400:
        return [status, kind, body]
    return ["unknown" if status in {404, 500} else "refused" if status in {400, 422} else status]


def without_moments(value: Any) -> Any:
    """Return a body whose ids and times near now are the same for each server."""
    if isinstance(value, dict):
        return {
            key: without_moments(each)
            for key, each in value.items()
            if each not in ([], {}) or key not in _NEWER
        }
    if isinstance(value, list):
        return [without_moments(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", value) and value != NOBODY:
        return "<id>"
    if isinstance(value, str) and re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", value):
        moment = datetime.fromisoformat(value)
        seconds = (moment - datetime.now(UTC)).total_seconds()
        return f"<now {round(seconds / 60):+d} min>" if abs(seconds) < 86_400 else moment.astimezone(UTC)
    return value


def different(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """Describe where two bodies differ."""
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, pair in enumerate(zip(here, there, strict=True)):
            yield from different(*pair, f"{path}[{number}]")
    elif isinstance(here, dict) and isinstance(there, dict) and here.keys() == there.keys():
        for key, value in here.items():
            yield from different(value, there[key], f"{path}.{key}")
    elif here != there:
        yield f"  {path}\n    here {here}\n   there {there}"


class Sides:
    """Sends requests to both and collects the differences."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._ids = ["", ""]

    def differences(self, asks: list[Ask]) -> list[str]:
        return [text for ask in asks for text in self._difference(ask)]

    def _difference(self, ask: Ask) -> Iterator[str]:
        answers = []
        for side, server in enumerate(self.pair):
            answer = ask.send(server, self._ids[side])
            if isinstance(answer[2], dict) and "silenceID" in answer[2]:
                self._ids[side] = answer[2]["silenceID"]
            answers.append(without_moments(comparable(answer)))
        if answers[0] != answers[1]:
            yield f"{ask}\n" + "\n".join(different(*answers))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with both(tmp_path_factory.mktemp("servers"), CONFIG) as servers:
        yield servers


@pytest.fixture
def sides(pair: Pair) -> Sides:
    return Sides(pair)


def agree(differences: list[str]) -> None:
    __tracebackhide__ = True
    if differences:
        pytest.fail(f"{len(differences)} differences:\n" + "\n".join(differences), pytrace=False)


def post(*alerts: Any) -> Ask:
    return Ask("POST", ALERTS, list(alerts))


def alert(**changes: Any) -> dict[str, Any]:
    return {"labels": A, "startsAt": FROM, "endsAt": UNTIL, **changes}


def test_posts_of_alerts(sides):
    agree(
        sides.differences(
            [
                post(),
                Ask("POST", ALERTS, b"", JSON),
                Ask("POST", ALERTS, b"null", JSON),
                post({}),
                post({"labels": None}),
                post({"labels": {}}),
                post({"labels": {"a": ""}}),
                post({"labels": {"a": None}}),
                post({"labels": {"": "x"}}),
                post(alert(labels={"alertname": "ü\n\x00"})),
                post(alert(startsAt="2020-01-01T00:00:00+05:30")),
                post(alert(startsAt="2020-01-01T00:00:00.123456789Z")),
                post(alert(endsAt="2019-01-01T00:00:00Z")),
                post(alert(endsAt=None), alert(generatorURL="")),
                *(
                    post(alert(generatorURL=url))
                    for url in ("no url", "relative", "http://prom/graph?a=%22b%22")
                ),
                post(alert(annotations={"": "x"})),
                post(alert(annotations={"a": "", "b": "c"})),
                post(alert(annotations={"c": "d"}, generatorURL="http://x/", unknown=1)),
                post({"labels": {}}, alert(labels={"alertname": "Valid"}), alert(labels={"": "x"})),
                Ask("POST", ALERTS, b"[]", {"content-type": "text/plain"}),
                Ask("POST", ALERTS, b"[]", {"content-type": "application/json; charset=utf-8"}),
                Ask("GET", ALERTS),
            ]
        )
    )


def test_times_that_are_left_out(sides):
    agree(
        sides.differences(
            [
                post({"labels": {"alertname": "Now"}}),
                post({"labels": {"alertname": "Ended"}, "endsAt": "2019-01-01T00:00:00Z"}),
                post({"labels": {"alertname": "Zero"}, "endsAt": "0001-01-01T00:00:00Z"}),
                post({"labels": {"alertname": "Since"}, "startsAt": FROM}),
                *(
                    Ask("GET", f'{ALERTS}?filter=alertname="{name}"')
                    for name in ("Now", "Ended", "Zero", "Since")
                ),
            ]
        )
    )


def test_alerts_that_are_posted_again_are_merged(sides):
    # Without annotations and a URL, those of earlier posts are kept here, and not there.
    full = {"annotations": {"a": "1"}, "generatorURL": "http://x/"}

    def again(**changes: Any) -> list[Ask]:
        return [
            post(alert(**{"labels": {"alertname": "Again"}, **full, **changes})),
            Ask("GET", f"{ALERTS}?filter=alertname=Again"),
        ]

    agree(
        sides.differences(
            [
                *again(annotations={"a": "1"}),
                *again(annotations={"b": "2"}, generatorURL="http://y/"),
                *again(startsAt="2019-01-01T00:00:00Z"),
                *again(startsAt="2021-01-01T00:00:00Z"),
                *again(endsAt="2098-01-01T00:00:00Z"),
                *again(endsAt=None),
                *again(endsAt=None),
                *again(endsAt="2021-01-01T00:00:00Z"),
                *again(endsAt="2020-06-01T00:00:00Z"),
                *again(startsAt="2022-01-01T00:00:00Z", endsAt=None),
            ]
        )
    )


FILTERED = [
    {"alertname": "Source", "cluster": "a", "severity": "critical"},
    {"alertname": "Hidden", "cluster": "a", "severity": "warning", "team": "db"},
    {"alertname": "Other", "cluster": "b", "severity": "warning", "team": "web"},
    {"alertname": "Quiet", "team": "db"},
    {"alertname": "Each", "team": "all", "instance": "1"},
    {"alertname": "Each", "team": "all", "instance": "2"},
]
QUERIES = (
    *(
        "",
        "?",
        "?unknown=1",
        "?active=false",
        "?active=true&active=false",
        "?active=maybe",
        "?active=",
        "?active=1",
    ),
    *("?silenced=false", "?inhibited=false", "?unprocessed=false", "?silenced=false&inhibited=false"),
    *("?active=false&silenced=false", "?active=false&silenced=false&inhibited=false"),
    *("?filter=team=db", '?filter=team="db"', "?filter=team!=db", "?filter=team=~d.", "?filter=team!~d.|web"),
    *(
        "?filter=team=",
        '?filter=nothing=""',
        "?filter=team=db&filter=alertname=Quiet",
    ),
    *("?filter=bad", "?filter=", '?filter={team="db"}', "?filter=team%3D~%22(%22"),
    *(
        "?receiver=default",
        "?receiver=def",
        "?receiver=d.*",
        "?receiver=",
        "?receiver=nobody",
        "?receiver=db/pager",
    ),
    *("?receiver=chat&filter=severity=warning", "?receiver=chat&active=false"),
)


@pytest.fixture
def filtered(sides, pair) -> Sides:
    """Servers with alerts that are active, silenced and inhibited."""
    sides.differences([post(*(alert(labels=labels) for labels in FILTERED)), Ask("POST", SILENCES, QUIET)])
    for server in pair:
        wait_for(lambda server=server: len(server.get("alerts/groups?filter=alertname=Each")) == 2)
        # Neither computes what is silenced or inhibited before somebody asks.
        wait_for(lambda server=server: len(server.get("alerts?active=false")) == 2)
    return sides


@pytest.mark.parametrize("path", [ALERTS, GROUPS])
def test_queries_of_alerts(filtered, path):
    agree(filtered.differences([Ask("GET", f"{path}{query}") for query in QUERIES]))


def test_groups_whose_alerts_are_all_muted(filtered):
    agree(filtered.differences([Ask("GET", f"{GROUPS}?{query}") for query in ("muted=true", "muted=x")]))


def test_silences(sides):
    def silence(**changes: Any) -> Ask:
        return Ask("POST", SILENCES, {**QUIET, **changes})

    def matching(**changes: Any) -> Ask:
        return silence(matchers=[{"name": "a", "value": "b", "isRegex": False, **changes}])

    get = Ask("GET", f"{SILENCE}/{{id}}")
    agree(
        sides.differences(
            [
                Ask("POST", SILENCES, b"", JSON),
                Ask("POST", SILENCES, {}),
                *(silence(matchers=value) for value in ([], None)),
                silence(matchers=[{"name": "a", "value": "b"}]),
                matching(value=""),
                matching(value=".*", isRegex=True),
                matching(name=""),
                silence(startsAt=None),
                silence(createdBy=None),
                silence(comment=None),
                silence(endsAt="2019-01-01T00:00:00Z"),
                silence(startsAt="2018-01-01T00:00:00Z", endsAt="2019-01-01T00:00:00Z"),
                silence(id="nonsense"),
                silence(id=NOBODY),
                *(Ask(method, f"{SILENCE}/{each}") for method in ("GET", "DELETE") for each in [NOBODY]),
                silence(comment="", createdBy="", id=""),
                matching(isEqual=False),
                get,
                Ask("DELETE", f"{SILENCE}/{{id}}"),  # it would mute the alerts of other tests
                silence(startsAt="2098-01-01T00:00:00Z"),
                get,
                silence(id="{id}", startsAt="2098-06-01T00:00:00Z", comment="moved"),
                get,
                silence(id="{id}", startsAt=FROM),
                get,
                silence(id="{id}", endsAt="2090-01-01T00:00:00Z"),
                get,
                silence(id="{id}", matchers=[{**MATCHER, "value": "Else"}]),
                get,
                Ask("GET", f'{SILENCES}?filter=alertname="Else"'),
                *(
                    Ask("GET", f"{SILENCES}?{query}")
                    for query in ("filter=bad", "filter=none=x", "filter=a=~b|c")
                ),
                *(Ask("DELETE", f"{SILENCE}/{{id}}") for _ in range(2)),
                get,
                silence(id="{id}"),
                get,
                Ask("DELETE", f"{SILENCE}/{{id}}"),
            ]
        )
    )


def test_everything_else(sides):
    agree(
        sides.differences(
            [
                Ask("GET", "/api/v2/receivers"),
                *(Ask(method, f"/-/{path}") for method in ("GET", "HEAD") for path in ("healthy", "ready")),
                *(Ask(method, "/-/reload") for method in ("POST", "GET")),
                *(Ask("GET", path) for path in ("/api/v2/nothing", "/api/v2/", "/nothing", f"{SILENCE}/")),
                *(Ask(method, ALERTS) for method in ("PUT", "DELETE", "HEAD", "PATCH")),
                Ask("POST", GROUPS, []),
                Ask("PATCH", SILENCES),
            ]
        )
    )


NAMES = st.sampled_from(["alertname", "a", "b", "_", ""])
VALUES = st.one_of(
    st.sampled_from(["", "x", "y"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
LABELS = st.dictionaries(NAMES, VALUES, max_size=3)
TIMES = [FROM, "2019-06-01T12:00:00.5Z"]
EXAMPLES = itertools.count()
POSTED = st.fixed_dictionaries(
    # Without annotations and a URL, those of earlier posts are kept here, and not there.
    {
        "labels": LABELS,
        "annotations": st.just({"a": "b"}),
        "generatorURL": st.just("http://x/y"),
        # Without a start, an alert that ends in the future starts at its end there, and now here. One that
        # starts in the future and has no end is refused there.
        "startsAt": st.sampled_from(TIMES),
    },
    optional={"endsAt": st.sampled_from([*TIMES, UNTIL, "0001-01-01T00:00:00Z", None])},
)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.lists(POSTED, max_size=3), max_size=3))
def test_posts_of_any_alerts(sides, posts):
    example = f"{next(EXAMPLES)}"
    asks = []
    for alerts in posts:
        own = [{**each, "labels": {**each["labels"], "example": example}} for each in alerts]
        asks += [post(*own), Ask("GET", f"{ALERTS}?filter=example={example}")]
    agree(sides.differences(asks))
