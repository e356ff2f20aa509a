"""Files for Alertmanager: amtool and this package agree on them, and their receivers deliver."""

from __future__ import annotations

import os
import random
import shutil
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from alert_channels import Running, ends, fires, running
from alertmanager_files import (
    DELIVERED,
    ENVIRON,
    FILES,
    FOLDER,
    LOADED,
    REFUSED,
    accepted_there,
    config_of,
    text_of,
)
from alertmanager_services import resolves, services
from codomyrmex.integrations.notification import AlertRouter
from codomyrmex.integrations.notification.alerts.channel_dispatcher import channels_of
from codomyrmex.integrations.notification.channels import UndeliverableChannel
from durable.servers import free_port
from helpers import in_time, until
from mail_certificates import server_context

AMTOOL = shutil.which("amtool")
by_name = pytest.mark.parametrize("file", DELIVERED, ids=lambda file: file.stem)
with_amtool = pytest.mark.skipif(
    AMTOOL is None and not os.environ.get("CI"), reason="amtool is not installed"
)


def run_amtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(AMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


@with_amtool
def test_every_file_that_amtool_accepts_loads():
    _, *answers = run_amtool("check-config", *FILES).stdout.split("Checking '")
    accepted = {Path(answer.partition("'")[0]): "FAILED" not in answer for answer in answers}
    assert accepted == {file: accepted_there(file) for file in FILES}
    refused = [file.name for file in FILES if REFUSED in text_of(file) and accepted[file]]
    assert refused == []  # the others load: tests/notification/test_alertmanager_files.py


@with_amtool
def test_labels_reach_the_receivers_of_amtool():
    chance = random.Random(1)
    cases = []
    for file in LOADED:
        config = config_of(file)
        if not accepted_there(file) or not config.route.children:
            continue
        values: dict[str, set[str]] = {}
        for route in config.route.walk():
            for matcher in route.matchers:
                parts = (
                    matcher.value.replace(".*", "").replace("[0-9]+", "7").replace("[1-9]", "3").split("|")
                )
                values.setdefault(matcher.name, {"other"}).update(filter(None, parts))
        for _ in range(2):
            chosen = {
                name: chance.choice(sorted(each)) for name, each in values.items() if chance.random() < 0.8
            }
            cases.append((file, config, chosen or {"alertname": "x"}))
    assert len(cases) > 40
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(
            lambda case: run_amtool(
                "config",
                "routes",
                "test",
                f"--config.file={case[0]}",
                *(f"{k}={v}" for k, v in case[2].items()),
            ),
            cases,
        )
        for (file, config, labels), answer in zip(cases, answers, strict=True):
            ours = [match.receiver for match in AlertRouter(config).match(labels)]
            assert answer.stdout.strip().split(",") == ours, f"{file.name}: {labels}"


class Mailbox:
    """Collects mails, whether they came encrypted, and the logins, all of which it accepts."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.encrypted: set[bool] = set()
        self.logins: set[tuple[str, str]] = set()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        self.encrypted.add(session.ssl is not None)
        return "250 OK"

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins.add((data.login.decode(), data.password.decode()))
        return AuthResult(success=True)


@contextmanager
def mail_server(tls: ssl.SSLContext):
    box, port = Mailbox(), free_port()
    options = {"auth_require_tls": False, "authenticator": box.login, "tls_context": tls}
    server = Controller(box, hostname="127.0.0.1", port=port, **options)
    server.start()
    try:
        yield box, f"127.0.0.1:{port}"
    finally:
        server.stop()


def to_the_stand_ins(file: Path, smarthost: str) -> dict[str, Any]:
    """Return the content of a file with a route to each receiver, and without what delays or hides."""
    data = yaml.safe_load(file.read_text(encoding="utf-8").replace("\t", " "))
    names = [each["name"] for each in data["receivers"]]
    routes = [{"receiver": name, "matchers": [f'to="{number}"']} for number, name in enumerate(names)]
    data["route"] = {"receiver": names[0], "group_wait": "0s", "routes": routes}
    for key in ("inhibit_rules", "time_intervals", "mute_time_intervals", "x"):
        data.pop(key, None)
    settings = data["global"] = data.get("global") or {}
    settings |= {key: smarthost for key in ("smtp_smarthost",) if key in settings}
    # The stand-in speaks STARTTLS, with a certificate that nobody has signed.
    settings |= {"smtp_tls_config": {"insecure_skip_verify": True}}
    for each in data["receivers"]:
        for mail in each.get("email_configs", ()):
            mail.pop("tls_config", None)
            if "smarthost" in mail:
                mail["smarthost"] = smarthost
        for hook in each.get("webhook_configs", ()):
            # The stand-in has no certificates.
            hook.get("http_config", {}).pop("tls_config", None)
    return data


@by_name
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@in_time
async def test_the_receivers_deliver(file, monkeypatch, tls):
    monkeypatch.chdir(FOLDER)  # where the files that it names are
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    sends_mail = "email_configs" in text_of(file)
    with mail_server(tls) if sends_mail else nullcontext((Mailbox(), "")) as (box, smarthost):
        data = to_the_stand_ins(file, smarthost)
        async with services(monkeypatch) as server, running(data, None, drain_timeout=0) as run:
            channels = channels_of(run.sink.config)
            sent, firing = 0, 0
            for event, seconds in ((fires, 1), (ends, 301)):
                for number in range(len(data["receivers"])):
                    labels = {"to": str(number), "severity": "critical", "job": "web", "env": "prod"}
                    await run.publish(event("disk", labels=labels, annotations={"summary": "2 % left"}))
                await run.pass_time(seconds)
                sent += sum(
                    event is fires or (each.send_resolved and not isinstance(each, UndeliverableChannel))
                    for each in channels.values()
                )
                await until(lambda: attempts(run) >= sent)  # noqa: B023 - it is called here only
                firing = firing or len(server.received)
            assert attempts(run) == sent
            health = run.sink.health()
    failed = {
        name: each.last_error
        for name, each in health.items()
        if each.last_error and not isinstance(channels[name], UndeliverableChannel)
    }
    assert failed == {}
    mails = sum(type(channel).__name__.startswith("Email") for channel in channels.values())
    assert bool(box.mails) == bool(mails)
    refused = sum(isinstance(channel, UndeliverableChannel) for channel in channels.values())
    assert len(server.received) + len(box.mails) >= len(channels) - refused
    assert box.logins == logins_of(data)
    assert box.encrypted == encryption_of(data)
    assert not any(map(resolves, server.received[:firing]))
    assert all(resolves(request) is not False for request in server.received[firing:])


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return server_context(tmp_path_factory.mktemp("tls"))


def attempts(run: Running) -> int:
    return sum(each.delivered + each.dead for each in run.sink.health().values())


def logins_of(data: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the names and passwords with which the mails of a file are sent."""
    default = data["global"]
    found = set()
    for receiver in data["receivers"]:
        for mail in receiver.get("email_configs", ()):
            user = mail.get("auth_username", default.get("smtp_auth_username"))
            password = mail.get("auth_password", default.get("smtp_auth_password"))
            if "smtp_auth_password_file" in default:
                password = (FOLDER / default["smtp_auth_password_file"]).read_text(encoding="utf-8").strip()
            if user:
                found.add((user, Template(password).substitute(ENVIRON)))
    return found


def encryption_of(data: dict[str, Any]) -> set[bool]:
    """Return whether the mails of a file require STARTTLS."""
    default = data["global"].get("smtp_require_tls", True)
    mails = [mail for receiver in data["receivers"] for mail in receiver.get("email_configs", ())]
    return {mail.get("require_tls", default) for mail in mails}
