"""The command `codomyrmex-streaming alerts ...`: what it prints, where to, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import alerts, app, silence
from codomyrmex.integrations.durable import SQLiteStore
from codomyrmex.integrations.notification import Silence, parse_matchers
from typer.testing import CliRunner

CONFIG = """
route:
  receiver: mail
  group_by: [alertname]
  routes:
    - matchers: ['severity=~"critical|page"']
      receiver: oncall
      group_wait: 0s
      continue: true
      routes:
        - matchers: ['service=~"mysql|redis"']
          receiver: db-pager
    - matchers: ['team="web"']
      receiver: chat
      mute_time_intervals: [nights]
      on_unmute: summary
receivers:
  - {name: mail, apprise_configs: [{url: 'json://127.0.0.1/?+X-Auth=SECRET'}]}
  - {name: oncall, apprise_configs: [{url: 'json://127.0.0.1/'}]}
  - {name: db-pager, apprise_configs: [{url: 'json://127.0.0.1/'}]}
  - {name: chat, apprise_configs: [{url: 'json://127.0.0.1/'}]}
time_intervals:
  - name: nights
    time_intervals: [{times: [{start_time: '00:00', end_time: '06:00'}]}]
state: state.db
tests:
  - name: the pager rings at once
    events: [{at: 0s, labels: {severity: critical, service: mysql}}]
    expect: [{at: 0s, receiver: db-pager, firing: 1}]
"""
WRONG = """
route: {receiver: x, routes: [{matchers: ['a="b'], recever: y}]}
receivers: [{name: x, apprise_configs: [{url: 'json://127.0.0.1/'}]}]
"""
EVENTS = [
    {"alertname": "Down", "severity": "critical", "at": "2026-11-25T10:00:00Z"},
    {"alertname": "Slow", "team": "web", "at": "2026-11-25T10:01:00Z"},
]


class Cli:
    """Runs `alerts ...` in a folder with a good file and a wrong one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = self.write("good.yaml", CONFIG)
        self.wrong = self.write("wrong.yaml", WRONG)

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def __call__(self, *args: str, code: int = 0, width: int = 120) -> Any:
        result = CliRunner().invoke(app, ["alerts", *args], env={"COLUMNS": str(width), "NO_COLOR": "1"})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def json(self, *args: str, code: int = 0) -> Any:
        result = self(*args, "--json", code=code)
        return json.loads(result.stdout)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path)


@pytest.fixture
def events(cli):
    lines = [
        json.dumps(
            {
                "id": str(number),
                "type": "error",
                "topic": "checks",
                "data": None,
                "metadata": {name: value for name, value in event.items() if name != "at"},
                "timestamp": event["at"],
            }
        )
        for number, event in enumerate(EVENTS)
    ]
    return cli.write("events.jsonl", "\n".join(lines))


# check


def test_check_of_a_sound_file_prints_nothing_to_stdout(cli):
    result = cli("check", cli.good)
    assert result.stdout == ""
    assert "ok (0 errors, 0 findings, 0 notes)" in result.stderr


def test_check_prints_each_error_with_its_place(cli):
    result = cli("check", cli.wrong, cli.good, code=1)
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{cli.wrong}:2:46: error: route.routes[0].matchers[0]: ")
    assert second.startswith(f"{cli.wrong}:2:52: error: route.routes[0].recever: unknown key recever")
    assert "2 errors" in result.stderr


def test_a_note_is_a_problem_only_with_strict(cli):
    file = cli.write("unused.yaml", CONFIG.replace("receiver: chat", "receiver: mail"))
    result = cli("check", file)
    assert result.stdout.startswith(f"{file}:21:12: note: receivers[3].name: no route uses the receiver chat")
    assert result.stdout.endswith("[unused-receiver]\n")
    found = cli.json("check", file)
    assert (found["ok"], found["findings"], found["notes"][0]["kind"]) == (True, [], "unused-receiver")
    assert cli("check", file, "--no-lint").stdout == ""
    cli("check", file, "--strict", code=1)
    cli("check", file, "--strict", "--no-lint")


def test_a_receiver_that_delivers_nothing_is_a_finding(cli):
    receivers = "receivers: [{name: a, jira_configs: [{api_url: 'http://h', project: p, issue_type: t}]}]"
    file = cli.write("jira.yaml", f"route: {{receiver: a}}\n{receivers}\n")
    result = cli("check", file, code=1)
    assert f"{file}:2:38: lint: receivers[0].jira_configs[0]: " in result.stdout
    assert result.stdout.endswith("[delivers-nothing]\n")


