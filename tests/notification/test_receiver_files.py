"""Receivers and the rest of their file: templates, reloads, positions, and the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from codomyrmex.integrations.notification import AlertConfigError, lint, load_alert_config
from codomyrmex.integrations.notification.alerts.config_file import CHANNEL_TYPES
from helpers import in_time, until
from http_service import http_service
from receivers import attempted, fires, notifying

FILE = """\
templates: ['*.tmpl', 'absent/*.tmpl']
route: {receiver: ops, group_interval: 1m}
receivers:
- name: ops
  slack_configs:
  - api_url: %s/s3cret
    title: '{{ template "own.title" . }}'
    text: "{{ .CommonLabels.job }}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.tmpl").write_text('{{ define "own.title" }}one {{ .Status }}{{ end }}')
    return tmp_path


def written(folder: Path, text: str) -> str:
    (folder / "alertmanager.yml").write_text(text)
    return str(folder / "alertmanager.yml")


def problems(folder: Path, text: str) -> list[tuple[Any, ...]]:
    with pytest.raises(AlertConfigError) as caught:
        load_alert_config(written(folder, text))
    return [
        (Path(each.file or "").name, each.line, each.column, each.message) for each in caught.value.problems
    ]


@in_time
async def test_templates_of_files_are_used_and_a_reload_uses_new_ones(folder):
    with http_service() as service:
        async with notifying(
            written(folder, FILE % service.url), fires("disk", labels={"job": "node"})
        ) as run:
            await attempted(run)
            (folder / "a.tmpl").write_text('{{ define "own.title" }}two {{ .Status }}{{ end }}')
            await run.sink.reload()
            await run.publish(fires("cpu", labels={"job": "x"}))
            await run.pass_time(60)
            await until(lambda: len(service.received) == 2)
    texts = [each["attachments"][0] for each in service.bodies]
    assert [each["title"] for each in texts] == ["one firing", "two firing"]
    assert texts[0]["text"] == "node"


def test_a_pattern_that_matches_nothing_is_noted(folder):
    config = load_alert_config(written(folder, FILE % "http://h"))
    [note] = lint(config, 0)
    assert (note.kind, note.path, note.line) == ("note", "templates[1]", 1)
    assert "s3cret" not in repr(config)


def test_an_error_in_a_template_has_the_place_in_its_file_once(folder):
    (folder / "a.tmpl").write_text('{{ define "own.title" }}\n  {{ nope . }}{{ end }}')
    [(file, line, _, message)] = problems(folder, FILE % "http://h")
    assert (file, line) == ("a.tmpl", 2)
    assert "nope" in message


def test_an_error_in_a_field_has_the_place_in_the_configuration(folder):
    text = (FILE % "http://h").replace("{{ .CommonLabels.job }}", "job: {{ nope . }}")
    [(file, line, column, message)] = problems(folder, text)
    assert (file, line) == ("alertmanager.yml", 8)
    assert text.splitlines()[line - 1][column - 1 :].startswith("nope")
    assert "nope" in message
    block = (FILE % "http://h").replace('"{{ .CommonLabels.job }}"', "|\n      a\n      {{ nope . }}")
    [(_, line, _, message)] = problems(folder, block)
    assert line == 8
    assert message.startswith("line 2, column 4: ")


def test_what_fails_only_with_a_notification_is_noted_as_in_alertmanager_it_is_legal(folder):
    path = written(folder, (FILE % "http://h").replace("own.title", "own.titel"))
    [_, note] = lint(load_alert_config(path), 0)
    assert (note.kind, note.line, note.path) == ("note", 7, "receivers[0].slack_configs[0].title")
    assert "own.titel" in note.message
    assert "the default text is sent instead" in note.message


def test_problems_of_global_have_their_position(folder):
    text = (
        "global: {slack_api_url: a, slack_api_url_file: b, http_config: {basic_auth: {}, bearer_token: c}}\n"
    )
    found = [message for *_, message in problems(folder, text + FILE % "http://h")]
    assert found[0] == "slack_api_url and slack_api_url_file are both given; remove one"
    assert "basic_auth and bearer_token are both given" in found[1]
    expanded = "global: {slack_api_url: '${NOT_SET}'}\n" + FILE % "http://h"
    assert problems(folder, expanded)[0][3] == "the environment variable NOT_SET is not set"


def test_every_receiver_of_alertmanager_is_a_channel_type():
    names = """
        discord email incidentio jira mattermost msteams msteamsv2 opsgenie pagerduty pushover rocketchat
        slack sns telegram victorops webex webhook wechat
    """
    assert set(CHANNEL_TYPES) == {"apprise_configs", *(f"{name}_configs" for name in names.split())}


def test_labels_of_receivers_are_noted(folder):
    text = (FILE % "http://h").replace("- name: ops", "- name: ops\n  labels: {team: a}")
    found = [each.path for each in lint(load_alert_config(written(folder, text)), 0)]
    assert "receivers[0].labels" in found


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.5m", 90), ("1h2m3.5s", 3723.5), ("250ms", 0.25), (".5s", 0.5), ("1d", 86_400)]
)
def test_durations_of_receivers_are_those_of_go(folder, text, seconds):
    config = load_alert_config(written(folder, f"{FILE % 'http://h'}    timeout: {text}\n"))
    [channel] = config.receivers["ops"].channels
    assert channel.timeout == seconds


def test_a_timeout_that_is_none_is_a_problem_and_0_is_the_default(folder):
    [(*_, message)] = problems(folder, f"{FILE % 'http://h'}    timeout: 3 s\n")
    assert "is not a duration" in message
    [channel] = (
        load_alert_config(written(folder, f"{FILE % 'http://h'}    timeout: 0s\n")).receivers["ops"].channels
    )
    assert channel.timeout == 10


def test_a_channel_is_equal_to_that_of_the_same_file_so_that_a_reload_does_not_reopen_it(folder):
    def channels(text: str) -> list[Any]:
        return list(load_alert_config(written(folder, text)).receivers["ops"].channels)

    before = channels(FILE % "http://h")
    assert channels(f"{FILE % 'http://h'}inhibit_rules: []\n") == before
    assert channels(FILE % "http://other") != before
    (folder / "a.tmpl").write_text('{{ define "own.title" }}two{{ end }}')
    assert channels(FILE % "http://h") != before


def test_a_lone_surrogate_in_a_value_is_no_internal_error():
    def config(key: str, **options: Any) -> dict[str, Any]:
        return {"route": {"receiver": "a"}, "receivers": [{"name": "a", key: [options]}]}

    with pytest.raises(AlertConfigError, match="expected a whole number, got text"):
        load_alert_config(config("webhook_configs", url="http://h", max_alerts="\ud800"))
    [finding] = lint(load_alert_config(config("telegram_configs", bot_token="\ud800", chat_id=1)), 0)
    assert "Apprise does not support this URL" in finding.message
