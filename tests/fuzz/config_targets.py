"""Targets: configuration files, what stands in them, templates, and the state of alerts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from codomyrmex.integrations.configuration.durations import Duration
from codomyrmex.integrations.configuration.environment import ExpansionError, expand
from codomyrmex.integrations.configuration.matcher_text import parse_matchers
from codomyrmex.integrations.configuration.matchers import MatcherError, matches_all
from codomyrmex.integrations.configuration.problems import ConfigError
from codomyrmex.integrations.configuration.rates import RateLimit
from codomyrmex.integrations.durable import StoreConfigError
from codomyrmex.integrations.notification import (
    Alert,
    AlertConfigError,
    AlertEngine,
    AlertRouter,
    LabelRules,
    lint,
    load_alert_config,
    simulate,
)
from codomyrmex.integrations.notification.alerts.control import apply_control
from codomyrmex.integrations.notification.alerts.messages import NotificationRenderer
from codomyrmex.integrations.notification.alerts.old_state import find_old_state
from codomyrmex.integrations.notification.alerts.replay import read_events, replay
from codomyrmex.integrations.notification.alerts.state_admin import silences_of
from codomyrmex.integrations.notification.alerts.state_records import (
    StateNames,
    decode_change,
    decode_entry,
    decode_state,
    encode_changes,
    value_name,
)
from codomyrmex.integrations.notification.event_renderer import EventRenderer
from codomyrmex.integrations.notification.go_templates import GoTemplateError, GoTemplates
from codomyrmex.integrations.notification.templates import TemplateError, compile_template
from codomyrmex.integrations.pipelines.config import PipelineConfigError, load_pipeline_config
from codomyrmex.streaming import Event
from fuzz.fuzzing import Targets
from fuzz.record_targets import EVENT, JSON, decoded_events, path, text
from go_template_cases import NOTIFICATION

TARGETS = Targets()
NOW = 1_800_000_000.0
YAML = (
    b"\n", b"  ", b"- ", b": ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"<<: *a", b"'", b'"', b"|", b">",
    b"#", b"\t", b"!!binary ", b"!!timestamp ", b"!!python/object:os.system ", b"? ", b"---\n", b"...\n",
    b"0x1", b"1_0", b"12:30:45", b"2026-13-45", b"~", b".inf", b".nan", b"%YAML 1.2\n", b"\xef\xbb\xbf",
    b"\x00", b"${HOME}", b"${", b"$${",
)  # fmt: skip
CONFIG = load_alert_config({
    "route": {"receiver": "ops", "group_by": ["cluster"]},
    "receivers": [{"name": "ops", "apprise_configs": [{"url": "json://127.0.0.1"}]}],
})  # fmt: skip

GO_TEMPLATES = GoTemplates()


# Texts


@TARGETS.add(
    b"=", b"!=", b"=~", b"!~", b"{", b"}", b",", b'"', b"\\", b"'", b"a", b"team", b"\\x", b"\\u00", b"(",
    b")*", b"[a-", b"{1000}", b"(a|b)", b"\xe2\x98\x83", b"\\n", b"\xc2\xa0", memory=2_000,
)  # fmt: skip
def matchers(data: bytes) -> None:
    for notation in ("fallback", "classic", "utf8"):
        with suppress(MatcherError):
            parsed = parse_matchers(text(data), notation)  # type: ignore[arg-type]
            matches_all(parsed, {"a": "b"})
            for matcher in parsed:
                if matcher.name.isprintable() and matcher.value.isprintable():
                    assert parse_matchers(str(matcher), "utf8") == [matcher]


@TARGETS.add(
    b"1", b"y", b"w", b"d", b"h", b"m", b"s", b"ms", b"/", b"0", b"9" * 20, b"${", b"}", b":-", b"$${",
    b"A",
)  # fmt: skip
def small_texts(data: bytes) -> None:
    with suppress(ValueError):
        assert float(Duration.parse(text(data))) >= 0
    with suppress(ValueError):
        assert RateLimit.parse(text(data)).seconds > 0
    with suppress(ExpansionError):
        expand(text(data), {"A": "${A}"})


# Files


@TARGETS.add(
    *YAML, b"route:", b"receiver:", b"receivers:", b"name:", b"matchers:", b"group_by: [...]",
    b"group_wait: 1s", b"apprise_configs:", b"url: json://h", b"inhibit_rules:", b"equal:",
    b"time_intervals:", b"times:", b"months:", b"'09:00'", b"location: Europe/Berlin", b"labels:",
    b"tests:", b"global:", b"match_re:", memory=8_000, seconds=4,
)  # fmt: skip
def alert_file(data: bytes) -> None:
    try:
        config = load_alert_config(f"{text(data)}\n", environ={})
    except AlertConfigError as error:
        str(error)
        return
    lint(config, NOW)
    labels = {"alertname": "a", "team": "db", "severity": "critical"}
    AlertRouter(config).match(labels)
    simulate(config, [(NOW, Alert(labels))], NOW + 600)


@TARGETS.add(
    *YAML, b"sources:", b"processors:", b"sinks:", b"type: stdin", b"type: file", b"type: filter",
    b"type: jsonl", b"path: a", b"pattern: '(?P<n>.*)'", b"type: http", b"listen: 127.0.0.1:0",
    b"type: sse", b"url: http://h/", b"type: dashboard", b"matchers: [a=b]", b"type: set", b"metadata:",
    b"type: rate_limit", b"rate: 1/1s", b"type: sample", b"share: 0.5", b"topic:", b"where:", b"delivery:",
    b"{data.a}", memory=8_000, seconds=4,
)  # fmt: skip
def pipeline_file(data: bytes) -> None:
    path("pipeline.yaml").write_bytes(data)
    try:
        config = load_pipeline_config(path("pipeline.yaml"), environ={})
    except PipelineConfigError as error:
        str(error)
    else:
        assert config.sources
        assert config.sinks


@TARGETS.add(*JSON, *EVENT, b'"labels":', b'"status": "resolved"')
def recorded_events(data: bytes) -> None:
    path("events.jsonl").write_bytes(data)
    with suppress(ConfigError):
        replay(CONFIG, read_events(path("events.jsonl")))


# Templates


@TARGETS.add(
    b"{{ ", b" }}", b"{% if ", b" %}", b"{% endif %}", b"{% set ", b"{# ", b" #}", b"event", b".data",
    b".items()", b"|safe", b"|join(',')", b"|tojson", b"|upper", b"~", b"*", b"**", b".__class__", b"[0]",
    b"'a'", b"|format", b"|attr('__class__')", b"{% macro m() %}", b"{% endmacro %}", b"\n", b"-%}",
    memory=4_000, seconds=4,
)  # fmt: skip
def templates(data: bytes) -> None:
    if b"range" in data or b"for" in data:  # who writes a template may let it run; see SECURITY.md
        return
    event = Event("1", data={"a": ["<b>", 1, None]}, metadata={"topic": "t"})
    for kind in ("text", "markdown", "html"):
        with suppress(TemplateError):
            compile_template(text(data), kind).render(event=event.to_dict())


@TARGETS.add(
    b"{{ ", b" }}", b"{{- ", b" -}}", b"{{/*", b"*/}}", b"{{ end }}", b"{{ else }}", b"{{ if .Status }}",
    b"{{ range .Alerts }}", b"{{ with $x := .Labels }}", b'{{ define "a" }}', b'{{ template "a" . }}', b"$x",
    b" = ", b" := ", b".Alerts", b".StartsAt.Format ", b'"2006-01-02"', b"(index .Alerts 0)", b"printf ",
    b'"%*[1]d %q"', b"reReplaceAll ", b"slice ", b"dict ", b"list ", b"toJson ", b"| html", b"| urlquery",
    b"safeHtml ", b"<p title=", b"<a href='", b"<style>", b"</style>", b"<!--", b"-->", b"<title>", b"\xff",
    b"0x1p-2", b"'\\377'", b"1e999", memory=4_000, seconds=4,
)  # fmt: skip
def go_templates(data: bytes) -> None:
    with suppress(GoTemplateError):
        GO_TEMPLATES.compile(text(data)).render(NOTIFICATION)
    with suppress(GoTemplateError):
        GO_TEMPLATES.compile(text(data), html=True).render(NOTIFICATION)


# Alerts


@TARGETS.add(
    *JSON, *EVENT, b'"labels":', b'"annotations":', b'"starts_at":', b'"ends_at":',
    b'"status": "resolved"', b'"alertname":', b'"severity":', b'"url":', memory=2_000,
)  # fmt: skip
def alerts(data: bytes) -> None:
    """No alert keeps another one of its group from being sent."""
    steps: list[tuple[float, Any]] = []
    for event in decoded_events(data):
        EventRenderer("{{ event.topic }}", "{{ event.data }}", "markdown").message(event)
        EventRenderer(None, None, "text").message(event)
        alert = LabelRules().alert_of(event)
        if alert is not None:
            steps.append((NOW, alert))
    steps.append((NOW, Alert({"alertname": "Good"}, starts_at=NOW)))
    renderer = NotificationRenderer(CONFIG)
    channel = CONFIG.receivers["ops"].channels[0]
    bodies = [
        renderer.message(sent.notification, channel).body for sent in simulate(CONFIG, steps, NOW + 600)
    ]
    assert any("Good" in body for body in bodies)


# The state of alerts

STATE = (
    *JSON, b'"alert"', b'"group"', b'"log"', b'"silence"', b'"matchers":', b'"starts_at":', b'"ends_at":',
    b'"labels":', b'"route":', b'"next_tick":', b'"updated_at":', b'"in_flight":', b'"pending":', b"\n",
)  # fmt: skip
NAMES = StateNames("alerts", "alerts")


def _saved_alert() -> dict[tuple[str, str], Any]:
    engine = AlertEngine(CONFIG)
    engine.observe([Alert({"alertname": "Saved"})], NOW)
    return engine.pop_changes()


SAVED = _saved_alert()


def _restored(state: Mapping[tuple[str, str], Any]) -> None:
    """A value affects only itself, whatever it is: what else is saved is there, and is notified."""
    silences_of(state)
    engine = AlertEngine(CONFIG, {**state, **SAVED})
    assert "Saved" in {alert.labels.get("alertname") for alert in engine.alerts()}
    _works(engine)


def _works(engine: AlertEngine) -> None:
    engine.resume(NOW)
    engine.observe([Alert({"alertname": "Good"})], NOW)
    for notification in engine.due(NOW + 600):
        engine.delivered(notification, NOW + 600)
    engine.next_deadline()
    for value in encode_changes(engine.pop_changes()).values.values():
        if value is not None:
            decode_change(value)


@TARGETS.add(*STATE, b"\xff", b"\\ud800", memory=4_000)
def state_values(data: bytes) -> None:
    """Each line is a value."""
    values = {}
    for number, line in enumerate(data.split(b"\n")[:50]):
        name = str(number)
        with suppress(ValueError):
            kind, key, _ = decode_change(line)
            name = value_name(kind, key)
        values[f"{NAMES.prefix}{name}"] = line
    _restored(decode_state({**values, NAMES.head: data[:200]}, NAMES)[1])


@TARGETS.add(*STATE, b'{"head":{"number":1},"last":true,"changes":[', b"]}", memory=4_000)
def state_changes(data: bytes) -> None:
    """Each line is an entry of the log of changes. A process on standby starts again if one is damaged."""
    engine = AlertEngine(CONFIG, SAVED)
    for line in data.split(b"\n")[:50]:
        try:
            changes = decode_entry(line)[2]
        except ValueError:
            continue
        with suppress(Exception):
            engine.apply(changes)
    _works(engine)


@TARGETS.add(*STATE, b'{"alert":', b'{"silence":', b'{"log":', b'"firing":', memory=4_000)
def alert_controls(data: bytes) -> None:
    """Each line has the data of an event from another process."""
    engine = AlertEngine(CONFIG, SAVED)
    for line in data.split(b"\n")[:50]:
        with suppress(ValueError, RecursionError):
            decoded = json.loads(line)
            if isinstance(decoded, dict):
                with suppress(Exception):  # the sink logs and counts it
                    apply_control(engine, decoded, NOW)
    _works(engine)


@TARGETS.add(b"SQLite format 3\0", b"\0", b"\xff", b"CREATE TABLE")
def state_file(data: bytes) -> None:
    """A state file of an earlier version."""
    for name in ("state", "state-wal", "state-shm", "state-journal"):
        path(name).unlink(missing_ok=True)
    path("state").write_bytes(data)
    _migrated()


def _migrated() -> None:
    old = find_old_state(path("state"))
    if old is not None:
        with suppress(StoreConfigError):
            _restored(old.load())


@TARGETS.add(*STATE)
def state_rows(data: bytes) -> None:
    """Each line has the kind, the key and the value of a row, separated by tabs."""
    for name in ("state", "state-wal", "state-shm", "state-journal"):
        path(name).unlink(missing_ok=True)
    rows = [[*line.split("\t"), "", "", ""][:3] for line in data.decode(errors="replace").split("\n")[:50]]
    database = sqlite3.connect(path("state"))
    with database:
        database.execute("CREATE TABLE state (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key))")
        database.execute("PRAGMA user_version=1")
        database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", rows)
    database.close()
    _migrated()