def test_differences_from_alertmanager_are_noted_with_their_position(cli, monkeypatch):
    monkeypatch.setenv("URL", "https://example.org")
    text = (
        "global:\n  slack_api_url: ${URL}\nroute: {receiver: a}\nreceivers:\n- name: a\n  slack_configs:\n"
        "  - channel: x\n    http_config: {authorization: {credentials: 'x${URL}'}}\n  - {channel: x}\n"
    )
    file = cli.write("alertmanager.yml", text)
    lines = cli("check", file).stdout.splitlines()
    replaced = "${NAME} is replaced by an environment variable here, but not in Alertmanager"
    assert lines == [
        f"{file}:2:18: note: global.slack_api_url: {replaced}",
        f"{file}:8:48: note: receivers[0].slack_configs[0].http_config.authorization.credentials: {replaced}",
    ]
    own = cli.write("own.yaml", f"{text}labels: [team]\n")
    assert cli("check", own).stdout == ""


def test_notes_are_problems_only_if_strict(cli):
    file = cli.write("notes.yaml", f"{CONFIG}\ntemplates: [a.tmpl]")
    assert "note: templates[0]: no file matches this" in cli("check", file).stdout
    cli("check", file, "--strict", code=1)


def test_check_as_json(cli):
    assert cli.json("check", cli.good) == {"ok": True, "errors": [], "findings": [], "notes": []}
    found = cli.json("check", cli.wrong, code=1)
    assert not found["ok"]
    assert [(each["line"], each["path"]) for each in found["errors"]] == [
        (2, "route.routes[0].matchers[0]"),
        (2, "route.routes[0].recever"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "- 1",
        "route: 3",
        "[" * 800,
        "a: 1\n\tb: 2",
        "a: &a [*a]",
        "? {}\n: 1",
        "\x00",
        "route: !!python/object:os.system {}",
    ],
)
def test_a_file_that_is_not_a_configuration_is_a_problem_for_every_command(cli, text):
    file = cli.write("broken.yaml", text)
    events = cli.write("none.jsonl", "")
    for command in (["check"], ["show"], ["route"], ["explain"], ["test"], ["replay", "--events", events]):
        assert cli(*command, file, code=1).output.count("error: ") >= 1
        assert not cli.json(*command, file, code=1)["ok"]
    cli("silence", "list", "--config", file, code=1)


def test_a_file_that_is_not_there_or_no_text(cli):
    for command in (["check"], ["show"], ["route"], ["explain"], ["test"]):
        assert "does not exist" in cli(*command, str(cli.folder / "none.yaml"), code=2).stderr
        assert "is a directory" in cli(*command, str(cli.folder), code=2).stderr
    (cli.folder / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    assert "not UTF-8" in cli("check", str(cli.folder / "bytes.yaml"), code=1).stdout


@pytest.mark.parametrize(
    "args",
    [[], ["nonsense"], ["check"], ["check", "--nonsense"], ["replay"], ["silence"], ["silence", "expire"]],
)
def test_wrong_usage_is_reported_on_stderr(cli, args):
    result = cli(*args, code=2)
    assert "Usage: " in result.output
    if args and args != ["silence"]:
        assert result.stdout == ""
        assert "Error: " in result.stderr


# show


def test_show_draws_the_tree_with_what_differs(cli):
    lines = [line.rstrip() for line in cli("show", cli.good).stdout.splitlines()]
    assert lines == [
        "all alerts -> mail",
        "  group by alertname  wait 30s  interval 5m  repeat 4h",
        '├── severity=~"critical|page" -> oncall  continue',
        "│     wait 0s",
        '│   └── service=~"mysql|redis" -> db-pager',
        '└── team="web" -> chat',
        "      muted in nights  on_unmute: summary",
    ]


def test_show_as_json(cli):
    root = cli.json("show", cli.good)
    assert root["receiver"] == "mail"
    assert root["routes"][0]["continue"]
    assert root["routes"][0]["routes"][0] | {"routes": None} == {
        "path": "route.routes[0].routes[0]",
        "line": 11,
        "matchers": ['service=~"mysql|redis"'],
        "continue": False,
        "receiver": "db-pager",
        "group_by": ["alertname"],
        "group_wait": 0.0,
        "group_interval": 300.0,
        "repeat_interval": 14_400.0,
        "mute_time_intervals": [],
        "active_time_intervals": [],
        "on_unmute": "drop",
        "resolve_always": False,
        "labels": {},
        "routes": None,
    }


def test_nothing_is_cut_off_in_a_narrow_terminal(cli):
    long = "|".join(f"service-{number}" for number in range(30))
    file = cli.write("long.yaml", CONFIG.replace("mysql|redis", long))
    shown = cli("show", file, width=60).stdout
    assert all(len(line) <= 60 for line in shown.splitlines())
    text = shown.replace("│", "").replace(" ", "").replace("\n", "")
    assert long in text


def test_a_url_is_never_shown(cli):
    for command in (["show"], ["check"], ["explain"], ["test"], ["route"]):
        assert "SECRET" not in cli(*command, cli.good).output
        assert "SECRET" not in cli(*command, cli.good, "--json").output


# route


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ([], "mail"),
        (["severity=critical"], "oncall"),
        (["severity=critical", "team=web"], "oncall,chat"),
        (["severity=page", "service=redis", "team=web"], "db-pager,chat"),
        (["team="], "mail"),
        (['team="web"'], "chat"),
        (["team=web", "msg=a,b"], "chat"),
        (["team=web", 'msg="say \\"hi\\", C:\\\\temp"'], "chat"),
        (["team=web", "föö.bar=ü"], "chat"),
    ],
)
def test_route_prints_the_receivers_as_amtool_does(cli, labels, receivers):
    assert cli("route", cli.good, *labels).stdout == f"{receivers}\n"


