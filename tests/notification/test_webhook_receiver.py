"""`webhook_configs`: what arrives at a webhook, and what its answers mean."""

from __future__ import annotations

import base64
import logging
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations import SinkState
from codomyrmex.integrations.notification import load_alert_config
from helpers import in_time, until
from http_service import CUT, HANG, HttpService, Reply, http_service
from receivers import attempted, ends, fires, notes, notifying, outcome, problems, receiver, shown_by_errors

SECRET = "t0ken-in-path"


@pytest.fixture
def service() -> Iterator[HttpService]:
    with http_service() as running_service:
        yield running_service


def hook(service: HttpService, **options: Any) -> dict[str, Any]:
    return receiver("webhook_configs", {"url": f"{service.url}/{SECRET}", **options}, name="ops.eu")


def failing(service: HttpService, *replies: Reply) -> dict[str, Any]:
    service.replies.extend(replies)
    return hook(service)


@in_time
async def test_the_body_is_that_of_alertmanager_version_4(service):
    labels = {"job": "node", "severity": "page"}
    event = fires("disk", labels=labels, annotations={"summary": "full"}, generator_url="http://prom/graph")
    health = await outcome(hook(service), event)
    assert health.delivered == 1
    [received] = service.received
    assert received.path == f"/{SECRET}"
    assert received.headers["Content-Type"] == "application/json"
    body = received.json
    [alert] = body.pop("alerts")
    labels = alert["labels"]
    assert {"alertname": "disk", "job": "node", "severity": "page"}.items() <= labels.items()
    assert body == {
        "version": "4",
        "groupKey": '{}:{alertname="disk"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": r"ops\.eu",
        "groupLabels": {"alertname": "disk"},
        "commonLabels": labels,
        "commonAnnotations": alert["annotations"],
        "externalURL": "",
        "notification_reason": "first notification",
        "routeLabels": {},
    }
    assert alert["endsAt"] == "0001-01-01T00:00:00Z"
    assert alert["generatorURL"] == "http://prom/graph"
    assert len(alert["fingerprint"]) == 16


@in_time
async def test_a_resolution_is_sent_unless_send_resolved_is_false(service):
    async with notifying(hook(service)) as run:
        await attempted(run)
        await run.publish(ends("disk"))
        await run.pass_time(300)
        await until(lambda: len(service.received) == 2)
    [alert] = service.bodies[1]["alerts"]
    assert (service.bodies[1]["status"], alert["status"]) == ("resolved", "resolved")
    assert alert["endsAt"] > alert["startsAt"]
    async with notifying(hook(service, send_resolved=False)) as run:
        await attempted(run)
        await run.publish(ends("disk"))
        await run.pass_time(300)
    assert [body["status"] for body in service.bodies[2:]] == ["firing"]


@in_time
async def test_max_alerts_leaves_out_the_last_in_the_order_of_alertmanager(service):
    config = hook(service, max_alerts=2)
    config["route"]["group_by"] = []
    events = [fires("a", labels={"job": "z"}), fires("b"), fires("c", labels={"job": "y", "extra": "1"})]
    await outcome(config, *events)
    [body] = service.bodies
    assert [alert["labels"]["alertname"] for alert in body["alerts"]] == ["c", "a"]
    assert body["truncatedAlerts"] == 1
    assert "extra" not in body["commonLabels"]


@in_time
async def test_alerts_are_in_the_order_of_alertmanager(service):
    config = hook(service)
    config["route"]["group_by"] = []
    given = [
        {"n": "4", "zone": "b"},
        {"n": "3", "zone": "a", "more": "x"},
        {"n": "2", "job": "b"},
        {"n": "1", "job": "a", "instance": "z"},
        {"n": "0", "job": "a", "instance": "y"},
        {"n": "5", "zone": "a", "more": "y"},
        {"n": "6", "aaa": "a", "zone": "a"},
    ]
    await outcome(config, *(fires("disk", labels=labels) for labels in given))
    [body] = service.bodies
    # By job and instance, the number of labels, and the labels; one without a label is before one with it.
    assert "".join(alert["labels"]["n"] for alert in body["alerts"]) == "0124356"


@in_time
async def test_a_payload_replaces_the_body_and_its_yaml_texts_become_values(service):
    payload = {"text": "fire", "count": "3", "list": ["{a: 1}", True, None], "7": "x: y: z"}
    await outcome(hook(service, payload=payload))
    assert service.bodies == [{"text": "fire", "count": 3, "list": [{"a": 1}, True, None], "7": "x: y: z"}]


# What an answer means


