"""Files for Alertmanager: amtool and this package agree on them, and their receivers deliver.

A comment at the beginning of a file says what differs: `amtool: newer` for what Debian's version does not
know yet, `amtool: refuses`, `here: refuses`, and `here: reported` if only `check` says that a receiver cannot
deliver: variables are replaced in secrets only, and not in the address of a mail.
"""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from alert_channels import Running, ends, fires, running
from alertmanager_services import services
from codomyrmex.integrations.notification import (
    AlertConfig,
    AlertConfigError,
    AlertRouter,
    lint,
    load_alert_config,
)
from codomyrmex.integrations.notification.alerts.channel_dispatcher import channels_of
from codomyrmex.integrations.notification.channels import UndeliverableChannel
from durable.servers import free_port
from helpers import in_time, until

AMTOOL = shutil.which("amtool")
FOLDER = Path(__file__).parents[1] / "data" / "alertmanager"
FILES = sorted(FOLDER.glob("*.yml"))
# What public files have, as a regular expression, and in how many percent of ours it is at least.
USUAL = {
    "email_configs": 36,
    "slack_configs": 32,
    "webhook_configs": 32,
    "telegram_configs": 10,
    "pagerduty_configs": 6,
    "opsgenie_configs": 3,
    "discord_configs": 3,
    "pushover_configs": 2,
    r"(?s)templates:.+\.tmpl": 14,
    r"\$\{": 15,
    "_file:": 9,
    "http_config": 15,
    "{{": 40,
    "range [^}]*Alerts": 22,
    r"{{-? if |else": 13,
    r"StartsAt\.Format": 6,
    'template "': 6,
    "toUpper": 3,
    "toLower": 2,
    r"Firing \| len": 3,
    "index .Alerts 0": 3,
    "{{ with": 1,
    "SortedPairs": 1,
    "since ": 1,
    "safeHtml": 1,
    "match_re": 2,
    "inhibit_rules": 5,
}
NEWER, REFUSED_THERE = "# amtool: newer\n", "# amtool: refuses\n"
REFUSED, REPORTED = "# here: refuses\n", "# here: reported\n"
ENVIRON = {
    **dict.fromkeys(("SMTP_PASSWORD", "BLOCKS_SMTP_PASSWORD", "HOOK_PASSWORD", "HOOK_TOKEN"), "p"),
    **dict.fromkeys(("PAGERDUTY_KEY", "OPSGENIE_KEY"), "0123456789abcdef0123456789abcdef"),
    **dict.fromkeys(("PUSHOVER_USER", "PUSHOVER_TOKEN"), "uQiRzpo4DXghDmr9QzzfQu27cmVRsG"),
    "SLACK_URL": "https://hooks.slack.com/services/T0/B0/x",
    "SLACK_CHANNEL": "#alerts",
    "DISCORD_URL": "https://discord.com/api/webhooks/123456789012345678/abcdefghijklmnopqrstuvwxyz",
    "SMTP_HOST": "smtp.example.org",
    "SMTP_FROM": "alerts@example.org",
    "SMTP_USER": "alerts",
    "ALERTS_TO": "ops@example.org",
    "TELEGRAM_TOKEN": "333333333:EEExampleExampleExampleExampleExampl",
    "AMOUNT": "5",
}
LOADED = [file for file in FILES if REFUSED not in file.read_text(encoding="utf-8")]
DELIVERED = [file for file in LOADED if REPORTED not in file.read_text(encoding="utf-8")]
by_name = pytest.mark.parametrize("file", DELIVERED, ids=lambda file: file.stem)
with_amtool = pytest.mark.skipif(
    AMTOOL is None and not os.environ.get("CI"), reason="amtool is not installed"
)


def run_amtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(AMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


@functools.cache
def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@functools.cache
def config_of(file: Path) -> AlertConfig:
    return load_alert_config(file, environ=ENVIRON)


def accepted_there(file: Path) -> bool:
    return not (NEWER in text_of(file) or REFUSED_THERE in text_of(file))


def test_the_files_have_the_usual_mix_of_features():
    assert len(FILES) >= 80
    for pattern, percent in USUAL.items():
        found = sum(re.search(pattern, text_of(file)) is not None for file in FILES)
        assert found * 100 >= percent * len(FILES), f"{pattern}: {found} of {len(FILES)}"
    templates = "".join(file.read_text(encoding="utf-8") for file in FOLDER.glob("*.tmpl"))
    for construct in ("{{/*", "{{ block", "{{ define", "range $", "{{- ", "with ", "else if", "reReplaceAll"):
        assert construct in templates, construct


@with_amtool
def test_every_file_that_amtool_accepts_loads():
    _, *answers = run_amtool("check-config", *FILES).stdout.split("Checking '")
    accepted = {Path(answer.partition("'")[0]): "FAILED" not in answer for answer in answers}
    assert accepted == {file: accepted_there(file) for file in FILES}
    for file in FILES:
        if REFUSED in text_of(file):
            assert not accepted_there(file), file.name
            with pytest.raises(AlertConfigError) as caught:
                config_of(file)
            assert all(problem.line for problem in caught.value.problems), file.name
        else:
            config_of(file)


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


def test_what_cannot_be_delivered_is_reported_with_its_position():
    undeliverable = 0
    for file in LOADED:
        config = config_of(file)
        findings = lint(config, 0)
        for channel in channels_of(config).values():
            if isinstance(channel, UndeliverableChannel):
                undeliverable += 1
                found = [each for each in findings if each.line and channel.reason in each.message]
                assert found, f"{file.name}: {channel.name}"
        if file not in DELIVERED:
            assert [each for each in findings if each.line and each.kind == "invalid-channel"], file.name
    assert undeliverable == 2  # Jira, and the connectors of Teams


class Mailbox:
    """Collects mails, and the names and passwords of those who log in; it accepts every login."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.logins: set[tuple[str, str]] = set()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"

    def login(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins.add((data.login.decode(), data.password.decode()))
        return AuthResult(success=True)


@contextmanager
def mail_server():
    box, port = Mailbox(), free_port()
    options = {"auth_require_tls": False, "authenticator": box.login}
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
    settings = data.setdefault("global", {}) or {}
    settings |= {key: smarthost for key in ("smtp_smarthost",) if key in settings}
    settings |= {"smtp_require_tls": False}
    for each in data["receivers"]:
        for mail in each.get("email_configs", ()):
            mail |= {"require_tls": False, **({"smarthost": smarthost} if "smarthost" in mail else {})}
        for hook in each.get("webhook_configs", ()):
            # The stand-in has no certificates.
            hook.get("http_config", {}).pop("tls_config", None)
    return data


@by_name
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@in_time
async def test_the_receivers_deliver(file, monkeypatch):
    monkeypatch.chdir(FOLDER)  # where the files that it names are
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with mail_server() as (box, smarthost):
        data = to_the_stand_ins(file, smarthost)
        async with services(monkeypatch) as server, running(data, None, drain_timeout=0) as run:
            channels = channels_of(run.sink.config)
            sent = 0
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