def test_route_verifies_the_receivers_and_their_order(cli):
    labels = ["severity=critical", "team=web"]
    cli("route", cli.good, *labels, "--verify", "oncall,chat")
    result = cli("route", cli.good, *labels, "--verify", "chat,oncall", code=1)
    assert result.stdout == "oncall,chat\n"
    assert result.stderr == "expected chat,oncall, got oncall,chat\n"


def test_route_shows_the_routes_that_match(cli):
    lines = cli("route", cli.good, "severity=critical", "service=redis", "--tree").stdout.splitlines()
    assert [line.split(" -> ")[-1].strip() for line in lines if "->" in line] == [
        "mail",
        "oncall  continue",
        "db-pager",
    ]
    assert lines[-1] == "db-pager"


def test_route_as_json(cli):
    found = cli.json("route", cli.good, "team=web", "alertname=A", "--verify", "chat")
    assert found["labels"] == {"team": "web", "alertname": "A"}
    assert (found["receivers"], found["verified"]) == (["chat"], True)
    assert found["routes"][0]["group_labels"] == {"alertname": "A"}
    assert found["routes"][0]["path"] == "route.routes[1]"


@pytest.mark.parametrize("label", ["team", "=x", "team!=x", "team=~x", "a=b,c=d", '""=x', "", 'a=b"c'])
def test_a_malformed_label_is_wrong_usage(cli, label):
    for command in ("route", "explain"):
        result = cli(command, cli.good, label, code=2)
        assert "Error: Invalid value" in result.stderr
        assert result.stdout == ""
    assert "given twice" in cli("route", cli.good, "a=b", "a=c", code=2).stderr


# explain


def test_explain_shows_the_reasons(cli):
    text = cli("explain", cli.good, "team=web", "--at", "2026-11-25T03:00:00+02:00").stdout
    assert text.startswith("team=web at 2026-11-25T01:00:00.000Z -> chat\n")
    assert "nights, which is on then" in text
    assert (
        "nights, which is off then" in cli("explain", cli.good, "team=web", "--at", "2026-11-25T07:00").stdout
    )
    assert cli("explain", cli.good, "team=x").stdout.startswith("team=x -> mail")


def test_explain_as_json(cli):
    assert cli.json("explain", cli.good, "team=web")["receivers"] == ["chat"]


@pytest.mark.parametrize("at", ["yesterday", "", "2026-13-01", "0001-01-01", "9999-12-31T23:59:59-10:00"])
def test_a_malformed_time_is_wrong_usage(cli, at):
    assert "--at" in cli("explain", cli.good, "--at", at, code=2).stderr


def test_explain_takes_the_silences_of_a_state_into_account(cli):
    state = str(cli.folder / "state.db")
    assert "does not exist" in cli("explain", cli.good, "--state", state, code=2).stderr
    cli("silence", "add", "team=web", "--duration", "1h", "--state", state, "--comment", "cleaning")
    assert "cleaning" in cli("explain", cli.good, "team=web", "--state", state).stdout
    assert "cleaning" not in cli("explain", cli.good, "team=db", "--state", state).stdout


# test


def test_tests_of_files_run(cli):
    result = cli("test", cli.good)
    assert result.stdout == f"passed  {cli.good}:27  the pager rings at once\n"
    assert result.stderr == "1 passed, 0 failed\n"


def test_a_test_that_fails_shows_what_differs(cli):
    file = cli.write("fails.yaml", CONFIG.replace("receiver: db-pager, firing", "receiver: mail, firing"))
    result = cli("test", cli.good, file, code=1)
    assert result.stdout.splitlines()[1] == f"FAILED  {file}:27  the pager rings at once"
    assert "        - at 0s: mail firing 1" in result.stdout.splitlines()
    assert any(line.startswith("        + at 0s: db-pager firing") for line in result.stdout.splitlines())
    assert result.stderr == "1 passed, 1 failed\n"