@in_time
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_success_is_delivered(service, status):
    health = await outcome(failing(service, Reply(status)))
    assert (health.delivered, health.dead) == (1, 0)


@in_time
@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_status_that_may_pass_is_retried(service, status):
    health = await outcome(failing(service, Reply(status)))
    assert (health.state, health.dead) == (SinkState.RETRYING, 0)
    assert f"channel ops.eu[0] (webhook) did not deliver: status {status}" in (health.last_error or "")


@in_time
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 501 - 79])
async def test_another_status_is_given_up(service, status):
    health = await outcome(failing(service, Reply(status)))
    assert health.dead == 1
    assert f"status {status}" in (health.last_error or "")


@in_time
async def test_a_wait_that_the_server_asks_for_is_kept_and_capped(service):
    service.replies += [Reply(429, headers={"Retry-After": "9"}), Reply(200)]
    async with notifying(hook(service)) as run:
        await until(lambda: len(service.received) == 1)
        await until(lambda: next(iter(run.sink.health().values())).last_error)
        await run.pass_time(8.5)
        assert len(service.received) == 1
        await run.pass_time(1)
        await until(lambda: len(service.received) == 2)
    service.replies.append(Reply(503, headers={"Retry-After": "9" * 40}))
    health = await outcome(hook(service))
    assert health.last_error  # the rest of the wait is limited by the delivery


@in_time
async def test_a_connection_that_is_cut_or_refused_is_retried(service):
    health = await outcome(failing(service, CUT))
    assert health.state is SinkState.RETRYING
    with http_service() as gone:
        config = hook(gone)
    health = await outcome(config)
    assert health.state is SinkState.RETRYING
    assert "ConnectError" in (health.last_error or "")


@in_time
async def test_no_answer_within_the_timeout_is_retried(service):
    service.replies.append(HANG)
    health = await outcome(hook(service, timeout="50ms"))
    assert "no answer within 0.05 s" in (health.last_error or "")
    assert health.dead == 0


@in_time
async def test_a_redirection_is_followed_only_if_it_sends_the_notification(service):
    with http_service() as other:
        for status in (307, 308):
            service.replies.append(Reply(status, headers={"Location": f"{other.url}/moved"}))
            assert (await outcome(hook(service))).delivered == 1
        assert [each.path for each in other.received] == ["/moved"] * 2
        assert other.bodies[0] == service.bodies[0] | {"alerts": other.bodies[0]["alerts"]}
        service.replies += [Reply(307, headers={"Location": service.url})] * 10
        assert "TooManyRedirects" in ((await outcome(hook(service))).last_error or "")
        service.replies.clear()
        service.replies.append(Reply(302, headers={"Location": other.url}))
        health = await outcome(hook(service))
        assert health.dead == 1
        assert "a redirection that does not send the notification" in (health.last_error or "")
        service.replies.append(Reply(307, headers={"Location": other.url}))
        health = await outcome(hook(service, http_config={"follow_redirects": False}))
        assert health.dead == 1
        assert len(other.received) == 2


# http_config


@in_time
@pytest.mark.parametrize(
    ("options", "header"),
    [
        (
            {"basic_auth": {"username": "me", "password": "p@ss:w/o#?rd"}},
            f"Basic {base64.b64encode(b'me:p@ss:w/o#?rd').decode()}",
        ),
        ({"bearer_token": "b3arer"}, "Bearer b3arer"),
        ({"authorization": {"credentials": "b3arer"}}, "Bearer b3arer"),
        ({"authorization": {"type": "GenieKey", "credentials": "k3y"}}, "GenieKey k3y"),
        ({"http_headers": {"Authorization": {"secrets": ["s3cret"]}}}, "s3cret"),
    ],
)
async def test_the_header_authorization_has_what_http_config_says(service, options, header):
    await outcome(hook(service, http_config=options))
    assert service.received[0].headers["Authorization"] == header


@in_time
async def test_a_user_and_a_password_in_a_url_are_sent_as_such(service):
    url = service.url.replace("//", "//me:p%40ss@")
    await outcome(receiver("webhook_configs", {"url": url}))
    expected = f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert service.received[0].headers["Authorization"] == expected


@in_time
async def test_the_http_config_of_global_is_the_default(service):
    config = {**hook(service), "global": {"http_config": {"bearer_token": "b3arer"}}}
    await outcome(config)
    await outcome({**hook(service, http_config={}), "global": config["global"]})
    assert [each.headers.get("Authorization") for each in service.received] == ["Bearer b3arer", None]


