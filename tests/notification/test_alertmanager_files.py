"""Files for Alertmanager load, or are refused with the places of their problems; no server is needed."""

from __future__ import annotations

import re

import pytest
from alertmanager_files import DELIVERED, ENVIRON, FILES, FOLDER, LOADED, REFUSED, config_of, text_of
from codomyrmex.integrations.notification import AlertConfigError, lint, load_alert_config
from codomyrmex.integrations.notification.alerts.channel_dispatcher import channels_of
from codomyrmex.integrations.notification.channels import UndeliverableChannel

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


def test_the_files_have_the_usual_mix_of_features():
    assert len(FILES) >= 80
    for pattern, percent in USUAL.items():
        found = sum(re.search(pattern, text_of(file)) is not None for file in FILES)
        assert found * 100 >= percent * len(FILES), f"{pattern}: {found} of {len(FILES)}"
    templates = "".join(file.read_text(encoding="utf-8") for file in FOLDER.glob("*.tmpl"))
    for construct in ("{{/*", "{{ block", "{{ define", "range $", "{{- ", "with ", "else if", "reReplaceAll"):
        assert construct in templates, construct


def test_files_load_or_are_refused_with_the_lines_of_their_problems():
    for file in FILES:
        if REFUSED in text_of(file):
            with pytest.raises(AlertConfigError) as caught:
                load_alert_config(file, environ=ENVIRON)
            assert all(problem.line for problem in caught.value.problems), file.name
        else:
            data = {receiver: len(each.channels) for receiver, each in config_of(file).receivers.items()}
            assert sum(data.values()), file.name


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