def test_no_tests_are_a_problem(cli):
    file = cli.write("untested.yaml", CONFIG[: CONFIG.index("tests:")])
    assert cli("test", file, code=1).stderr == "no tests found\n"


def test_tests_run_although_another_file_is_wrong(cli):
    result = cli("test", cli.wrong, cli.good, code=1)
    assert "passed" in result.stdout
    assert "error: route.routes[0].recever" in result.stderr


def test_test_as_json(cli):
    found = cli.json("test", cli.good)
    assert found["ok"]
    assert [(each["file"], each["name"], each["passed"]) for each in found["tests"]] == [
        (cli.good, "the pager rings at once", True)
    ]


# replay


def test_replay_shows_what_would_have_been_sent(cli, events):
    result = cli("replay", cli.good, "--events", events)
    assert [line.split()[:4] for line in result.stdout.splitlines()][:3] == [
        ["time", "receiver", "alerts", "reason"],
        ["2026-11-25T10:00:00Z", "oncall", "firing", "1"],
        ["2026-11-25T10:01:30Z", "chat", "firing", "1"],
    ]
    assert "alertname=Slow" in result.stdout
    assert result.stderr == "2 events, 4 notifications\n"


def test_replay_shows_groups_below_where_there_is_no_room_beside(cli, events):
    lines = cli("replay", cli.good, "--events", events, width=60).stdout.splitlines()
    assert lines[1] == "2026-11-25T10:00:00Z  oncall    firing 1    first notification"
    assert lines[2] == "    alertname=Down"


def test_replay_compares_two_configurations(cli, events):
    other = cli.write("other.yaml", CONFIG.replace("receiver: chat", "receiver: mail"))
    result = cli("replay", cli.good, other, "--events", events)
    assert sorted(line[0] for line in result.stdout.splitlines()[1:]) == [" ", " ", "+", "+", "-", "-"]
    assert result.stderr.startswith(
        f"2 events: 2 notifications in both, 2 only with {cli.good} (-), 2 only with "
    )
    changes = cli("replay", cli.good, other, "--events", events, "--changes", "--exit-code", code=1)
    assert sorted(line[0] for line in changes.stdout.splitlines()[1:]) == ["+", "+", "-", "-"]
    cli("replay", cli.good, cli.good, "--events", events, "--exit-code")


def test_replay_as_json(cli, events):
    assert [each["receiver"] for each in cli.json("replay", cli.good, "--events", events)["sent"]][:2] == [
        "oncall",
        "chat",
    ]
    compared = cli.json("replay", cli.good, cli.good, "--events", events)
    assert (len(compared["same"]), compared["only_old"], compared["only_new"]) == (4, [], [])


def test_malformed_events_are_reported_with_their_line(cli):
    file = cli.write("bad.jsonl", '\n{"id": 3}\n{nonsense\n[]\n')
    result = cli("replay", cli.good, "--events", file, code=1)
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [
        f"{file}:2",
        f"{file}:3:2",
        f"{file}:4",
    ]
    assert len(cli.json("replay", cli.good, "--events", file, code=1)["errors"]) == 3


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_events_of_a_time_that_cannot_be_are_a_problem(cli, time):
    line = {"id": "1", "type": "error", "topic": "t", "timestamp": time}
    file = cli.write("future.jsonl", json.dumps(line))
    shown = cli("replay", cli.good, "--events", file, code=1).stderr
    assert f"{file}:1: error: timestamp: must be between the years 1970 and 3000, got {time[:4]}" in shown


def test_control_characters_of_events_do_not_reach_the_terminal(cli):
    metadata = {"alertname": "\x1b[31mred\n", "severity": "critical"}
    line = {
        "id": "1",
        "type": "error",
        "topic": "t",
        "metadata": metadata,
        "timestamp": "2026-11-25T10:00:00Z",
    }
    file = cli.write("escape.jsonl", json.dumps(line))
    shown = cli("replay", cli.good, "--events", file).stdout
    assert r"alertname=\x1b[31mred\n" in shown
    assert "\x1b" not in shown


# silence


