"""Go templates, against templates of Jinja with the same text that were written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codomyrmex.integrations.notification.go_templates import GoTemplates
from codomyrmex.integrations.notification.templates import compile_template
from measure import Result, compare

ALERTS: list[dict[str, Any]] = [
    {
        "status": "resolved" if number % 4 == 3 else "firing",
        "labels": {
            "alertname": "DiskFull",
            "cluster": "eu-1",
            "instance": f"db-{number}.example:9100",
            "job": "node",
            "severity": "critical",
        },
        "annotations": {"summary": "Disk <full>"} if number % 2 else {},
        "startsAt": "2026-01-02T03:04:05.678Z",
        "endsAt": None,
        "generatorURL": "http://prometheus.example/graph",
        "fingerprint": f"{number:016x}",
    }
    for number in range(20)
]
NOTIFICATION: dict[str, Any] = {
    "receiver": "team",
    "status": "firing",
    "externalURL": "http://alertmanager.example",
    "groupLabels": {"alertname": "DiskFull", "cluster": "eu-1"},
    "commonLabels": {"alertname": "DiskFull", "cluster": "eu-1", "job": "node", "severity": "critical"},
    "commonAnnotations": {},
    "alerts": ALERTS,
}
TITLE = (
    """[{{ .Status | toUpper }}{{ if eq .Status "firing" }}:{{ .Alerts.Firing | len }}{{ end }}]
{{ .GroupLabels.SortedPairs.Values | join " " }} {{ .CommonLabels.severity }}""",
    """[{{ status|upper }}{% if status == "firing" -%}
:{{ alerts|selectattr("status", "==", "firing")|list|length }}{% endif %}]
{{ groupLabels|dictsort|map("last")|join(" ") }} {{ commonLabels.severity }}""",
)
LIST = (
    """{{ range .Alerts -}}
*{{ .Labels.alertname }}* on {{ .Labels.instance }} since {{ .StartsAt.Format "2006-01-02 15:04" }}
{{- if .Annotations.summary }}: {{ .Annotations.summary }}{{ else }}.{{ end }}
{{ range .Labels.SortedPairs }} - {{ .Name }} = {{ .Value }}
{{ end }}{{ end }}""",
    """{% for alert in alerts -%}
*{{ alert.labels.alertname }}* on {{ alert.labels.instance }} since {{ alert.startsAt[:10] ~ " " -}}
{{ alert.startsAt[11:16] -}}
{% if alert.annotations.summary %}: {{ alert.annotations.summary }}{% else %}.{% endif %}
{% for name, value in alert.labels|dictsort %} - {{ name }} = {{ value }}
{% endfor %}{% endfor %}""",
)
CALLS = (
    """{{ define "row" }}{{ .Labels.instance }} {{ template "icon" .Status }}
{{ end }}{{ define "icon" }}{{ if eq . "firing" }}red{{ else }}green{{ end }}{{ end }}
{{- range .Alerts }}{{ template "row" . }}{{ end }}""",
    """{% macro row(alert) %}{{ alert.labels.instance }} {{ icon(alert.status) }}
{% endmacro %}{% macro icon(status) %}{% if status == "firing" %}red{% else %}green{% endif %}{% endmacro %}
{%- for alert in alerts %}{{ row(alert) }}{% endfor %}""",
)
HTML = (
    """{{ range .Alerts }}
<tr class="{{ .Status }}"><td>{{ .Labels.instance }}</td></tr>
<tr><td>{{ .Annotations.summary }}</td><td><a href="{{ .GeneratorURL }}">source</a></td></tr>
{{ end }}""",
    """{% for alert in alerts %}
<tr class="{{ alert.status }}"><td>{{ alert.labels.instance }}</td></tr>
<tr><td>{{ alert.annotations.summary }}</td><td><a href="{{ alert.generatorURL }}">source</a></td></tr>
{% endfor %}""",
)


def rendering() -> Iterator[Result]:
    """Yield the time to render a Go template, data of the notification included."""
    templates = GoTemplates()
    for what, (text, same), html in (
        ("a title", TITLE, False),
        ("a list of 20 alerts with their labels", LIST, False),
        ("two templates for each of 20 alerts", CALLS, False),
        ("an HTML table of 20 alerts", HTML, True),
    ):
        go = templates.compile(text, html=html)
        jinja = compile_template(same, "html" if html else "text")
        assert go.render(NOTIFICATION) == jinja.render(**NOTIFICATION)

        def ours(go: Any = go) -> int:
            for _ in range(20):
                go.render(NOTIFICATION)
            return 20

        def theirs(jinja: Any = jinja) -> int:
            for _ in range(20):
                jinja.render(**NOTIFICATION)
            return 20

        yield compare(f"a Go template: {what}", "the same in Jinja, written by hand", ours, theirs, bar=3.0)
