"""`slack_configs`: the message that arrives, and what the answers of Slack and its relatives mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from codomyrmex.integrations import SinkState
from helpers import in_time, until
from http_service import HttpService, Reply, http_service
from receivers import fires, notes, notifying, outcome, problems, receiver

HOOK = "/services/T000/B000/s3cret"


@pytest.fixture
def service() -> Iterator[HttpService]:
    with http_service(Reply(body="ok")) as running_service:
        yield running_service


def slack(service: HttpService | None, *, settings: Any = None, **options: Any) -> dict[str, Any]:
    own = {} if service is None else {"api_url": f"{service.url}{HOOK}"}
    config = receiver("slack_configs", {**own, **options})
    return {**config, "global": {**config["global"], **(settings or {})}}


@in_time
async def test_a_message_has_one_attachment_with_all_options(service):
    options = {
        "channel": "#{{ .CommonLabels.team }}",
        "username": "bot",
        "icon_emoji": ":fire:",
        "icon_url": "",
        "link_names": True,
        "title": "{{ .GroupLabels.alertname | toUpper }}",
        "title_link": "https://runbooks/{{ .GroupLabels.alertname }}",
        "text": '{{ range .Alerts }}{{ .Labels.job }}{{ end }} <!channel> & "quoted"',
        "color": '{{ if eq .Status "firing" }}#f00{{ else }}#0f0{{ end }}',
        "footer": "f",
        "short_fields": True,
        "fields": [
            {"title": "Job", "value": "{{ .CommonLabels.job }}"},
            {"title": "Missing", "value": "{{ .CommonLabels.missing }}", "short": False},
        ],
        "actions": [
            {"type": "button", "text": "Runbook", "url": "https://{{ .Status }}", "name": "dropped"},
            {
                "type": "button",
                "text": "Ack",
                "name": "ack",
                "value": "1",
                "style": "danger",
                "confirm": {"text": "Sure?", "ok_text": "Yes"},
            },
        ],
        "mrkdwn_in": ["text"],
    }
    await outcome(slack(service, **options), fires("disk", labels={"team": "db", "job": "node"}))
    assert service.received[0].path == HOOK
    [body] = service.bodies
    [attachment] = body.pop("attachments")
    assert body == {"channel": "#db", "username": "bot", "icon_emoji": ":fire:", "link_names": True}
    fallback, callback = attachment.pop("fallback"), attachment.pop("callback_id")
    assert "disk" in fallback
    assert callback == ""
    assert attachment == {
        "title": "DISK",
        "title_link": "https://runbooks/disk",
        "text": 'node <!channel> & "quoted"',
        "footer": "f",
        "color": "#f00",
        "fields": [
            {"title": "Job", "value": "node", "short": True},
            {"title": "Missing", "short": False},
        ],
        "actions": [
            {"type": "button", "text": "Runbook", "url": "https://firing"},
            {
                "type": "button",
                "text": "Ack",
                "name": "ack",
                "value": "1",
                "style": "danger",
                "confirm": {"text": "Sure?", "ok_text": "Yes"},
            },
        ],
        "mrkdwn_in": ["text"],
    }


@in_time
async def test_the_default_message_names_the_group_and_links_to_this_service(service):
    await outcome(slack(service, settings={"external_url": "https://alerts.example"}))
    [attachment] = service.bodies[0]["attachments"]
    assert "[FIRING:1] disk" in attachment["title"]
    assert attachment["title_link"] == "https://alerts.example/#/alerts?receiver=ops"
    assert (attachment["color"], attachment["mrkdwn_in"]) == ("danger", ["fallback", "pretext", "text"])


@in_time
async def test_a_long_title_is_cut(service):
    await outcome(slack(service, title="x" * 2000))
    [attachment] = service.bodies[0]["attachments"]
    assert (len(attachment["title"]), attachment["title"][-2:]) == (1024, "x\u2026")


@in_time
async def test_the_url_of_global_is_the_default_and_an_own_one_takes_precedence(service):
    other = {"slack_api_url": "http://127.0.0.1:1/"}
    assert (await outcome(slack(None, settings={"slack_api_url": f"{service.url}/global"}))).delivered == 1
    assert (await outcome(slack(service, settings=other))).delivered == 1
    assert [each.path for each in service.received] == ["/global", HOOK]


@in_time
async def test_an_app_posts_with_its_token(service):
    settings = {"slack_app_token": "xoxb-app", "slack_app_url": f"{service.url}/api/chat.postMessage"}
    await outcome(slack(None, settings=settings, channel="#ops"))
    [received] = service.received
    assert (received.path, received.headers["Authorization"]) == ("/api/chat.postMessage", "Bearer xoxb-app")


@in_time
@pytest.mark.parametrize(
    ("reply", "delivered"),
    [
        (Reply(body="ok"), True),
        (Reply(body="Accepted by the proxy"), True),
        (Reply(204), True),
        (Reply(body='{"ok": true, "ts": "1"}', type="application/json; charset=utf-8"), True),
        (Reply(body='{"success": true}', type="application/json"), True),
        (Reply(body="[]", type="application/json"), True),
        (Reply(body="invalid_token"), False),
        (Reply(body='{"ok": false, "error": "channel_not_found"}', type="application/json"), False),
        (Reply(body='{"success": false, "error": "s3cret s3cret"}', type="application/json"), False),
        (Reply(404, body="no_service"), False),
        (Reply(302, headers={"Location": "/login"}), False),
    ],
)
async def test_an_answer_that_reports_an_error_is_given_up(service, reply, delivered):
    service.replies.append(reply)
    health = await outcome(slack(service))
    assert (health.delivered, health.dead) == ((1, 0) if delivered else (0, 1))
    assert "s3cret" not in repr(health)
    for code in ("invalid_token", "channel_not_found", "no_service"):
        assert (code in reply.body) == (code in (health.last_error or ""))


@in_time
async def test_a_rate_limit_in_an_answer_of_success_is_retried(service):
    error = '{"ok": false, "error": "rate_limited"}'
    service.replies.append(Reply(body=error, type="application/json", headers={"Retry-After": "7"}))
    health = await outcome(slack(service))
    assert (health.state, health.dead) == (SinkState.RETRYING, 0)


@in_time
async def test_a_template_that_fails_at_run_time_sends_the_default_text_and_is_counted(service):
    config = slack(service, title="{{ index .Alerts 7 }}", channel="#{{ .GroupLabels.alertname }}")
    async with notifying(config) as run:
        await until(lambda: service.received)
        assert run.sink.statistics().unrendered == 1
    [body] = service.bodies
    assert body["channel"] == "#disk"
    assert body["attachments"][0]["title"] == "disk"
    assert "1 FIRING" in body["attachments"][0]["text"]
    assert "(a template of this channel failed: line 1, " in body["attachments"][0]["text"]


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"api_url": ""}, "", "is required, here or as slack_api_url in global"),
        ({"api_url": "hooks"}, ".api_url", "must begin with http"),
        ({"api_url_file": "x"}, ".api_url_file", "api_url and api_url_file are both given"),
        ({"fields": [{"title": "x"}]}, ".fields[0]", "a value is required"),
        ({"actions": [{"type": "button", "text": "x"}]}, ".actions[0]", "a url or a name is required"),
        ({"actions": [{"text": "x", "url": "x"}]}, ".actions[0]", "a type is required"),
        (
            {"actions": [{"type": "b", "text": "x", "name": "x", "confirm": {}}]},
            ".actions[0].confirm",
            "a text is required",
        ),
        ({"body": "x"}, ".body", "unknown key body"),
        ({"text": "{{ nope .Status }}"}, ".text", "nope"),
        ({"fields": [{"title": "x", "value": "{{ if }}"}]}, ".fields[0].value", ""),
    ],
)
def test_problems_have_their_position(service, options, path, message):
    found = problems(slack(service, **options))
    assert message in found[f"receivers[0].slack_configs[0]{path}"]


def test_messages_that_are_edited_are_noted(service):
    assert list(notes(slack(service, update_message=True))) == [
        "receivers[0].slack_configs[0].update_message"
    ]