def test_a_silence_is_added_listed_and_expired(cli):
    state = str(cli.folder / "silences.db")
    options = ["--state", state]
    added = cli(
        "silence", "add", 'team="web"', 'host=~"a.*", x!=y', "--duration", "2h", "--author", "me", *options
    )
    id_ = added.stdout.strip()
    listed = cli("silence", "list", *options, width=200).stdout.splitlines()
    assert listed[0].split() == ["id", "state", "until", "by", "matchers", "starts", "comment"]
    assert listed[1].startswith(f"{id_}  active")
    assert 'team="web", host=~"a.*", x!="y"' in listed[1]
    assert cli("silence", "expire", id_, *options).stdout == f"{id_}\n"
    assert cli("silence", "list", *options).stdout == ""
    assert f"{id_}  expired" in cli("silence", "list", "--all", *options).stdout
    assert "expired already" in cli("silence", "expire", id_, *options, code=1).stderr


def test_the_state_of_a_configuration_is_used(cli):
    cli("silence", "add", "team=web", "--duration", "2h", "--config", cli.good)
    state = str(cli.folder / "state.db")
    [silence] = cli.json("silence", "list", "--state", state)
    assert silence["matchers"] == ['team="web"']
    assert cli.json("silence", "list", "--config", cli.good) == [silence]
    without = cli.write("stateless.yaml", CONFIG.replace("state: state.db", ""))
    assert "has no `state:`" in cli("silence", "list", "--config", without, code=2).stderr


def test_silences_as_json(cli):
    options = ["--state", str(cli.folder / "s.db")]
    start = ["--start", "2999-01-01T00:00:00Z"]
    added = cli.json("silence", "add", "a=b", "--duration", "1h", "--comment", "why", *start, *options)
    assert (added["matchers"], added["comment"], added["state"]) == (['a="b"'], "why", "pending")
    assert (added["starts_at"], added["ends_at"]) == ("2999-01-01T00:00:00.000Z", "2999-01-01T01:00:00.000Z")
    assert cli.json("silence", "list", *options) == [added]
    assert [each["id"] for each in cli.json("silence", "expire", added["id"], *options)] == [added["id"]]
    assert not cli.json("silence", "expire", "nonsense", *options, code=1)["ok"]


def test_a_silence_has_several_sets_of_matchers(cli):
    options = ["--state", str(cli.folder / "s.db")]
    more = ["--or", 'host=~"web-.*",severity=low', "--or", "alertname!=Watchdog"]
    added = cli.json("silence", "add", "team=web", *more, "--duration", "1h", *options)
    assert added["matchers"] == ['team="web"']
    assert added["other_matchers"] == [['host=~"web-.*"', 'severity="low"'], ['alertname!="Watchdog"']]
    shown = cli("silence", "list", *options, width=300).stdout
    assert 'team="web" or host=~"web-.*", severity="low" or alertname!="Watchdog"' in shown
    everything = cli("silence", "add", "a=b", "--or", 'x=~".*"', "--duration", "1h", *options, code=2)
    assert "--or: must not match every alert" in everything.stderr


def test_a_list_fits_into_80_columns(cli):
    options = ["--state", str(cli.folder / "s.db")]
    cli(
        "silence",
        "add",
        "team=web",
        "--duration",
        "1h",
        "--author",
        "me",
        "--comment",
        "a word " * 5,
        *options,
    )
    lines = cli("silence", "list", *options, width=80).stdout.splitlines()
    assert lines[2:] == ['    team="web"', f"    {'a word ' * 5}"]
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--duration", "1h"],
        ["team=web"],
        ["team=web", "--duration", "1x"],
        ["team=web", "--duration", "0s"],
        ["team", "--duration", "1h"],
        ['team=~"("', "--duration", "1h"],
        ['team=~".*"', "--duration", "1h"],
        ["", "--duration", "1h"],
        ["team=web", "--duration", "1h", "--start", "soon"],
        ["team=web", "--duration", "1h", "--start", "2020-01-01"],
    ],
)
def test_an_impossible_silence_is_wrong_usage(cli, args):
    state = cli.folder / "s.db"
    result = cli("silence", "add", *args, "--state", str(state), code=2)
    assert "Error: " in result.stderr
    assert not state.exists()


def test_silences_need_a_state(cli):
    for command in (["add", "a=b", "--duration", "1h"], ["list"], ["expire", "x"]):
        assert "--state, --config or CODOMYRMEX_STATE" in cli("silence", *command, code=2).stderr
        both = cli("silence", *command, "--state", "x", "--config", cli.good, code=2)
        assert "only one of --state and --config" in both.stderr
    for command in (["list"], ["expire", "x"]):
        assert "does not exist" in cli("silence", *command, "--config", cli.good, code=2).stderr


