"""`alerts send-test`: shows or sends a test notification of a receiver."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.cli.app import app
from http_service import HttpService, Reply, http_service
from typer.testing import CliRunner

RECEIVERS = """
route: {{receiver: ops, group_by: [alertname]}}
receivers:
- name: ops
  slack_configs:
  - {{api_url: '{0}/SLACK-SECRET', title: '{{{{ .CommonLabels.alertname }}}} is {{{{ .Status }}}}'}}
  pagerduty_configs: [{{routing_key_file: key.txt, url: '{0}/pagerduty'}}]
  webhook_configs: [{{url: '{0}/hook'}}]
  apprise_configs: [{{url: 'json://user:APPRISE-SECRET@127.0.0.1:9/'}}]
- name: mail
  email_configs: [{{to: a@example.org, from: b@example.org, smarthost: '127.0.0.1:9', text: hello, html: ''}}]
- name: broken
  webhook_configs: [{{url_file: missing.txt}}]
  slack_configs: [{{api_url: '{0}', title: '{{{{ index .Alerts 7 }}}}'}}]
- name: tickets
  jira_configs: [{{api_url: 'http://h', project: p, issue_type: t}}]
- name: nobody
"""


@pytest.fixture
def service() -> Iterator[HttpService]:
    with http_service() as service:
        yield service


@pytest.fixture
def file(tmp_path: Path, service: HttpService) -> str:
    (tmp_path / "key.txt").write_text("PAGER-SECRET\n", encoding="utf-8")
    path = tmp_path / "alerts.yml"
    path.write_text(RECEIVERS.format(service.url), encoding="utf-8")
    return str(path)


def run(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["alerts", "send-test", *args], env={"COLUMNS": "300", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    assert "SECRET" not in result.output
    return result


def channels(*args: str, code: int = 0) -> list[dict[str, Any]]:
    answer = json.loads(run(*args, "--json", code=code).stdout)
    assert answer["ok"] == (code == 0)
    found: list[dict[str, Any]] = answer["channels"]
    return found


def test_notifications_are_shown_and_not_sent(file: str, service: HttpService) -> None:
    slack, pagerduty, webhook, apprise = channels(
        file, "ops", "--label", "alertname=Disk", "--label", "team=db", "--annotation", "text=a, b = c"
    )
    assert [each["type"] for each in (slack, pagerduty, webhook, apprise)] == [
        "slack",
        "pagerduty",
        "webhook",
        "apprise",
    ]
    assert slack["requests"][0]["attachments"][0]["title"] == "Disk is firing"
    assert pagerduty["requests"][0]["routing_key"] == "[redacted]"
    [alert] = webhook["requests"][0]["alerts"]
    assert alert["labels"] == {"alertname": "Disk", "team": "db"}
    assert alert["annotations"] == {"summary": "This is a test of the receiver ops.", "text": "a, b = c"}
    assert webhook["requests"][0]["groupLabels"] == {"alertname": "Disk"}
    assert apprise["title"] == "Disk"
    assert "1 FIRING" in apprise["body"]
    assert [each["sent"] for each in (slack, pagerduty, webhook, apprise)] == [None] * 4
    assert service.received == []


def test_the_text_output_has_titles_bodies_and_json(file: str) -> None:
    result = run(file, "ops", "--resolved")
    assert "ops[0] (slack)\n  {\n" in result.stdout
    assert '"title": "Test is resolved"' in result.stdout
    assert "ops[3] (apprise)\n  title: Test\n  1 RESOLVED\n" in result.stdout
    assert result.stderr == "ops: nothing was sent; --send sends it\n"
    mail = run(file, "mail").stdout
    assert "  to: a@example.org\n" in mail
    assert "  hello\n" in mail


def test_send_reports_the_result_of_each_channel(file: str, service: HttpService) -> None:
    service.replies.append(Reply(403, "invalid_token"))
    slack, pagerduty, webhook, apprise = channels(file, "ops", "--send", code=1)
    assert (slack["sent"], "status 403" in slack["error"]) == (False, True)
    assert (pagerduty["sent"], pagerduty["error"], webhook["sent"]) == (True, None, True)
    assert (apprise["sent"], "did not deliver" in apprise["error"]) == (False, True)
    assert [each.path for each in service.received] == ["/SLACK-SECRET", "/pagerduty", "/hook"]
    assert service.received[1].json["routing_key"] == "PAGER-SECRET"


def test_a_test_notification_is_sent_once(file: str, service: HttpService) -> None:
    service.default = Reply(503)
    result = run(file, "ops", "--send", code=1)
    assert len(service.received) == 3
    assert "  => not delivered: channel ops[2] (webhook) did not deliver: status 503\n" in result.stdout
    assert result.stderr == "ops: 0 channels delivered, 4 failed\n"


def test_a_notification_that_cannot_be_rendered_or_delivered_is_a_problem(file: str) -> None:
    webhook, slack = channels(file, "broken", code=1)
    assert "missing.txt cannot be read" in webhook["problem"]
    assert slack["problem"] == "a template failed, so this is the default text"
    [jira] = channels(file, "tickets", code=1)
    assert "jira_configs deliver nothing here" in jira["problem"]
    [jira] = channels(file, "tickets", "--send", code=1)
    assert jira["error"].startswith("jira_configs deliver nothing here")


def test_a_receiver_without_channels_sends_nothing(file: str) -> None:
    assert (
        run(file, "nobody", "--send").stderr == "nobody: the receiver has no channels, so nothing is sent\n"
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["opps"], "there is no receiver 'opps'; did you mean ops?; the file has these: ops, mail, broken"),
        (["ops", "--label", "x"], "expected name=value, got 'x'"),
        (["ops", "--label", "a=1", "--label", "a=2"], "the label a was given twice"),
        (["ops", "--annotation", "x"], "expected name=text, got 'x'"),
        (["ops", "--annotation", "a=1", "--annotation", "a=2"], "the annotation a was given twice"),
        ([], "Missing argument 'RECEIVER'"),
    ],
)
def test_wrong_arguments_are_explained(file: str, args: list[str], message: str) -> None:
    assert message in run(file, *args, code=2).stderr


def test_an_invalid_file_is_reported_with_the_position(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text("route: {receiver: x}\nreceivers: [{name: y}]\n", encoding="utf-8")
    assert (
        f"{path}:1:19: error: route.receiver: receiver 'x' is not defined"
        in run(str(path), "y", code=1).stderr
    )