@in_time
async def test_secrets_in_files_are_read_for_each_request(service, tmp_path):
    (tmp_path / "url").write_text(f" {service.url}/{SECRET}\n")
    (tmp_path / "token").write_text("first\n")
    item = {
        "url_file": "url",
        "http_config": {"authorization": {"credentials_file": str(tmp_path / "token")}},
    }
    file = tmp_path / "alertmanager.yml"
    file.write_text(str(receiver("webhook_configs", item)))
    async with notifying(str(file)) as run:
        await until(lambda: len(service.received) == 1)
        (tmp_path / "token").write_text("second")
        await run.publish(fires("cpu"))
        await run.pass_time(30)
        await until(lambda: len(service.received) == 2)
        (tmp_path / "token").unlink()
        await run.publish(fires("fan"))
        await run.pass_time(30)
        await until(lambda: next(iter(run.sink.health().values())).last_error)
        error = next(iter(run.sink.health().values())).last_error
    assert [each.headers["Authorization"] for each in service.received] == ["Bearer first", "Bearer second"]
    assert f"the file {tmp_path}/token cannot be read: No such file" in error


@in_time
async def test_a_token_of_oauth2_is_requested_once_and_again_after_it_was_refused(service):
    grant = Reply(body='{"access_token": "t1", "expires_in": 600}', type="application/json")
    with http_service(grant) as tokens:
        oauth2 = {
            "client_id": "me",
            "client_secret": "s3cret",
            "token_url": f"{tokens.url}/token",
            "scopes": ["a", "b"],
        }
        async with notifying(hook(service, http_config={"oauth2": oauth2})) as run:
            await until(lambda: len(service.received) == 1)
            tokens.default = Reply(body='{"access_token": "t2"}', type="application/json")
            service.replies += [Reply(401), Reply(200)]
            await run.publish(fires("cpu"))
            await run.pass_time(30)
            await until(lambda: len(service.received) == 3)
            [health] = run.sink.health().values()
        assert [each.headers["Authorization"] for each in service.received] == [
            "Bearer t1",
            "Bearer t1",
            "Bearer t2",
        ]
        assert health.dead == 0
        assert [each.body for each in tokens.received] == [b"grant_type=client_credentials&scope=a+b"] * 2
        tokens.default = Reply(200, '{"token": "of another kind"}')
        health = await outcome(hook(service, http_config={"oauth2": oauth2}))
        assert (health.dead, "the token endpoint: status 200" in (health.last_error or "")) == (0, True)
        tokens.default = Reply(403)
        health = await outcome(hook(service, http_config={"oauth2": oauth2}))
    assert health.dead == 1
    assert "the token endpoint: status 403" in (health.last_error or "")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"]
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", *options, "-keyout", str(key), "-out", str(cert), *subject]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@in_time
async def test_tls_options_are_those_of_tls_config(certificate):
    cert, key = map(str, certificate)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    server.load_verify_locations(cert)
    server.verify_mode = ssl.CERT_REQUIRED
    client = {"cert_file": cert, "key_file": key}
    trusted = {"ca_file": cert, "server_name": "hooks.example"}
    with http_service(tls=server) as service:
        for options, delivered in [
            ({**client, **trusted}, 1),
            ({**client, "insecure_skip_verify": True, "min_version": "TLS12"}, 1),
            ({**client, "ca_file": cert}, 0),  # another name
            ({**client, "server_name": "hooks.example"}, 0),
            (trusted, 0),
        ]:
            health = await outcome(hook(service, http_config={"tls_config": options}))
            assert (health.delivered, health.dead) == (delivered, 0), options


@in_time
async def test_requests_go_through_the_proxy_unless_the_host_needs_none(service):
    with http_service() as proxy:
        await outcome(hook(service, http_config={"proxy_url": proxy.url}))
        assert [each.path for each in proxy.received] == [f"{service.url}/{SECRET}"]
        await outcome(
            hook(service, http_config={"proxy_url": proxy.url, "no_proxy": "example.org,127.0.0.1"})
        )
        assert (len(proxy.received), len(service.received)) == (1, 1)


async def test_certificates_that_cannot_be_used_are_an_error_at_the_start(service, tmp_path):
    (tmp_path / "ca").write_text("none")
    config = hook(service, http_config={"tls_config": {"ca_file": str(tmp_path / "ca")}})
    with pytest.raises(Exception, match=r"channel ops.eu\[0\] \(webhook\) cannot be set up: its http_config"):
        async with notifying(config):
            pass
    config = hook(service, http_config={"tls_config": {"ca_file": str(tmp_path / "absent")}})
    with pytest.raises(Exception, match="absent cannot be read: No such file"):
        async with notifying(config):
            pass


