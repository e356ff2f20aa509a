"""Eighty files for Alertmanager: amtool and this package agree on them, and their receivers deliver.

A comment at the beginning of a file says what differs: `amtool: newer` for what Debian's version does not
know yet, `amtool: refuses`, `here: refuses`, and `here: reported` if only `check` says that a receiver cannot
deliver: variables are replaced in secrets only, and not in the address of a mail.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from alert_channels import fires, running
from alertmanager_services import services
from codomyrmex.integrations.notification import AlertConfigError, AlertRouter, lint, load_alert_config
from codomyrmex.integrations.notification.alerts.channel_dispatcher import channels_of
from codomyrmex.integrations.notification.channels import UndeliverableChannel
from durable.servers import free_port
from helpers import in_time, until

AMTOOL = shutil.which("amtool")
FOLDER = Path(__file__).parents[1] / "data" / "alertmanager"
FILES = sorted(FOLDER.glob("*.yml"))
USUAL = ("email", "slack", "webhook", "telegram", "pagerduty", "opsgenie", "discord", "pushover")
NEWER, REFUSED_THERE = "# amtool: newer\n", "# amtool: refuses\n"
REFUSED, REPORTED = "# here: refuses\n", "# here: reported\n"
ENVIRON = {
    **dict.fromkeys(("SMTP_PASSWORD", "BLOCKS_SMTP_PASSWORD", "HOOK_PASSWORD", "HOOK_TOKEN"), "p"),
    **dict.fromkeys(("PAGERDUTY_KEY", "OPSGENIE_KEY"), "0123456789abcdef0123456789abcdef"),
    **dict.fromkeys(("PUSHOVER_USER", "PUSHOVER_TOKEN"), "uQiRzpo4DXghDmr9QzzfQu27cmVRsG"),
    "SLACK_URL": "https://hooks.slack.com/services/T0/B0/x",
    "SLACK_CHANNEL": "#alerts",
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


def test_the_files_have_what_is_usual_in_its_proportions():
    assert len(FILES) == 80
    counts: Counter[str] = Counter()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        counts.update(kind for kind in USUAL if f"{kind}_configs" in text)
        counts.update({"templates": "templates:" in text and ".tmpl" in text, "variables": "${" in text})
        counts.update({"files": "_file:" in text, "http": "http_config" in text, "text": "{{" in text})
    for kind, least in {"email": 30, "slack": 26, "webhook": 26, "telegram": 8, "pagerduty": 5}.items():
        assert counts[kind] >= least, kind
    for kind, least in {"templates": 5, "variables": 10, "files": 4, "http": 9, "text": 35}.items():
        assert counts[kind] >= least, kind


@with_amtool
def test_every_file_that_amtool_accepts_loads():
    with ThreadPoolExecutor(4) as pool:
        answers = dict(
            zip(FILES, pool.map(lambda file: run_amtool("check-config", file), FILES), strict=True)
        )
    for file, answer in answers.items():
        text = file.read_text(encoding="utf-8")
        expected = not (NEWER in text or REFUSED_THERE in text)
        assert (answer.returncode == 0) == expected, f"{file.name}: {answer.stdout}{answer.stderr}"
        if REFUSED in text:
            assert not expected, file.name
            with pytest.raises(AlertConfigError) as caught:
                load_alert_config(file, environ=ENVIRON)
            assert all(problem.line for problem in caught.value.problems), file.name
        else:
            load_alert_config(file, environ=ENVIRON)


@with_amtool
def test_labels_reach_the_receivers_of_amtool():
    chance = random.Random(1)
    cases = []
    for file in LOADED:
        text = file.read_text(encoding="utf-8")
        config = load_alert_config(file, environ=ENVIRON)
        if NEWER in text or REFUSED_THERE in text or not config.route.children:
            continue
        values: dict[str, set[str]] = {}
        for route in config.route.walk():
            for matcher in route.matchers:
                parts = (
                    matcher.value.replace(".*", "").replace("[0-9]+", "7").replace("[1-9]", "3").split("|")
                )
                values.setdefault(matcher.name, {"other"}).update(filter(None, parts))
        for _ in range(3):
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
        config = load_alert_config(file, environ=ENVIRON)
        for channel in channels_of(config).values():
            if isinstance(channel, UndeliverableChannel):
                undeliverable += 1
                found = [each for each in lint(config, 0) if each.line and channel.reason in each.message]
                assert found, f"{file.name}: {channel.name}"
        if file not in DELIVERED:
            assert [each for each in lint(config, 0) if each.line and each.kind == "invalid-channel"], (
                file.name
            )
    assert undeliverable == 2  # Jira, and the connectors of Teams


class Mailbox:
    """Collects mails; it accepts every login."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 OK"


@contextmanager
def mail_server():
    box, port = Mailbox(), free_port()
    options = {"auth_require_tls": False, "authenticator": lambda *_: AuthResult(success=True)}
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
            for number in range(len(data["receivers"])):
                labels = {"to": str(number), "severity": "critical", "job": "web", "env": "prod"}
                await run.publish(fires("disk", labels=labels, annotations={"summary": "2 % left"}))
            await run.pass_time(1)
            health = run.sink.health
            await until(lambda: all(each.delivered or each.last_error for each in health().values()))
            failed = {
                name: each.last_error
                for name, each in health().items()
                if each.last_error and not isinstance(channels[name], UndeliverableChannel)
            }
    assert failed == {}
    mails = sum(type(channel).__name__.startswith("Email") for channel in channels.values())
    assert bool(box.mails) == bool(mails)
    refused = sum(isinstance(channel, UndeliverableChannel) for channel in channels.values())
    assert len(server.received) + len(box.mails) >= len(channels) - refused
