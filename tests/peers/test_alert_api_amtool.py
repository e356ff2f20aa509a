"""Debian's amtool with `alerts serve` and with Debian's Alertmanager: the same output."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from alert_servers import Pair, Server, both, normalized, program, wait_for

CONFIG = """
# A comment, which the running configuration does not have.
global:
  smtp_smarthost: mail.example.com:25
  smtp_from: alerts@example.com
  smtp_auth_username: alerts
  smtp_auth_password: the-password
route:
  receiver: default
  group_by: [alertname]
  group_wait: 1h
  routes:
  - matchers: [team="db"]
    receiver: db-pager
    continue: true
  - matchers: [team=~"db|web"]
    receiver: chat
    group_by: ['...']
    repeat_interval: 1d
    mute_time_intervals: [nights]
  - match: {severity: none}
    routes:
    - matchers: [a!="b", c!~"d|e"]
inhibit_rules:
- source_matchers: [severity="critical"]
  target_matchers: [severity="warning"]
  equal: [cluster]
receivers:
- name: default
  email_configs: [{to: all@example.com}]
- name: db-pager
  pagerduty_configs: [{routing_key: the-key}]
- name: chat
  slack_configs: [{api_url: 'http://127.0.0.1:9/the-hook', channel: '#ops'}]
  webhook_configs: [{url: 'http://127.0.0.1:9/'}]
time_intervals:
- name: nights
  time_intervals: [{times: [{start_time: '00:00', end_time: '06:00'}]}]
