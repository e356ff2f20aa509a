"""YAML as Debian's amtool reads it, and as it is read here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from codomyrmex.integrations.notification import AlertConfigError, AlertRouter, load_alert_config

AMTOOL = shutil.which("amtool")
REST = "receivers: [{name: a}, {name: b}]\n"
CHILD = "route: {receiver: a, routes: [{receiver: b, §}]}\n"
# Files without their receivers. `§` is where a part of a route is inserted.
CASES = [
    "route:\n  receiver: a\t# x\n",
    "route:\n  receiver:\ta\n",
    "route:\n  receiver: a\t\n",
    "route:\n  receiver: a\n\t\n",
    "\t# x\nroute:\n  receiver: a\n\t# y\n",
    "route:\n  receiver\t: a\n",
    "route:\n\treceiver: a\n",
    "route:\n  receiver: a\n  \tgroup_wait: 1s\n",
    "route: {receiver: ''}\n",
    "route: {receiver: null}\n",
    "route: {receiver: a, receiver: a}\n",
    "route: {receiver: a, nope: 1}\n",
    "route: {receiver: a}\n---\nmore: 1\n",
    "route: {<<: 1, receiver: a}\n",
    "route: {receiver: *a}\n",
    "route: {receiver: @a}\n",
    "",
    "# nothing\n",
    "global:\ntemplates:\nroute: {receiver: a, routes: , group_wait: }\n",
    "inhibit_rules: [{source_match: {a: b}, target_match: {c: d}, equal: }]\nroute: {receiver: a}\n",
]
ROUTES = [
    "match: {x: }",
    "match_re: {x: }",
    "match_re: {x: ''}",
    "match: {x: =}",
    "match: {x: 1.50, y: 0x1F, z: 12:30, u: .inf, v: yes}",
    "matchers: 'x=y'",
    "matchers: ['x=y', '{a=b,c!=d}']",
    "group_by: x",
    "group_by: [null]",
    "continue: y",
    "continue: on",
    "continue: maybe",
    "group_wait: 30",
    "group_wait: 0",
    "group_wait: ''",
    "group_wait: 0s",
]
SHOWN = """route:
  receiver: a
  routes:
    - &base {receiver: b, match: {x: '1'}, match_re: {q: z.*}, matchers: [m=1]}
    - {<<: *base, match: {y: '2'}, matchers: [n=1]}
    - {receiver: a, matchers: [n=2], <<: *base}
    - {receiver: '', match: {k: 010}}
"""


def run(*args: str) -> subprocess.CompletedProcess[str]:
    if AMTOOL is None:
        if os.environ.get("CI") == "true":
            pytest.fail("amtool is absent, and CI should have installed it")
        pytest.skip("amtool is not installed here")
    return subprocess.run([AMTOOL, *args], capture_output=True, text=True, check=False)


def test_a_file_loads_if_amtool_accepts_it(tmp_path: Path) -> None:
    cases = [*CASES, *(CHILD.replace("§", part) for part in ROUTES)]
    loaded = 0
    for number, text in enumerate(cases):
        file = tmp_path / f"{number}.yml"
        file.write_text(f"{REST}{text}", encoding="utf-8")
        accepted = run("check-config", str(file)).returncode == 0
        reason = None
        try:
            load_alert_config(file)
        except AlertConfigError as error:
            reason = str(error)
        assert accepted == (reason is None), f"{text}\n{reason}"
        loaded += accepted
    assert 15 < loaded < len(cases) - 10


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("m=1 n=1 x=1 y=2 q=zz", "b"),
        ("n=2 m=1 x=1 q=z", "b"),
        ("n=2", "a"),
        ("k=010", "a"),
    ],
)
def test_merged_routes_match_as_in_amtool(labels: str, receiver: str, tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(f"{SHOWN}{REST}", encoding="utf-8")
    answer = run("config", "routes", "test", f"--config.file={file}", *labels.split())
    assert answer.stdout.strip() == receiver
    config = load_alert_config(file)
    pairs = dict(each.split("=") for each in labels.split())
    assert [match.receiver for match in AlertRouter(config).match(pairs)] == [receiver]
    shown = run("config", "routes", "show", f"--config.file={file}").stdout
    for route in config.route.children:
        matchers = ",".join(sorted(str(each).replace('=~"z.*"', '=~"^(?:z.*)$"') for each in route.matchers))
        assert f"{{{matchers}}}  receiver: {route.receiver}" in shown
