"""The pytest plugin: the `tests:` of `*.alerts.yaml` files are collected and run."""

from __future__ import annotations

import functools
import json
from importlib.metadata import entry_points

import pytest
from codomyrmex.integrations import pytest_plugin

CONFIG = """
route: {receiver: ops}
receivers:
  - {name: ops, apprise_configs: [{url: 'json://127.0.0.1/'}]}
  - {name: db, apprise_configs: [{url: 'json://127.0.0.1/'}]}
"""


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return functools.partial(pytester.runpytest_inprocess, "-v", "-p", pytest_plugin.__name__)


def test_it_runs_the_tests_of_files_and_shows_the_difference_without_a_traceback(pytester, run):
    events = [{"at": "0s", "labels": {"alertname": "Down"}}]
    good = {"name": "good", "events": events, "expect": [{"at": "30s", "receiver": "ops"}]}
    bad = {"name": "bad", "events": events, "expect": [{"at": "30s", "receiver": "db"}]}
    unnamed = {"events": events, "expect": [{"at": "30s", "receiver": "ops"}]}
    path = pytester.path / "team.alerts.yaml"
    path.write_text(f"{CONFIG}tests: {json.dumps([good, bad, unnamed])}\n")
    (pytester.path / "other.yaml").write_text("not a configuration")
    result = run()
    output = result.stdout.str()
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1)
    assert "team.alerts.yaml::good PASSED" in output
    assert "team.alerts.yaml::bad FAILED" in output
    assert "team.alerts.yaml::test 3 PASSED" in output
    assert "unexpected notifications (- missing, + unexpected):" in output
    assert "- at 30s: db\n+ at 30s: ops firing" in output
    assert "Traceback" not in output


def test_it_reports_the_problems_of_a_configuration(pytester, run):
    (pytester.path / "broken.alerts.yml").write_text("route: {receiver: x}\nreceivers: []\n")
    result = run()
    assert result.ret == 2
    assert "broken.alerts.yml:1:19: route.receiver: " in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_pytest_loads_it_by_its_entry_point():
    [entry_point] = entry_points(group="pytest11", name="codomyrmex-alerts")
    assert entry_point.load() is pytest_plugin
