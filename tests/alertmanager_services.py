"""Stand-ins for the services that notifications go to: they refuse what the real ones would refuse."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx
import pytest
import requests
from http_service import HttpService, Received, Reply, http_service

ACCEPTED = Reply(202, '{"status": "success", "result": "Request will be processed"}', "application/json")


def slack(request: Received) -> Reply:
    message = request.json
    assert message.get("text") or message["attachments"], "no_text"
    for attachment in message.get("attachments", ()):
        assert {"text", "title", "fallback"} & attachment.keys(), "no_text"
        for field in attachment.get("fields", ()):
            assert field["title"], "invalid_attachments"
    return Reply(200, "ok")


def webhook(request: Received) -> Reply:
    body = request.json
    if "version" in body:  # otherwise it is a payload of the file
        assert body["version"] == "4", "version"
        assert body["status"] in {"firing", "resolved"}, "status"
        assert body["alerts"][0]["labels"], "alerts"
        assert {"groupKey", "truncatedAlerts", "receiver", "groupLabels", "commonLabels"} < body.keys()
    return Reply(200)


def pagerduty(request: Received) -> Reply:
    event = request.json
    assert (request.path == "/v2/enqueue") == ("routing_key" in event), "key"
    assert event.get("routing_key") or event["service_key"], "key"
    if "routing_key" in event:
        assert event["event_action"] in {"trigger", "resolve"}, "event_action"
        assert event["dedup_key"], "dedup_key"
        assert all(event["payload"][key] for key in ("summary", "source")), "payload"
        assert event["payload"]["severity"] in {"critical", "error", "warning", "info"}, "severity"
    else:
        assert event["event_type"] in {"trigger", "resolve"}, "event_type"
        assert event["incident_key"], "incident_key"
    return ACCEPTED


def opsgenie(request: Received) -> Reply:
    assert request.headers["Authorization"].startswith("GenieKey "), "Authorization"
    if request.path.endswith("/close?identifierType=alias"):
        assert re.fullmatch("/v2/alerts/[0-9a-f]{64}/close.*", request.path), request.path
    else:
        assert request.path == "/v2/alerts", request.path
        assert all(request.json[key] for key in ("message", "alias")), "message"
    return ACCEPTED


def telegram(request: Received) -> Reply:
    assert re.fullmatch("/bot[0-9]+:[^/]+/sendMessage", request.path), request.path
    assert all(request.json[key] for key in ("chat_id", "text")), "chat_id"
    mode = request.json.get("parse_mode", "html").lower()  # capital letters do not matter
    assert mode in {"html", "markdown", "markdownv2"}, "parse_mode"
    return Reply(200, '{"ok": true, "result": {"message_id": 1}}', "application/json")


def discord(request: Received) -> Reply:
    assert request.path.startswith("/api/webhooks/"), request.path
    assert request.json.get("content") or request.json["embeds"], "content"
    return Reply(204)


def webex(request: Received) -> Reply:
    assert request.path == "/v1/messages", request.path
    assert request.headers["Authorization"].startswith("Bearer "), "Authorization"
    assert request.json["roomId"], "roomId"
    assert request.json.get("markdown") or request.json["text"], "text"
    return Reply(200, '{"id": "1"}', "application/json")


def victorops(request: Received) -> Reply:
    assert re.fullmatch("/integrations/generic/20131114/alert/[^/]+/[^/]+", request.path), request.path
    assert request.json["message_type"] in {"CRITICAL", "WARNING", "INFO", "RECOVERY"}, "message_type"
    assert all(request.json[key] for key in ("entity_id", "state_message")), "entity_id"
    return Reply(200, '{"result": "success", "entity_id": "1"}', "application/json")


def incidentio(request: Received) -> Reply:
    assert request.path.startswith("/v2/alert_events/http/"), request.path
    assert request.headers["Authorization"].startswith("Bearer "), "Authorization"
    assert request.json["status"] in {"firing", "resolved"}, "status"
    assert all(request.json[key] for key in ("title", "deduplication_key")), "title"
    return Reply(202, '{"status": "success"}', "application/json")


def rocketchat(request: Received) -> Reply:
    if request.path.startswith("/hooks/"):  # a webhook, which takes the messages of Slack
        return slack(request)
    assert request.path == "/api/v1/chat.postMessage", request.path
    assert request.headers["X-Auth-Token"], "X-Auth-Token"
    assert request.headers["X-User-Id"], "X-User-Id"
    assert all(request.json[key] for key in ("channel", "text")), "channel"
    return Reply(200, '{"success": true}', "application/json")


def teams(request: Received) -> Reply:
    assert request.json["type"] == "message", "type"
    assert request.json["attachments"][0]["contentType"] == "application/vnd.microsoft.card.adaptive"
    return Reply(202)


def pushover(request: Received) -> Reply:
    form = parse_qs(request.body.decode())
    assert all(form[key] for key in ("token", "user", "message")), "message"
    return Reply(200, '{"status": 1, "request": "1"}', "application/json")


def sns(request: Received) -> Reply:
    form = parse_qs(request.body.decode())
    assert form["Action"] in (["Publish"], ["CreateTopic"]), "Action"
    topic = "<TopicArn>arn:aws:sns:eu-central-1:123456789012:alerts</TopicArn>"
    result = f"<PublishResult><MessageId>1</MessageId>{topic}</PublishResult>"
    return Reply(200, f"<PublishResponse>{result}</PublishResponse>", "text/xml")


def wechat(request: Received) -> Reply:
    token = '"access_token": "t", "expires_in": 7200' if "gettoken" in request.path else '"msgid": "1"'
    return Reply(200, f'{{"errcode": 0, "errmsg": "ok", {token}}}', "application/json")


SERVICES: dict[str, Callable[[Received], Reply]] = {
    "hooks.slack.com": slack,
    "mattermost.example.org": slack,
    "rocket.example.org": rocketchat,
    "webexapis.com": webex,
    "alert.victorops.com": victorops,
    "api.incident.io": incidentio,
    "events.pagerduty.com": pagerduty,
    "api.opsgenie.com": opsgenie,
    "api.eu.opsgenie.com": opsgenie,
    "api.telegram.org": telegram,
    "discord.com": discord,
    "discordapp.com": discord,
    "prod-00.westeurope.logic.azure.com": teams,
    "api.pushover.net": pushover,
    "sns.eu-central-1.amazonaws.com": sns,
    "qyapi.weixin.qq.com": wechat,
    "login.test": lambda _: Reply(200, '{"access_token": "t", "token_type": "Bearer"}', "application/json"),
}


def service_of(request: Received) -> Callable[[Received], Reply]:
    headers = {name.lower(): value for name, value in request.headers.items()}
    return SERVICES.get(headers["x-host"].partition(":")[0], webhook)


def resolves(request: Received) -> bool | None:
    """Return whether a request says that alerts are resolved; None if it is a text, for people."""
    service = service_of(request)
    if service is opsgenie:
        return "/close" in request.path
    fields = {
        webhook: ("status",),
        pagerduty: ("event_action", "event_type"),
        victorops: ("message_type",),
        incidentio: ("status",),
    }
    for name in fields.get(service, ()):
        if name in request.json:
            return request.json[name] in {"resolved", "resolve", "RECOVERY"}
    return None


def answer(request: Received) -> Reply:
    """Answer as the service at the host of the request does."""
    try:
        return service_of(request)(request)
    except (AssertionError, LookupError, ValueError) as error:
        return Reply(400, f"{type(error).__name__}: {error}")


@asynccontextmanager
async def services(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpService]:
    """Run a server that answers in place of all hosts, whichever client asks."""
    with http_service(answer) as server:
        place = urlsplit(server.url).netloc
        send = requests.adapters.HTTPAdapter.send
        handle = httpx.AsyncHTTPTransport.handle_async_request

        def redirected(adapter: Any, request: Any, **options: Any) -> Any:
            parts = urlsplit(request.url)
            request.headers["X-Host"] = parts.netloc
            request.url = urlunsplit(("http", place, *parts[2:]))
            return send(adapter, request, **{**options, "proxies": None})

        async def handled(_: Any, request: httpx.Request) -> httpx.Response:
            request.headers["X-Host"] = request.url.host
            path = request.url.raw_path
            request.url = httpx.URL(scheme="http", host="127.0.0.1", port=server.server_port, raw_path=path)
            return await handle(transport, request)

        transport = httpx.AsyncHTTPTransport(verify=False)
        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", redirected)
        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handled)
        try:
            yield server
        finally:
            monkeypatch.undo()
            await transport.aclose()
