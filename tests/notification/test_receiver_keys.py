"""Each key of a receiver that Alertmanager documents is known: it is used, noted, or a problem of its own."""

from __future__ import annotations

from typing import Any

import pytest
from codomyrmex.integrations.notification import load_alert_config
from receivers import findings, notes, problems, receiver

TLS = {"ca_file": "a", "cert_file": "c", "key_file": "k", "server_name": "s", "min_version": "TLS12"}
PROXY = {"proxy_url": "http://p", "no_proxy": "h", "proxy_connect_header": {"a": ["b"]}}
HTTP: dict[str, Any] = {
    "follow_redirects": True,
    "enable_http2": True,
    "tls_config": {**TLS, "max_version": "TLS13", "insecure_skip_verify": False},
    "http_headers": {"X-A": {"values": ["v"], "secrets": ["s"], "files": ["f"]}},
    **PROXY,
}
OAUTH = {
    "client_id": "i",
    "client_secret": "s",
    "scopes": ["a"],
    "token_url": "http://t",
    "endpoint_params": {"a": "b"},
    "tls_config": TLS,
    "grant_type": "client_credentials",
    **PROXY,
    "client_certificate_key_id": "i",
    "client_certificate_key": "k",
    "signature_algorithm": "RS256",
    "iss": "i",
    "audience": "a",
    "claims": {"a": 1},
    "client_certificate_key_file": "f",
}
BOT = {"http_config": {"authorization": {"type": "Bearer", "credentials": "t" * 68}}}
FIELD = {"title": "a", "value": "b", "short": True}
ATTACHMENT = (
    *("fallback", "color", "pretext", "text", "title", "title_link", "thumb_url", "footer", "image_url"),
    *("author_name", "author_link", "author_icon", "footer_icon"),
)


def texts(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "x")


# Without send_resolved and http_config, which all have.
KEYS: dict[str, dict[str, Any]] = {
    "discord": {"webhook_url": "https://discord.com/api/webhooks/123456789/abcdefghijklmnopqrstuvwxyz"}
    | texts("content", "title", "message", "username", "avatar_url"),
    "email": texts("to", "from", "hello", "auth_username", "auth_password", "auth_secret", "auth_identity")
    | texts("html", "text")
    | {"smarthost": "h:25", "headers": {"A": "b"}, "require_tls": True, "force_implicit_tls": False}
    | {"tls_config": TLS, "threading": {"enabled": True, "thread_by_date": "daily"}},
    "incidentio": texts("alert_source_token")
    | {"url": "https://api.incident.io/v2/alert_events/http/x", "max_alerts": 1, "timeout": "5s"}
    | {"metadata": {"a": "b"}},
    "jira": texts("api_url", "api_type", "project", "priority", "issue_type", "reopen_transition")
    | texts("resolve_transition", "wont_fix_resolution")
    | {"summary": {"template": "t", "enable_update": True}, "description": "d", "labels": ["l"]}
    | {"reopen_duration": "1h", "fields": {"a": {"b": "c"}}},
    "mattermost": texts(*ATTACHMENT, "channel", "username", "icon_url", "icon_emoji", "type")
    | {"webhook_url": "https://h/hooks/abcdefghijklmnopqrstuvwxyz", "fields": [FIELD]}
    | {"attachments": [{**texts(*ATTACHMENT), "fields": [FIELD]}], "props": {"card": "c"}}
    | {"priority": {"priority": "urgent", "requested_ack": True, "persistent_notifications": True}},
    "msteams": {"webhook_url": "https://h"} | texts("title", "summary", "text"),
    "msteamsv2": {"webhook_url": "https://prod-0.x.logic.azure.com/workflows/w1/triggers/manual?sig=s"}
    | texts("title", "text"),
    "opsgenie": texts("api_key", "message", "description", "source", "entity", "actions", "tags", "note")
    | {"api_url": "https://h", "details": {"a": "b"}, "priority": "P1", "update_alerts": True}
    | {"responders": [{"id": "i", "type": "team"}, {"name": "n", "type": "user"}]},
    "pagerduty": texts("routing_key", "client", "client_url", "description", "source", "severity", "class")
    | texts("component", "group")
    | {"url": "https://h", "details": {"a": {"b": "c"}}, "images": [texts("src", "alt", "href")]}
    | {"links": [texts("href", "text")], "timeout": "5s"},
    "pushover": texts("title", "message", "url", "url_title", "device", "sound")
    | {"user_key": "u" * 30, "token": "t" * 30, "priority": 1, "retry": "1m", "expire": "1h", "ttl": "1h"}
    | {"html": False, "monospace": True},
    "rocketchat": texts("token_id", "token", "channel", "color", "title", "title_link", "text", "emoji")
    | texts("icon_url", "image_url", "thumb_url")
    | {"api_url": "https://h", "fields": [FIELD], "short_fields": True, "link_names": True}
    | {"actions": [texts("type", "text", "url", "msg")]},
    "slack": texts("channel", "username", "color", "title", "title_link", "pretext", "text", "message_text")
    | texts("footer", "fallback", "callback_id", "icon_emoji", "icon_url", "image_url", "thumb_url")
    | {"api_url": "https://h", "app_url": "https://h", "fields": [FIELD], "short_fields": True}
    | {"link_names": True, "mrkdwn_in": ["text"], "update_message": True, "timeout": "5s"}
    | {"actions": [{**texts("type", "text", "url", "style", "name", "value"), "confirm": texts("text")}]},
    "sns": texts("subject", "message")
    | {"topic_arn": "arn:aws:sns:eu-west-1:1:ops", "attributes": {"a": "b"}, "api_url": "https://h"}
    | {"sigv4": texts("access_key", "secret_key", "profile", "role_arn", "external_id", "service_name")}
    | {"use_aws_http_client": True},
    "telegram": {"bot_token": "123456789:" + "a" * 35, "chat_id": 1, "message_thread_id": 2}
    | {"message": "m", "disable_notifications": True, "parse_mode": "Markdown", "api_url": "https://h"},
    "victorops": texts("api_key", "routing_key", "message_type", "state_message", "entity_display_name")
    | {"monitoring_tool": "m", "custom_fields": {"a": "b"}, "api_url": "https://h"},
    "webex": {"room_id": "r" * 76, "message": "m", "api_url": "https://h", **BOT},
    "webhook": {"url": "https://h", "max_alerts": 1, "timeout": "5s", "payload": {"a": ["b"]}},
    "wechat": texts("api_secret", "corp_id", "message", "to_user", "to_party", "to_tag")
    | {"agent_id": 1, "message_type": "text", "api_url": "https://h"},
}
FILES = {
    "discord": ["webhook_url"],
    "email": ["auth_password", "auth_secret"],
    "incidentio": ["url", "alert_source_token"],
    "mattermost": ["webhook_url"],
    "msteams": ["webhook_url"],
    "msteamsv2": ["webhook_url"],
    "opsgenie": ["api_key"],
    "pagerduty": ["routing_key"],
    "pushover": ["user_key", "token"],
    "rocketchat": ["token", "token_id"],
    "slack": ["api_url"],
    "telegram": ["bot_token", "chat_id"],
    "victorops": ["api_key"],
    "webhook": ["url"],
    "wechat": ["api_secret"],
}
SILENT = {"email", "rocketchat", "slack", "wechat"}  # they do not notify about resolved alerts by default
by_type = pytest.mark.parametrize("kind", sorted(KEYS))


