"""Templates with the names of those of Alertmanager, and texts of our own."""

from __future__ import annotations

_SHARED = """
{{ define "__alertmanager" }}Alertmanager{{ end }}
{{ define "__alertmanagerURL" }}{{ with .ExternalURL -}}
  {{ . }}/#/alerts?receiver={{ urlquery $.Receiver }}
{{- end }}{{ end }}
{{ define "__description" }}{{ end }}
{{ define "__subject" -}}
  [{{ toUpper .Status }}{{ with .Alerts.Firing }}:{{ len . }}{{ end }}]
  {{- range .GroupLabels.Values }} {{ . }}{{ end }}
  {{- with .CommonLabels.Remove .GroupLabels.Names }} ({{ join ", " .Values }}){{ end }}
{{- end }}
{{ define "__annotations" }}{{ join "\\n" .CommonAnnotations.Values }}{{ end }}
{{ define "__pairs" }}{{ range $i, $pair := .SortedPairs -}}
  {{ if $i }}, {{ end }}{{ $pair.Name }}={{ $pair.Value }}
{{- end }}{{ end }}

{{ define "__text_alert_list" }}{{ range . -}}
- {{ template "__pairs" .Labels }}
{{ range .Annotations.SortedPairs }}  {{ .Name }}: {{ .Value }}
{{ end }}{{ with .GeneratorURL }}  source: {{ . }}
{{ end }}{{ end }}{{ end }}

{{ define "__text_alert_list_markdown" }}{{ range . -}}
- **{{ .Labels.alertname }}** {{ template "__pairs" .Labels.Remove (stringSlice "alertname") }}
{{ range .Annotations.SortedPairs }}  - {{ .Name }}: {{ .Value }}
{{ end }}{{ with .GeneratorURL }}  - [source]({{ . }})
{{ end }}{{ end }}{{ end }}

{{ define "__text_message" -}}
{{ with .Alerts.Firing }}Firing:
{{ template "__text_alert_list" . }}{{ end }}
{{- with .Alerts.Resolved }}Resolved:
{{ template "__text_alert_list" . }}{{ end }}
{{- end }}

{{ define "__markdown_message" -}}
{{ with .Alerts.Firing }}**Firing**

{{ template "__text_alert_list_markdown" . }}
{{ end }}
{{- with .Alerts.Resolved }}**Resolved**

{{ template "__text_alert_list_markdown" . }}
{{ end }}
{{- end }}

{{ define "__annotated_message" }}{{ with .CommonAnnotations }}{{ template "__annotations" $ }}

{{ end }}{{ template "__text_message" . }}{{ end }}

{{ define "slack.default.fallback" -}}
  {{ template "__subject" . }} {{ template "__alertmanagerURL" . }}
{{- end }}

{{ define "mattermost.default.color" }}{{ if eq .Status "firing" }}danger{{ else }}good{{ end }}{{ end }}
{{ define "jira.default.priority" }}{{ $found := "" }}{{ range .Alerts -}}
  {{ if eq .Labels.severity "critical" }}{{ $found = "High" }}
  {{- else if and (eq .Labels.severity "warning") (ne $found "High") }}{{ $found = "Medium" }}
  {{- else if and (eq .Labels.severity "info") (not $found) }}{{ $found = "Low" }}{{ end }}
{{- end }}{{ $found }}{{ end }}

{{ define "__html_row" }}
  <tr><td width="30%" style="color: #666;">{{ .Name }}</td><td>{{ .Value }}</td></tr>
{{- end }}

{{ define "__html_alerts" }}{{ range . }}
<table width="100%" cellpadding="6" style="border-top: 1px solid #ddd; font-size: 14px;">
  {{- range .Labels.SortedPairs }}{{ template "__html_row" . }}{{ end }}
  {{- range .Annotations.SortedPairs }}{{ template "__html_row" . }}{{ end }}
  {{- with .GeneratorURL }}
  <tr><td></td><td><a href="{{ . }}">source</a></td></tr>
  {{- end }}
</table>
{{- end }}{{ end }}

{{ define "email.default.html" -}}
<!DOCTYPE html>
<html>
<head><meta charset="UTF-8"><title>{{ template "__subject" . }}</title></head>
<body style="margin: 0; padding: 16px; font-family: sans-serif; color: #222;">
<h2 style="font-size: 18px;">{{ template "__subject" . }}</h2>
{{- with .Alerts.Firing }}
<h3 style="color: #c0392b;">{{ len . }} firing</h3>
{{- template "__html_alerts" . }}
{{- end }}
{{- with .Alerts.Resolved }}
<h3 style="color: #27ae60;">{{ len . }} resolved</h3>
{{- template "__html_alerts" . }}
{{- end }}
{{- with .ExternalURL }}
<p style="font-size: 12px;"><a href="{{ . }}">sent by {{ template "__alertmanager" }}</a></p>
{{- end }}
</body>
</html>
{{ end }}
"""

_CALLS = {
    "__subject": (
        *("slack.default.title", "pagerduty.default.description", "opsgenie.default.message"),
        *("victorops.default.entity_display_name", "email.default.subject", "pushover.default.title"),
        *("sns.default.subject", "discord.default.title", "msteams.default.summary", "msteams.default.title"),
        *("msteamsv2.default.title", "jira.default.summary", "rocketchat.default.title"),
        *("mattermost.default.title", "mattermost.default.fallback"),
    ),
    "__text_message": (
        *("victorops.default.state_message", "sns.default.message", "telegram.default.message"),
        "discord.default.message",
    ),
    "__annotated_message": (
        *("opsgenie.default.description", "pushover.default.message", "wechat.default.message"),
        "webex.default.message",
    ),
    "__markdown_message": (
        *("msteams.default.text", "msteamsv2.default.text", "jira.default.description"),
        "mattermost.default.text",
    ),
    "__alertmanager": (
        *("slack.default.username", "pagerduty.default.client", "victorops.default.monitoring_tool"),
        *("rocketchat.default.alias", "mattermost.default.username"),
    ),
    "__alertmanagerURL": (
        *("slack.default.titlelink", "pagerduty.default.clientURL", "opsgenie.default.source"),
        *("pushover.default.url", "rocketchat.default.titlelink", "mattermost.default.titlelink"),
    ),
}
_BLANK = (
    *("slack.default.pretext", "slack.default.iconemoji", "slack.default.iconurl", "slack.default.text"),
    *("slack.default.callbackid", "slack.default.footer", "opsgenie.default.tags", "opsgenie.default.teams"),
    *(
        "wechat.default.to_user",
        "wechat.default.to_party",
        "wechat.default.to_tag",
        "wechat.default.agent_id",
    ),
    *("rocketchat.default.emoji", "rocketchat.default.iconurl", "rocketchat.default.text"),
)

DEFAULT_TEMPLATES = "".join(
    [
        _SHARED,
        '{{ define "pagerduty.default.instances" }}{{ template "__text_alert_list" . }}{{ end }}',
        *(
            f'{{{{ define "{name}" }}}}{{{{ template "{called}" . }}}}{{{{ end }}}}'
            for called, names in _CALLS.items()
            for name in names
        ),
        *(f'{{{{ define "{name}" }}}}{{{{ end }}}}' for name in _BLANK),
    ]
)