def test_the_state_can_come_from_the_environment(cli, monkeypatch):
    monkeypatch.setenv("CODOMYRMEX_STATE", f"sqlite:///{cli.folder}/state.db")
    cli("silence", "add", "team=web", "--duration", "1h", "--comment", "cleaning")
    assert "cleaning" in cli("explain", cli.good, "team=web").stdout
    stateless = cli.write("stateless.yaml", CONFIG.replace("state: state.db", ""))
    assert len(cli.json("silence", "list", "--config", stateless)) == 1
    monkeypatch.setenv("FOLDER", str(cli.folder))
    assert len(cli.json("silence", "list", "--state", "sqlite:///${FOLDER}/state.db")) == 1
    for url in ("ftp://x", "sqlite:///${NOWHERE}"):
        assert cli("silence", "list", "--state", url, code=2).stderr.count("Error: ") == 1


def test_a_file_that_is_not_a_store_is_a_problem(cli):
    options = ["--state", cli.write("nonsense.db", "nonsense " * 100)]
    for command in (["add", "a=b", "--duration", "1h"], ["list"], ["expire", "x"]):
        assert "not a SQLite database" in cli("silence", *command, *options, code=1).stderr
        message = cli.json("silence", *command, *options, code=1)["errors"][0]["message"]
        assert "not a SQLite database" in message
    assert "not a SQLite database" in cli("explain", cli.good, *options, code=1).stderr


def test_commands_that_read_a_state_change_no_file(cli):
    empty = cli.write("empty.txt", "")
    cli("silence", "add", "a=b", "--duration", "1h", "--state", str(cli.folder / "state.db"))
    before = {path: path.read_bytes() for path in cli.folder.iterdir()}
    for command in (["silence", "list"], ["silence", "expire", "x"], ["explain", cli.good]):
        stderr = cli(*command, "--state", empty, code=1).stderr
        assert stderr.endswith("the file is empty, it holds no store\n")
        assert stderr.count("\n") == 1
    for command in (["silence", "list"], ["explain", cli.good]):
        cli(*command, "--state", str(cli.folder / "state.db"))
    assert {path: path.read_bytes() for path in cli.folder.iterdir()} == before


def write_old_state(path: Path) -> None:
    """Write a state file as earlier versions did, with a silence for `team=web`."""
    silence = Silence(tuple(parse_matchers("team=web")), 1.0, 32_000_000_000.0, "ann", "cleaning", id="old")
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE state (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
    )
    database.execute("PRAGMA user_version=1")
    database.execute("INSERT INTO state VALUES ('silence', '\"old\"', ?)", (json.dumps(silence.to_dict()),))
    database.commit()
    database.close()


def test_a_state_file_of_an_earlier_version_is_read_as_it_is_and_continued_when_something_changes(cli):
    path = cli.folder / "state.db"
    write_old_state(path)
    options, before = ["--state", str(path)], {each: each.read_bytes() for each in cli.folder.iterdir()}
    assert [each["id"] for each in cli.json("silence", "list", *options)] == ["old"]
    assert "cleaning" in cli("explain", cli.good, "team=web", *options).stdout
    assert {each: each.read_bytes() for each in cli.folder.iterdir()} == before
    added = cli.json("silence", "add", "a=b", "--duration", "1h", *options)
    assert {each["id"] for each in cli.json("silence", "list", *options)} == {"old", added["id"]}
    assert path.with_name("state.db.migrated").read_bytes() == before[path]
    assert not path.with_name("state.db.old").exists()


def test_a_moved_state_file_of_an_earlier_version_is_found_and_its_silences_can_be_expired(cli):
    path = cli.folder / "state.db"
    write_old_state(cli.folder / "state.db.old")  # the process was killed just then
    options = ["--state", str(path)]
    assert [each["id"] for each in cli.json("silence", "list", *options)] == ["old"]
    assert not path.exists()
    assert cli("silence", "expire", "old", *options).stdout == "old\n"
    assert cli.json("silence", "list", *options) == []
    assert not path.with_name("state.db.old").exists()


def test_the_state_in_a_store_is_found_by_itself_or_named(cli):
    url = f"sqlite:///{cli.folder}/events.db"
    add = ["silence", "add", "a=b", "--duration", "1h", "--state", url]

    async def create(*streams: str) -> None:
        async with SQLiteStore(cli.folder / "events.db") as store:
            for stream in streams:
                await store.create_log(stream)

    asyncio.run(create("orders"))
    assert (
        "there is no state of alerts; there are: none"
        in cli("silence", "list", "--state", url, code=1).stderr
    )
    assert "--stream: is required" in cli(*add, code=2).stderr
    assert "there are: orders" in cli(*add, "--stream", "order", code=1).stderr
    assert "--stream: must be 1 to 64 of" in cli(*add, "--stream", "a b", code=2).stderr
    assert "--sink: must be 1 to 200 printable" in cli(*add, "--sink", "a\nb", code=2).stderr
    cli(*add, "--stream", "orders")
    cli(*add)  # now there is one
    assert len(cli.json("silence", "list", "--state", url)) == 2
    assert "of stream 'jobs'" in cli("silence", "list", "--state", url, "--stream", "jobs", code=1).stderr
    asyncio.run(create("jobs"))
    cli(*add, "--stream", "jobs", "--sink", "other")
    problem = cli("silence", "list", "--state", url, code=2).stderr
    assert "choose one with --stream or --sink: jobs (sink other), orders" in problem
    assert len(cli.json("silence", "list", "--state", url, "--sink", "other")) == 1
    assert len(cli.json("explain", cli.good, "--state", url, "--stream", "orders")) > 0


