"""How notifications read: title, body and type, by default and by templates."""

from __future__ import annotations

from typing import Any

import pytest
from codomyrmex.integrations.notification import Alert, load_alert_config, simulate
from codomyrmex.integrations.notification.alerts.messages import NotificationRenderer
from codomyrmex.integrations.notification.alerts.notification import Notification
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.integrations.notification.event_renderer import Message
from codomyrmex.integrations.notification.templates import TemplateError

NOON = 1_767_614_400.0  # Monday 2026-01-05 12:00 UTC


def alert(name: str = "disk", at: float = 0, end: float | None = None, **options: Any) -> tuple[float, Alert]:
    labels = {"alertname": name, **options.pop("labels", {})}
    ends_at = None if end is None else NOON + end
    return NOON + (at if end is None else end), Alert(labels, starts_at=NOON + at, ends_at=ends_at, **options)


def sent(
    *alerts: tuple[float, Alert], until: float = 400, **more: Any
) -> tuple[NotificationRenderer, list[Notification]]:
    route = {
        "receiver": "ops",
        "group_by": ["alertname", "env"],
        "repeat_interval": "5m",
        **more.pop("route", {}),
    }
    receiver = {"name": "ops", "apprise_configs": [{"url": "json://127.0.0.1"}], **more.pop("receiver", {})}
    settings = {"resolve_timeout": "1d", **more.pop("settings", {})}
    boss = {"name": "boss", "apprise_configs": [{"url": "json://127.0.0.1"}]}
    config = load_alert_config({"route": route, "receivers": [receiver, boss], "global": settings, **more})
    happened = simulate(config, alerts, NOON + until, failing=more.get("failing", ()))
    return NotificationRenderer(config), [each.notification for each in happened]


def messages(
    *alerts: tuple[float, Alert], channel: dict[str, Any] | None = None, **more: Any
) -> list[Message]:
    renderer, notifications = sent(*alerts, **more)
    templates = ChannelConfig(name="ops[0]", **(channel or {}))
    return [renderer.message(each, templates) for each in notifications]


def test_one_alert_is_shown_with_its_time_labels_and_annotations():
    first, last = messages(
        alert(labels={"host": "a", "severity": "critical"}, annotations={"summary": "9 % left"}),
        alert(end=90, labels={"host": "a", "severity": "critical"}),
    )
    assert first.title == last.title == "disk"
    assert first.body == (
        "1 FIRING\n"
        "\n"
        "FIRING since 2026-01-05 12:00:00 UTC\n"
        "  alertname=disk host=a severity=critical\n"
        "  summary: 9 % left"
    )
    assert last.body == (
        "1 RESOLVED\n"
        "\n"
        "RESOLVED at 2026-01-05 12:01:30 UTC, after 1m30s\n"
        "  alertname=disk host=a severity=critical\n"
        "  summary: 9 % left"
    )
    assert (first.type, last.type) == ("failure", "success")
    assert first.format == "text"


def test_what_several_alerts_have_in_common_is_shown_once():
    _, both = messages(
        alert(labels={"host": "a", "env": "prod"}, annotations={"runbook": "wiki/disk"}),
        alert(
            at=1, labels={"host": "b", "env": "prod"}, annotations={"runbook": "wiki/disk", "summary": "full"}
        ),
        alert(end=100, labels={"host": "a", "env": "prod"}),
    )
    assert both.title == "disk (env=prod)"
    assert both.body == (
        "1 FIRING, 1 RESOLVED\n"
        "In common: alertname=disk env=prod\n"
        "runbook: wiki/disk\n"
        "\n"
        "FIRING since 2026-01-05 12:00:01 UTC\n"
        "  host=b\n"
        "  summary: full\n"
        "\n"
        "RESOLVED at 2026-01-05 12:01:40 UTC, after 1m40s\n"
        "  host=a"
    )


def test_a_repeated_notification_says_so():
    *_, again = messages(alert(), until=700)
    assert again.body.startswith("1 FIRING (still)\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"trace_id": "0af7", "url": "https://a.example"}, "  https://traces.example/0af7?x"),
        ({"url": "https://a.example"}, "  https://a.example"),
    ],
)
def test_an_alert_has_a_link_to_its_trace_or_to_where_it_comes_from(options, line):
    [message] = messages(
        alert(**options), until=30, settings={"trace_url": "https://traces.example/{trace_id}?x"}
    )
    assert message.body.splitlines()[-1] == line