"""
SECRETS = ("the-password", "the-key", "the-hook")
SPAN = ("--start=2020-01-01T00:00:00Z", "--end=2099-01-01T00:00:00Z")
LATER = ("--start=2098-01-01T00:00:00Z", "--end=2099-01-01T00:00:00Z")
EARLIER = ("--start=2018-01-01T00:00:00Z", "--end=2019-01-01T00:00:00Z")
NOBODY = "00000000-0000-0000-0000-000000000000"

_POINTER = re.compile(r"0xc[0-9a-f]+")  # amtool prints some where a text is meant
_VERSIONS = re.compile(r"Warning: amtool version .* are different\.\n")  # as with any other Alertmanager


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Amtool:
    """Runs amtool with both servers, and checks that the output is the same."""

    def __init__(self, pair: Pair, home: Path) -> None:
        self.pair = pair
        self._environment = {**os.environ, "TZ": "UTC", "HOME": str(home), "USER": "ann"}
        self.ids: tuple[list[str], list[str]] = ([], [])

    def run(self, server: Server, *words: str, stdin: str = "") -> Done:
        command = [program("amtool"), *words, f"--alertmanager.url={server.url}"]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
            timeout=20,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, *words: str, stdin: tuple[str, str] = ("", "")) -> tuple[Done, Done]:
        """Run a command with both; `{0}` is the first id of a silence that was added, and so on."""
        answers, shown = [], []
        for server, ids, text in zip(self.pair, self.ids, stdin, strict=True):
            known = [ids[int(word[1])] if re.fullmatch(r"\{\d\}", word) else word for word in words]
            done = self.run(server, *known, stdin=text)
            if words[:2] == ("silence", "add") and done.code == 0:
                ids.append(done.out.strip())
            answers.append(done)
            out, err = (_POINTER.sub("<pointer>", normalized(each, server)) for each in done[1:])
            # Which sentence explains a refusal is not compared.
            shown.append((done.code, out, _VERSIONS.sub("", err) if done.code == 0 else ""))
        assert shown[0] == shown[1], f"amtool {' '.join(words)}\n here: {shown[0]}\nthere: {shown[1]}"
        return answers[0], answers[1]


@pytest.fixture(scope="module")
def amtool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Amtool]:
    folder = tmp_path_factory.mktemp("servers")
    with both(folder, CONFIG) as pair:
        yield Amtool(pair, folder)


@pytest.fixture(scope="module")
def alerts(amtool: Amtool) -> Amtool:
    """Run amtool with servers that have alerts, one of which is inhibited."""
    annotations = ("--annotation=summary=It is down", "--annotation=runbook=http://run/book")
    source = ("team=db", "cluster=a", "severity=critical", *annotations, "--generator-url=http://prom/x")
    amtool("alert", "add", "Down", *source, *SPAN)
    amtool("alert", "add", "alertname=Slow", "team=web", "cluster=a", "severity=warning", *SPAN)
    amtool(
        "alert",
        "add",
        "Quiet",
        "team=web",
        'text=two words, "quoted"',
        "--start=2021-01-01T00:00:00Z",
        SPAN[1],
    )
    amtool("alert", "add", "Brief", "--start=2022-01-01T00:00:00Z")
    amtool("alert", "add", "Ended", *EARLIER)
    for server in amtool.pair:
        wait_for(lambda server=server: len(server.get("alerts?active=false")) == 1)
    return amtool


def test_alerts_that_are_refused(amtool):
    for words in ((), ("Odd", LATER[0], "--end=2097-01-01T00:00:00Z"), ("A", "--annotation=bad name=x")):
        done, _ = amtool("alert", "add", *words)
        assert done.code == 1


def test_queries_of_alerts(alerts):
    formats = ((), ("-o", "extended"))
    for words in (
        (),
        ("Down",),
        ("team=~d.*",),
        ("team!=db", "--inhibited"),
        ("team=db", "severity=critical"),
    ):
        for form in formats:
            alerts("alert", "query", *words, *form)
    for words in (
        ("-s",),
        ("-a",),
        ("-u",),
        ("-i",),
        ("-a", "-i"),
        ("-s", "-a"),
        ("alertname=~(",),
        ("a!~b",),
    ):
        alerts("alert", "query", *words)
    for receiver in ("chat", "db-.*", "db", "nobody", "ch("):
        alerts("alert", "query", f"--receiver={receiver}")
    here, there = alerts("alert", "query", "Down", "-o", "json")
    [found] = json.loads(here.out)
    [expected] = json.loads(there.out)
    same = ("labels", "annotations", "fingerprint", "generatorURL", "receivers", "startsAt", "endsAt")
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}


def test_the_life_of_silences(alerts):
    amtool = alerts
    amtool("silence", "add", "Quiet", "team=~we.", "--comment=maintenance", "--duration=2h", "--author=bob")
    amtool("silence", "add", "team=x", "a!=b", "c!~d|e", "-c", "later", *LATER)
    amtool("alert", "query", "-s", "-o", "extended")
    for words in (
        ("team=x",),
        ("-c", "no matchers"),
        ("team=~", "-c", "empty"),
        ("team=x", "-c", "over", *EARLIER),
    ):
        done, _ = amtool("silence", "add", *words)
        assert done.code == 1, words
    for words in (
        (),
        ("-o", "extended"),
        ("-q",),
        ("--within=3h",),
        ("--within=1h",),
        ("team=x",),
        ("nothing",),
    ):
        amtool("silence", "query", *words)
    amtool("silence", "update", "{0}", "--comment=longer", "--duration=4h")  # it keeps its id
    amtool("silence", "update", "{1}", "--start=2097-01-01T00:00:00Z")
    amtool("silence", "update", "{0}", *LATER)  # another id
    for id_ in ("nonsense", NOBODY):
        assert amtool("silence", "update", id_, "-c", "x")[0].code == 1
    amtool("silence", "query", "-o", "extended")

    saved = tuple(amtool.run(server, "silence", "query", "-o", "json").out for server in amtool.pair)
    assert [len(json.loads(text)) for text in saved] == [2, 2]
    for words in ((), ("--force",)):
        amtool("silence", "import", *words, stdin=saved)
    assert amtool("silence", "import", stdin=("[{]", "[{]"))[0].code == 1
    amtool("silence", "query", "team=x", "-o", "extended")

    amtool("silence", "expire", "{1}", "{0}")
    for id_ in ("{1}", "nonsense", NOBODY):
        amtool("silence", "expire", id_)
    for words in ((), ("--expired",), ("--expired", "-o", "extended", "later")):
        amtool("silence", "query", *words)


def test_the_configuration(amtool):
    pair = amtool.pair
    texts = [amtool.run(server, "config", "show").out for server in pair]
    for text in texts:
        assert not [secret for secret in SECRETS if secret in text]
    trees = [yaml.safe_load(text) for text in texts]
    assert [tree["route"]["receiver"] for tree in trees] == ["default", "default"]
    for words in (
        ("config", "routes"),
        ("config", "routes", "show"),
        ("config", "routes", "test", "team=db"),
        ("config", "routes", "test", "severity=none", "c=x"),
        ("config", "routes", "test", "--tree", "team=web"),
        ("config", "routes", "test", "--verify.receivers=db-pager,chat", "team=db"),
        ("config", "routes", "test", "--verify.receivers=chat", "team=db"),
    ):
        amtool(*words)


def test_the_status(amtool):
    for words in ((), ("-o", "extended")):
        amtool("cluster", "show", *words)
    here, there = (amtool.run(server, "config", "show", "-o", "json") for server in amtool.pair)
    found, expected = json.loads(here.out), json.loads(there.out)
    assert found["versionInfo"].keys() == expected["versionInfo"].keys()
    assert found.keys() == expected.keys()
    assert amtool.run(amtool.pair.ours, "config", "show", "-o", "extended").code == 0