# The process


def run(*args: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    program = ["-m", "codomyrmex.integrations.cli", *args] if code is None else ["-c", code, *args]
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}
    }
    return subprocess.run(
        [sys.executable, "-W", "error", *program],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=env | environment,
    )


def test_the_process_ends_with_the_exit_code_and_keeps_messages_off_stdout(cli):
    good = run("alerts", "route", cli.good, "team=web")
    assert (good.returncode, good.stdout, good.stderr) == (0, "chat\n", "")
    bad = run("alerts", "route", cli.wrong, "team=web")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "error: " in bad.stderr
    assert "Traceback" not in bad.stderr


def test_there_are_no_colours_in_a_pipe_or_with_no_color(cli):
    def output(**environment: str | None) -> str:
        return CliRunner().invoke(app, ["alerts", "check", cli.wrong], env=environment).stdout

    assert "\x1b" not in output()
    assert "\x1b" in output(FORCE_COLOR="1")
    assert "\x1b[3" not in output(FORCE_COLOR="1", NO_COLOR="1")


def test_lines_in_a_pipe_are_not_broken(cli):
    long = "x" * 300
    file = cli.write("long.yaml", CONFIG.replace("mysql|redis", long))
    result = CliRunner().invoke(app, ["alerts", "show", file], env={"COLUMNS": None})
    assert any(long in line for line in result.stdout.splitlines())


def test_a_closed_pipe_is_not_a_traceback(cli):
    command = [sys.executable, "-m", "codomyrmex.integrations.cli", "alerts", "show", cli.good]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_characters_that_a_terminal_cannot_show_do_not_fail(cli):
    file = cli.write("names.yaml", CONFIG.replace("mysql", "größe"))
    result = run("alerts", "show", file, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.returncode == 0
    assert r"gr\xf6\xdfe" in result.stdout


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_missing_package_is_one_sentence(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from codomyrmex.integrations.cli import main; main()"
    )
    result = run(code=code)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"the command codomyrmex-streaming needs {package}, which is not installed: "
        "pip install 'codomyrmex-streaming[cli]'\n"
    )


def test_a_missing_package_of_alerts_is_one_sentence():
    code = "import sys; sys.modules['re2'] = None; from codomyrmex.integrations.cli import main; main()"
    result = run("alerts", "check", "x.yaml", code=code)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "codomyrmex-streaming[alerts]" in result.stderr


