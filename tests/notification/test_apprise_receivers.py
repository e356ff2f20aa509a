"""The receivers of Alertmanager that Apprise delivers to: what arrives, and what is lost."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from codomyrmex.integrations import SinkState
from codomyrmex.integrations.notification import load_alert_config
from helpers import in_time, until
from http_service import HttpService, Reply
from receivers import (
    attempted,
    ends,
    findings,
    fires,
    notes,
    notifying,
    outcome,
    problems,
    receiver,
    shown_by_errors,
)

KEY = hashlib.sha256(b'{}:{alertname="disk"}').hexdigest()
TEXT = {"message": "{{ .CommonLabels.job }} is {{ .Status }}"}
GUID = "0123456789abcdef0123456789abcdef"

# For each key: its options, the host and the path that are called, and what the request contains.
RECEIVERS: dict[str, tuple[dict[str, Any], str, str, list[str]]] = {
    "telegram_configs": (
        {
            "bot_token": "123456789:abcdefg_hijklmnop",
            "chat_id": -1001,
            "message_thread_id": 7,
            "disable_notifications": True,
            **TEXT,
        },
        "api.telegram.org",
        "/bot123456789:abcdefg_hijklmnop/sendMessage",
        [
            "node is firing",
            '"chat_id": -1001',
            '"message_thread_id": 7',
            '"disable_notification": true',
            "HTML",
        ],
    ),
    "discord_configs": (
        {
            "webhook_url": "https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
            "title": "T {{ .Status }}",
            **TEXT,
        },
        "discord.com",
        "/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
        ["T firing", "node is firing"],
    ),
    "msteamsv2_configs": (
        {
            "webhook_url": (
                "https://prod-1.westeurope.logic.azure.com:443/workflows/3XXX5/triggers/manual/paths/invoke"
                "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=iXXXU"
            ),
            "title": "T {{ .Status }}",
            "text": "{{ .CommonLabels.job }} is {{ .Status }}",
        },
        "prod-1.westeurope.logic.azure.com:443",
        "/workflows/3XXX5/triggers/manual/paths/invoke",
        ["T firing", "node is firing"],
    ),
    "victorops_configs": (
        {
            "api_key": GUID,
            "routing_key": "{{ .CommonLabels.job }}-team",
            "state_message": "{{ .CommonLabels.job }} is {{ .Status }}",
            "entity_display_name": "T {{ .Status }}",
        },
        "alert.victorops.com",
        f"/integrations/generic/20131114/alert/{GUID}/node-team",
        ["T firing", "node is firing", f'"entity_id": "{KEY}"', '"message_type": "CRITICAL"'],
    ),
    "pushover_configs": (
        {
            "user_key": "u" * 30,
            "token": "t" * 30,
            "title": "T {{ .Status }}",
            "url": "http://{{ .Status }}",
            "url_title": "more",
            "retry": "2m",
            "expire": "2h",
            "device": "phone",
            **TEXT,
        },
        "api.pushover.net",
        "/1/messages.json",
        [
            *("title=T firing", "message=node is firing", "priority=2", "retry=120", "expire=7200"),
            *("url=http://firing", "url_title=more", f"user={'u' * 30}", f"token={'t' * 30}", "device=phone"),
        ],
    ),
    "sns_configs": (
        {
            "sigv4": {"access_key": "AKI", "secret_key": "p@ss:w/o#?rd", "region": "eu-west-1"},
            "topic_arn": "arn:aws:sns:eu-west-1:123456789012:ops",
            "subject": "T {{ .Status }}",
            **TEXT,
        },
        "sns.eu-west-1.amazonaws.com",
        "/",
        ["Action=Publish", "node is firing"],
    ),
    "webex_configs": (
        {
            "room_id": "Y2lzY29zcGFyazovL3VzL1JPT00vYmJjZWIxYWQ",
            "http_config": {"authorization": {"credentials": "a" * 80}},
            **TEXT,
        },
        "webexapis.com",
        "/v1/messages",
        ["node is firing", "Y2lzY29zcGFyazovL3VzL1JPT00vYmJjZWIxYWQ"],
    ),
    "rocketchat_configs": (
        {
            "api_url": "https://chat.example:8443/",
            "token": "t0" * 20,
            "token_id": "user1",
            "channel": "#{{ .CommonLabels.job }}",
            "title": "T {{ .Status }}",
            "text": "{{ .CommonLabels.job }} is {{ .Status }}",
        },
        "chat.example:8443",
        "/api/v1/chat.postMessage",
        ["T firing", "node is firing", "#node"],
    ),
    "mattermost_configs": (
        {
            "webhook_url": "https://mm.example/sub/hooks/3ccdd113474722377935511fc85d3dd4",
            "channel": "{{ .CommonLabels.job }}",
            "username": "bot",
            "text": "{{ .CommonLabels.job }} is {{ .Status }}",
        },
        "mm.example",
        "/sub/hooks/3ccdd113474722377935511fc85d3dd4",
        ["node is firing", '"channel": "node"', '"username": "bot"'],
    ),
    "wechat_configs": (
        {
            "corp_id": "c0rp",
            "api_secret": "s3c/ret",
            "agent_id": "1000002",
            "to_user": "{{ .CommonLabels.job }}|b",
            "to_party": "7",
            **TEXT,
        },
        "qyapi.weixin.qq.com",
        "/cgi-bin/message/send",
        ["node is firing", '"touser": "', '"toparty": "7"', '"agentid": 1000002'],
    ),
    "incidentio_configs": (
        {"url": "https://api.incident.io/v2/alert_events/http/01ABC", "alert_source_token": "t0k"},
        "api.incident.io",
        "/v2/alert_events/http/01ABC",
        ["disk", "1 FIRING", f'"deduplication_key": "{KEY}"', '"status": "firing"'],
    ),
}

REPLIES = {
    "sns_configs": Reply(
        body='<CreateTopicResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><CreateTopicResult>'
        "<TopicArn>arn:aws:sns:eu-west-1:123456789012:ops</TopicArn></CreateTopicResult></CreateTopicResponse>",
        type="text/xml",
    ),
    "wechat_configs": Reply(
        body='{"errcode": 0, "access_token": "t0k", "expires_in": 7200}', type="application/json"
    ),
}


def plain(received: Any) -> str:
    """Return the body of a request as text, whether it is JSON or a form."""
    body = received.body.decode()
    if received.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        return "&".join(f"{name}={value[0]}" for name, value in parse_qs(body).items())
    return unquote(body)


def alert() -> Any:
    return fires("disk", labels={"job": "node", "severity": "critical"})


@in_time
@pytest.mark.parametrize("key", RECEIVERS)
async def test_a_receiver_delivers_to_its_service(key: str, internet: HttpService):
    options, host, path, expected = RECEIVERS[key]
    if key in REPLIES:
        internet.default = REPLIES[key]
    config = receiver(key, options)
    assert [each for each in findings(config) if each.kind != "note"] == []
    async with notifying(config, alert()) as run:
        health = await attempted(run)
    assert health.last_error is None
    sent = internet.received[-1]
    assert sent.path.startswith(path)
    assert sent.headers["X-Host"] == host
    text = plain(sent)
    assert [each for each in expected if each not in text] == []


@in_time
@pytest.mark.parametrize(
    ("key", "path", "text"),
    [
        ("victorops_configs", "/integrations", f'"entity_id": "{KEY}"'),
        ("incidentio_configs", "/v2", f'"deduplication_key": "{KEY}"'),
    ],
)
async def test_a_resolution_closes_what_was_opened_under_the_same_key(key, path, text, internet):
    async with notifying(receiver(key, RECEIVERS[key][0]), alert()) as run:
        await attempted(run)
        await run.publish(ends("disk", labels={"job": "node", "severity": "critical"}))
        await run.pass_time(300)
        await until(lambda: len(internet.received) > 1)
    last = internet.received[-1]
    assert last.path.startswith(path)
    assert text in plain(last)
    assert re.search('RECOVERY|resolved|"source"', plain(last))


@in_time
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"opsgenie://{GUID}", f'"alias": "{KEY}"'),
        (f"opsgenie://{GUID}?alias=own", '"alias": "own"'),
        ("pagerduty://integration@apikey/source/component?action=map", f'"dedup_key": "{KEY}"'),
        ("incidentio://01ABC/t0k", f'"deduplication_key": "{KEY}"'),
    ],
)
async def test_an_apprise_url_gets_the_key_of_the_group(url, expected, internet):
    await outcome(receiver("apprise_configs", {"url": url}), alert())
    assert expected in plain(internet.received[0])


@in_time
async def test_an_answer_that_may_change_is_retried_and_another_is_given_up(internet):
    config = receiver("telegram_configs", RECEIVERS["telegram_configs"][0])
    internet.default = Reply(429, headers={"Retry-After": "3"})
    assert (await outcome(config)).state is SinkState.RETRYING
    internet.default = Reply(403)
    assert (await outcome(config)).dead == 1


@in_time
async def test_a_url_that_apprise_does_not_accept_is_found_and_fails_loudly(internet):
    config = receiver("discord_configs", {"webhook_url": "https://proxy.example/hook/s3cret"})
    [finding] = findings(config)
    assert (finding.kind, finding.path) == ("invalid-channel", "receivers[0].discord_configs[0]")
    assert "Apprise does not support this URL" in finding.message
    health = await outcome(config)
    assert health.dead == 1
    assert "channel ops[0] (https) cannot be set up: Apprise does not support this URL" in (
        health.last_error or ""
    )
    assert "s3cret" not in str(finding) + repr(health)


@in_time
async def test_secrets_in_files_are_read_for_each_notification(internet, tmp_path):
    options = {**RECEIVERS["telegram_configs"][0], "bot_token": "", "bot_token_file": str(tmp_path / "token")}
    config = receiver("telegram_configs", options)
    assert (await outcome(config)).state is SinkState.RETRYING
    (tmp_path / "token").write_text("123456789:abcdefg_hijklmnop\n")
    assert (await outcome(config)).last_error is None


@in_time
@pytest.mark.parametrize("key", ["jira_configs", "msteams_configs"])
async def test_what_cannot_be_delivered_is_a_problem_counted_and_reported(key, caplog):
    options = {"project": "p", "issue_type": "i"} if key == "jira_configs" else {"webhook_url": "https://h"}
    config = receiver(key, options)
    [finding] = findings(config)
    assert (finding.kind, finding.path) == ("delivers-nothing", f"receivers[0].{key}[0]")
    health = await outcome(config)
    assert health.dead == 1
    assert f"{key} deliver nothing here" in (health.last_error or "")
    assert f"{key} deliver nothing here" in caplog.text


def test_what_a_mapping_loses_is_noted_with_its_place():
    options = {
        "telegram_configs": {"api_url": "https://tg.example", "http_config": {"proxy_url": "http://p"}},
        "victorops_configs": {"custom_fields": {"a": "b"}, "monitoring_tool": "m", "api_url": "https://v"},
        "discord_configs": {"username": "u", "content": "c"},
        "pushover_configs": {"ttl": "1h", "monospace": True},
        "sns_configs": {"attributes": {"a": "b"}, "api_url": "https://s"},
        "rocketchat_configs": {"color": "red", "actions": []},
        "mattermost_configs": {"props": {}, "attachments": []},
        "webex_configs": {"api_url": "https://w"},
        "wechat_configs": {"api_url": "https://w"},
    }
    for key, more in options.items():
        found = notes(receiver(key, {**RECEIVERS[key][0], **more}))
        assert set(found) == {f"receivers[0].{key}[0].{name}" for name in more}, key
        assert all("not " in message for message in found.values())
    assert notes(receiver("webex_configs", RECEIVERS["webex_configs"][0])) == {}
    config = receiver("telegram_configs", RECEIVERS["telegram_configs"][0])
    config["global"]["http_config"] = {"proxy_url": "http://proxy.example"}
    [(path, message)] = notes(config).items()
    assert (path, message[:36]) == (
        "receivers[0].telegram_configs[0]",
        "http_config of global is not used he",
    )


@pytest.mark.parametrize(
    ("key", "options", "path", "message"),
    [
        ("telegram_configs", {"chat_id": 1}, "", "bot_token or bot_token_file is required, here or as"),
        ("telegram_configs", {"bot_token": "x"}, "", "chat_id or chat_id_file is required"),
        (
            "telegram_configs",
            {"parse_mode": "x"},
            ".parse_mode",
            "must be Markdown, MarkdownV2, HTML or empty",
        ),
        ("discord_configs", {}, "", "webhook_url or webhook_url_file is required"),
        ("msteamsv2_configs", {}, "", "webhook_url or webhook_url_file is required"),
        ("mattermost_configs", {}, "", "or as mattermost_webhook_url in global"),
        ("victorops_configs", {"api_key": "x"}, "", "routing_key is required"),
        ("pushover_configs", {"token": "x"}, "", "user_key or user_key_file is required"),
        ("pushover_configs", {"user_key": "x"}, "", "token or token_file is required"),
        ("sns_configs", {}, "", "topic_arn or target_arn or phone_number is required"),
        (
            "webex_configs",
            {"http_config": {"authorization": {"credentials": "x"}}},
            "",
            "room_id is required",
        ),
        ("rocketchat_configs", {"token": "x"}, "", "or as rocketchat_token_id in global"),
        ("wechat_configs", {"corp_id": "x"}, "", "or as wechat_api_secret in global"),
        ("wechat_configs", {"message_type": "x"}, ".message_type", "must be text or markdown"),
        ("incidentio_configs", {"url": "x"}, "", "alert_source_token or alert_source_token_file is required"),
        ("jira_configs", {"reason": "x"}, ".reason", "unknown key reason"),
        ("telegram_configs", {"title": "x"}, ".title", "unknown key title"),
    ],
)
def test_problems_have_their_position(key, options, path, message):
    found = problems(receiver(key, options))
    assert message in found[f"receivers[0].{key}[0]{path}"]


def test_sns_without_keys_is_found():
    config = receiver("sns_configs", {"sigv4": {"role_arn": "r"}, "phone_number": "+15551234567"})
    assert {each.path.rpartition(".")[2]: each.kind for each in findings(config)} == {
        "role_arn": "note",
        "sigv4": "invalid-channel",
    }


@in_time
async def test_a_message_of_rocketchat_with_a_title_only_is_its_title(internet):
    options = {name: each for name, each in RECEIVERS["rocketchat_configs"][0].items() if name != "text"}
    await outcome(receiver("rocketchat_configs", options), alert())
    assert internet.received[-1].json["text"] == "T firing"


@in_time
async def test_the_default_text_goes_where_the_receiver_says_if_a_template_fails(internet):
    options = {**RECEIVERS["rocketchat_configs"][0], "text": "{{ index .Alerts 7 }}"}
    async with notifying(receiver("rocketchat_configs", options), alert()) as run:
        assert (await attempted(run)).last_error is None
        assert run.sink.statistics().unrendered == 1
    text = plain(internet.received[-1])
    assert "#node" in text
    assert "1 FIRING" in text


@in_time
@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("rocketchat_configs", "channel"),
        ("victorops_configs", "routing_key"),
        ("sns_configs", "topic_arn"),
        ("webex_configs", "room_id"),
        ("wechat_configs", "agent_id"),
        ("wechat_configs", "to_user"),
    ],
)
async def test_a_target_that_is_empty_is_a_failure_instead_of_the_default_of_apprise(key, option, internet):
    options = {**RECEIVERS[key][0], option: "{{ .CommonLabels.missing }}"}
    options.pop("to_party", None)
    health = await outcome(receiver(key, options), alert())
    assert health.dead == 1
    assert f"its {option} is empty" in (health.last_error or "")
    assert internet.received == []


@in_time
async def test_a_token_in_http_config_can_be_in_a_file(internet, tmp_path):
    (tmp_path / "token").write_text("a" * 80)
    http_config = {"authorization": {"credentials_file": str(tmp_path / "token")}}
    webex = {**RECEIVERS["webex_configs"][0], "http_config": http_config}
    incident = {"url": RECEIVERS["incidentio_configs"][0]["url"], "http_config": http_config}
    for config in (receiver("webex_configs", webex), receiver("incidentio_configs", incident)):
        assert findings(config) == []
        assert (await outcome(config)).last_error is None
    assert [each.headers["Authorization"] for each in internet.received] == [f"Bearer {'a' * 80}"] * 2


def test_wechat_names_users_parties_and_tags():
    options = {"corp_id": "c0rp", "api_secret": "s/x", "agent_id": "1000002", "to_user": "a|b", "to_tag": "t"}
    [channel] = load_alert_config(receiver("wechat_configs", options)).receivers["ops"].channels
    assert str(channel.target_url(None)) == "wechat://c0rp:s%2Fx@1000002/%40a/%40b/%2Bt"
    assert findings(receiver("wechat_configs", options)) == []


@in_time
@pytest.mark.parametrize("key", RECEIVERS)
async def test_no_secret_is_ever_shown(key, internet, caplog):
    caplog.set_level(logging.DEBUG)
    options = RECEIVERS[key][0]
    secrets = [
        str(value)
        for name, value in options.items()
        if name in {"api_key", "api_secret", "bot_token", "token", "user_key", "webhook_url"}
    ]
    config = load_alert_config(receiver(key, options))
    [channel] = config.receivers["ops"].channels
    internet.default = Reply(500)
    health = await outcome(receiver(key, options))
    texts = [repr(config), repr(channel), repr(channel.create()), repr(health), caplog.text]
    texts += await shown_by_errors(channel)
    assert [(secret, text[:200]) for text in texts for secret in secrets if secret in text] == []