def test_without_a_trace_url_the_id_is_shown():
    [message] = messages(alert(trace_id="0af7"), until=30)
    assert message.body.splitlines()[-1] == "  trace 0af7"


def test_a_long_list_is_cut_and_the_rest_is_counted():
    [message] = messages(*(alert(labels={"host": str(number)}) for number in range(53)), until=30)
    assert message.body.count("FIRING since") == 50
    assert message.body.endswith("\n\nand 3 more")


@pytest.mark.parametrize(
    ("group_by", "labels", "title"),
    [
        (["alertname"], {}, "disk"),
        (["alertname", "host"], {"host": "a"}, "disk (host=a)"),
        (["host", "env"], {"host": "a", "env": "b"}, "env=b host=a"),
        ([], {}, "ops: alerts"),
        (["host"], {"host": "a\r\nBcc: x"}, "host=a Bcc: x"),
        (["host"], {"host": "x" * 1_000}, f"host={'x' * 245}"),
    ],
)
def test_a_title_is_one_line_of_the_labels_of_the_group(group_by, labels, title):
    [message] = messages(alert(labels=labels), until=30, route={"group_by": group_by})
    assert message.title == title


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([{"severity": "critical"}], "failure"),
        ([{"severity": "Warning"}], "warning"),
        ([{"severity": "info"}], "info"),
        ([{"severity": "info"}, {"severity": "page"}], "failure"),
        ([{"severity": "odd", "type": "error"}], "failure"),
        ([{}], "warning"),
        ([{"type": "error", "severity": "info"}], "info"),
    ],
)
def test_the_type_is_that_of_the_worst_severity_that_fires(labels, kind):
    [message] = messages(*(alert(labels=each) for each in labels), until=30)
    assert message.type == kind


def test_several_groups_in_one_notification_each_have_a_heading():
    receiver = {"rate_limit": "1/1m"}
    _, summary = messages(
        alert("a"), alert("b"), alert("c"), until=100, receiver=receiver, route={"group_by": ["alertname"]}
    )
    assert summary.title == "ops: several groups of alerts"
    assert summary.body.startswith("2 groups: 2 FIRING, 0 RESOLVED\n")
    assert "\nalertname=b: 1 FIRING\n\nFIRING since" in summary.body
    assert "\nalertname=c: 1 FIRING\n" in summary.body


# Templates


@pytest.mark.parametrize(
    ("format", "body"),
    [
        ("text", "<b>*x*</b> disk"),
        ("markdown", r"&lt;b&gt;\*x\*&lt;/b&gt; disk"),
        ("html", "&lt;b&gt;*x*&lt;/b&gt; disk"),
    ],
)
def test_values_are_escaped_for_the_format_of_the_body(format, body):  # noqa: A002 - as in the file
    channel = {"body": "{{ alerts[0].labels.host }} {{ group_labels.alertname }}", "format": format}
    [message] = messages(alert(labels={"host": "<b>*x*</b>"}), until=30, channel=channel)
    assert (message.body, message.format) == (body, format)


def test_a_template_has_all_variables():
    names = (
        "receiver channel status reason kind route group_key group_labels common_labels common_annotations "
        "title body alerts firing resolved"
    )
    body = " ".join(
        f"{{{{ '{name}' if {name} is defined and {name} is not none }}}}" for name in names.split()
    )
    [message] = messages(alert(), until=30, channel={"body": body})
    assert message.body == names
    one = "{% for a in firing %}{{ a.labels.alertname }} {{ a.starts_at.hour }} {{ a.ends_at }}{% endfor %}"
    [message] = messages(alert(), until=30, channel={"body": one, "title": "{{ title }}!\n{{ status }}"})
    assert (message.body, message.title) == ("disk 12 None", "disk! firing")


def test_a_title_alone_leaves_the_default_body_as_text():
    [plain] = messages(alert(), until=30)
    [message] = messages(alert(), until=30, channel={"title": "x", "format": "html"})
    assert (message.title, message.body, message.format) == ("x", plain.body, "text")


def test_a_template_that_fails_raises_an_error():
    with pytest.raises(TemplateError):
        messages(alert(), until=30, channel={"body": "{{ 1 // 0 }}"})