async def test_without_httpx_the_error_has_the_install_command(service, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=r"needs httpx, .* pip install 'codomyrmex-streaming\[alerts\]'"):
        async with notifying(hook(service)):
            pass


# What is said


@pytest.mark.parametrize(
    ("options", "path", "message"),
    [
        ({"url": None}, "", "url or url_file is required"),
        ({"url_file": "x"}, ".url_file", "url and url_file are both given"),
        ({"url": "hooks.example"}, ".url", "must begin with http:// or https://"),
        ({"url": "http:///x"}, ".url", "must have a host"),
        ({"url": "http://[x"}, ".url", "is not a URL"),
        ({"url": "${NOT_SET}"}, ".url", "NOT_SET is not set"),
        ({"max_alerts": -1}, ".max_alerts", "must be at least 0"),
        ({"urll": "x"}, ".urll", "did you mean url?"),
        ({"title": "x"}, ".title", "unknown key title"),
        ({"http_config": {"basic": {}}}, ".http_config.basic", "did you mean basic_auth?"),
        (
            {"http_config": {"bearer_token": "x", "basic_auth": {"username": "x"}}},
            ".http_config.bearer_token",
            "basic_auth and bearer_token are both given",
        ),
        (
            {"http_config": {"basic_auth": {"password": "x", "password_file": "x"}}},
            ".http_config.basic_auth.password_file",
            "remove one",
        ),
        (
            {"http_config": {"authorization": {"type": "Basic"}}},
            ".http_config.authorization.type",
            "basic_auth",
        ),
        (
            {"http_config": {"oauth2": {"client_id": "x", "client_secret_file": "f"}}},
            ".http_config.oauth2",
            "token_url is required",
        ),
        ({"http_config": {"no_proxy": "x"}}, ".http_config.no_proxy", "needs a proxy_url"),
        (
            {"http_config": {"proxy_from_environment": True, "proxy_url": "http://x"}},
            ".http_config.proxy_from_environment",
            "or this",
        ),
        ({"http_config": {"tls_config": {"cert": "x"}}}, ".http_config.tls_config", "needs its key"),
        (
            {"http_config": {"tls_config": {"min_version": "SSL3"}}},
            ".http_config.tls_config.min_version",
            "TLS12",
        ),
        (
            {"http_config": {"bearer_token": "${NOT_SET}"}},
            ".http_config.bearer_token",
            "NOT_SET is not set",
        ),
    ],
)
def test_problems_have_their_position(options, path, message):
    item = {"url": "http://hooks.example", **options}
    found = problems(
        receiver("webhook_configs", {key: value for key, value in item.items() if value is not None})
    )
    assert message in found[f"receivers[0].webhook_configs[0]{path}"]


def test_what_is_accepted_but_not_done_is_noted(service):
    options = {
        "enable_http2": True,
        "oauth2": {"client_id": "a", "client_secret": "b", "token_url": "http://h", "proxy_url": "http://p"},
    }
    path = "receivers[0].webhook_configs[0].http_config"
    assert set(notes(hook(service, http_config=options))) == {
        f"{path}.enable_http2",
        f"{path}.oauth2.proxy_url",
    }


@in_time
async def test_no_secret_is_ever_shown(service, caplog, capfd, tmp_path):
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    secrets = {SECRET, "p4ssw0rd", "h34der", "pr0xy"}
    options = {
        "basic_auth": {"username": "me", "password": "p4ssw0rd"},
        "http_headers": {"X-Key": {"secrets": ["h34der"]}},
    }
    config = load_alert_config(hook(service, http_config=options))
    texts = [repr(config)]
    [channel] = config.receivers["ops.eu"].channels
    texts += [repr(channel.create()), str(channel.create())]
    for reply in (Reply(404, SECRET), Reply(500), CUT):
        service.replies.append(reply)
        texts += await shown_by_errors(channel)
    for reply in (Reply(404, SECRET), Reply(500), CUT, Reply(302, headers={"Location": f"/{SECRET}"})):
        health = await outcome(failing(service, reply) | {"receivers": hook(service)["receivers"]})
        texts.append(repr(health))
    unreachable = {**options, "proxy_url": "http://u:pr0xy@127.0.0.1:1"}
    texts.append(repr(await outcome(hook(service, http_config=unreachable))))
    texts += [caplog.text, *capfd.readouterr()]
    assert [(secret, text[:300]) for text in texts for secret in secrets if secret in text] == []