@by_type
def test_all_keys_of_a_receiver_are_known(kind):
    options = {"send_resolved": True, **KEYS[kind]}
    if kind not in {"email", "webex"}:
        options["http_config"] = {**HTTP, "oauth2": OAUTH}
    assert problems(receiver(f"{kind}_configs", options)) == {}
    for name in FILES.get(kind, ()):
        given = {key: each for key, each in options.items() if key != name}
        assert problems(receiver(f"{kind}_configs", {**given, f"{name}_file": "f"})) == {}, name


@by_type
def test_a_receiver_with_nothing_but_its_address_has_no_notes_about_its_defaults(kind):
    required = {"discord": ["webhook_url"], "email": ["to", "from", "smarthost"]} | {
        "incidentio": ["url", "alert_source_token"],
        "mattermost": ["webhook_url"],
        "msteamsv2": ["webhook_url"],
        "opsgenie": ["api_key"],
        "pagerduty": ["routing_key"],
        "pushover": ["user_key", "token"],
        "rocketchat": ["token", "token_id", "channel"],
        "slack": ["api_url"],
        "sns": ["topic_arn"],
        "telegram": ["bot_token", "chat_id"],
        "victorops": ["api_key", "routing_key"],
        "webex": ["room_id", "http_config"],
        "webhook": ["url"],
        "wechat": ["api_secret", "corp_id"],
    }
    options = {name: KEYS[kind][name] for name in required.get(kind, ())}
    config = receiver(f"{kind}_configs", options)
    assert notes(config) == {}
    if kind == "sns":  # a role or a profile would be used in Alertmanager
        assert ["sigv4" in each.path for each in findings(config) if each.is_mistake] == [True]


@by_type
def test_the_options_of_http_config_are_checked_whoever_sends(kind):
    if kind in {"email", "jira", "msteams"}:
        return
    both = {"authorization": {"credentials": "c"}, "bearer_token": "t"}
    found = problems(receiver(f"{kind}_configs", {**KEYS[kind], "http_config": both}))
    assert [path.rpartition("http_config.")[2] for path in found] == ["bearer_token"]


@by_type
def test_resolved_alerts_are_sent_by_the_types_that_do_so_in_alertmanager(kind):
    config = load_alert_config(receiver(f"{kind}_configs", KEYS[kind]), environ={})
    [channel] = config.receivers["ops"].channels
    assert channel.send_resolved == (kind not in SILENT)