def test_the_version_is_printed():
    result = run("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"codomyrmex-streaming [0-9]+\.[0-9]+\.[0-9]+\n", result.stdout)


def test_help_names_the_exit_codes(cli):
    assert "Exit code: 0" in cli("--help").stdout
    assert "Exit code 1" in cli("check", "--help").stdout


@pytest.mark.parametrize(
    "command", [[], ["run"], ["alerts"], ["alerts", "silence"], ["alerts", "silence", "add"]]
)
def test_h_is_help_and_summaries_are_not_cut(command):
    output = CliRunner().invoke(app, [*command, "-h"], env={"COLUMNS": "80"}).stdout
    assert "-h, --help" in output
    assert "..." not in output.partition("Commands:")[2]


def test_the_shell_can_complete_commands_and_their_options():
    for line, found in (
        ("codomyrmex-streaming alerts sil", "silence"),
        ("codomyrmex-streaming run --str", "--strict"),
    ):
        variables = {"COMP_WORDS": line, "COMP_CWORD": "2", "_CODOMYRMEX_STREAMING_COMPLETE": "complete_bash"}
        result = CliRunner().invoke(app, [], env=variables, prog_name="codomyrmex-streaming")
        assert result.stdout.split() == [found]


@pytest.mark.parametrize("module", ["typer", "codomyrmex.integrations.cli.alerts"])
def test_ctrl_c_during_an_import_is_exit_code_130(cli, module):
    code = f"""if True:
        import sys
        class Interrupt:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupt())
        from codomyrmex.integrations.cli import main
        main()
        """
    result = run("alerts", "show", cli.good, code=code)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_help_imports_no_subcommand_and_shows_the_first_line_of_each_docstring():
    code = """if True:
        import sys
        from codomyrmex.integrations.cli import main
        try:
            main()
        finally:
            print(sorted({name for name in sys.modules if name.startswith("codomyrmex.integrations.")}))
        """
    imported = run("--help", code=code).stdout.splitlines()[-1]
    assert imported == str([f"codomyrmex.integrations.{name}" for name in ("_extras", "cli", "cli.app")])
    for group in (app, alerts, silence):
        for path, summary in group.info.cls.lazy.values():
            module, _, function = path.partition(":")
            found = getattr(import_module(f"codomyrmex.integrations.cli.{module}"), function)
            assert found.__doc__.startswith(summary)


# Wrong usage


@pytest.fixture
def folder(cli) -> Path:
    """A folder with a file of each kind."""
    (cli.folder / "pipeline.yaml").write_text(
        "sources: [{type: stdin}]\nsinks: [{type: structlog}]\n", encoding="utf-8"
    )
    (cli.folder / "events.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in EVENTS), "utf-8")
    (cli.folder / "binary").write_bytes(bytes(range(256)))
    cli("silence", "add", "a=b", "--duration", "1h", "--state", str(cli.folder / "state.db"))
    return cli.folder


FILE_COMMANDS = [
    "run FILE",
    "check FILE",
    "alerts check FILE",
    "alerts import FILE",
    "alerts send-test FILE mail",
    "alerts show FILE",
    "alerts route FILE a=b",
    "alerts explain FILE a=b",
    "alerts explain good.yaml a=b --state FILE",
    "alerts test FILE",
    "alerts replay FILE --events events.jsonl",
    "alerts replay good.yaml FILE --events events.jsonl",
    "alerts replay good.yaml --events FILE",
    "alerts silence list --state FILE",
    "alerts silence list --config FILE",
    "alerts silence expire x --state FILE",
]


def invoke(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "500", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.mark.parametrize("name", ["missing.yaml", "missing", "."])
@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_a_file_that_cannot_be_read_is_exit_code_2_in_each_command(command, name, folder, monkeypatch):
    result = invoke(folder, command.replace("FILE", name), monkeypatch)
    assert (result.exit_code, result.stdout) == (2, "")
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert re.search("does not exist|is a directory|is a configuration by its name", error)


MESSAGES = {
    "good.yaml": "this is a configuration of alerts and not a pipeline|by its name|not a file of events",
    "pipeline.yaml": "this is a pipeline, not an alert configuration|by its name|not a file of events",
    "events.jsonl": "invalid YAML|not a SQLite database",
    "binary": "is not UTF-8 text|not a SQLite database",
    "state.db": "this is an SQLite database|not UTF-8 text",
}
INTENDED = {
    "good.yaml": r"^alerts (?!.*--(state|events) FILE)",
    "pipeline.yaml": "^(run|check)",
    "events.jsonl": "--events FILE",
    "binary": "^$",
    "state.db": "--state FILE",
}


@pytest.mark.parametrize(
    ("command", "name"),
    [(each, name) for name in MESSAGES for each in FILE_COMMANDS if not re.search(INTENDED[name], each)],
)
def test_another_kind_of_file_is_a_hint_and_unchanged(command, name, folder, monkeypatch):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = invoke(folder, command.replace("FILE", name), monkeypatch)
    assert result.exit_code in {1, 2}
    assert re.search(MESSAGES[name], result.output)
    assert len(result.output.splitlines()) <= 4
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_state_in_no_folder_is_wrong_usage(cli):
    state = str(cli.folder / "nowhere" / "s.db")
    stderr = cli("silence", "add", "a=b", "--duration", "1h", "--state", state, code=2).stderr
    assert "the folder of the state" in stderr


@pytest.mark.parametrize("receivers", ["", ",", "chat,", " "])
def test_receivers_to_verify_are_names(cli, receivers):
    assert "must be names of receivers" in cli("route", cli.good, "a=b", "--verify", receivers, code=2).stderr


@pytest.mark.parametrize("cycle", ["inf", "nan", "0", "-1", "x", "1e400"])
def test_a_cycle_of_the_demo_is_a_number_of_seconds(cycle):
    result = CliRunner().invoke(app, ["demo", "--cycle", cycle])
    assert result.exit_code == 2
    assert result.stderr.count("Error: Invalid value for '--cycle'") == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://[::1/", "", "/", "a.yaml", "http:///a"]
)
def test_an_address_that_is_none_is_wrong_usage(url):
    result = CliRunner().invoke(app, ["tail", url])
    assert result.exit_code == 2
    assert re.search("Error: Invalid value for URL: .*(must be http|must begin with http)", result.stderr)
