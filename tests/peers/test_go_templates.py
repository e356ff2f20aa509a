"""Go templates as `amtool` and the Alertmanager of Debian render them: the same texts, byte by byte."""

from __future__ import annotations

import email.policy
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from alertmanager_program import alertmanager
from codomyrmex.integrations.notification.go_templates import GoTemplateError, GoTemplates
from codomyrmex.integrations.notification.go_templates.defaults import DEFAULT_TEMPLATES
from durable.servers import free_port
from go_template_cases import CASES, FOLDER, NOTIFICATION, Case

PATIENCE = 20.0
ALERTMANAGER = shutil.which("prometheus-alertmanager")
AMTOOL = shutil.which("amtool")
MARK = "\x01"


@pytest.fixture(autouse=True)
def programs() -> None:
    """Skip on a person's machine where it is absent; fail in CI, which installs it."""
    if not (ALERTMANAGER and AMTOOL):
        what = "Debian's prometheus-alertmanager"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{what} is absent, and CI should have installed it")
        pytest.skip(f"{what} is not installed here")


def amtool(case: Case, files: Path) -> tuple[str | None, bool]:
    """Return what amtool renders, or None if it fails; and whether the template is valid."""
    command = [
        *(str(AMTOOL), "template", "render", f"--template.glob={files}", f"--template.text={case.template}"),
        *(
            f"--template.type={'html' if case.html else 'text'}",
            f"--template.data={FOLDER / 'notification.json'}",
        ),
    ]
    environment = {**os.environ, "TZ": "UTC"}
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
    return (
        None if done.returncode else done.stdout.decode()
    ), b"executing" in done.stderr or not done.returncode


def loads(text: str) -> bool:
    try:
        GoTemplates.parse({"a": text})
    except GoTemplateError:
        return False
    return True


def together(cases: list[Case]) -> list[Case]:
    """Return the cases that define nothing as one, to save processes, and the others as they are."""
    alone = [
        case for case in cases if case.text is None or "define" in case.template or "block" in case.template
    ]
    joined = [case for case in cases if case not in alone]
    for html in (False, True):
        parts = [case for case in joined if case.html is html]
        template, text = (MARK.join(part[index] or "" for part in parts) for index in (1, 2))
        alone.append(Case("many", template, text, html))
    return alone


def differences(cases: list[Case], files: Path) -> list[str]:
    """Return where amtool differs; what it accepts as a file has to load, even if it fails later."""
    found = []
    with ThreadPoolExecutor(2) as pool:
        for case, (text, is_valid) in zip(
            cases, pool.map(lambda case: amtool(case, files), cases), strict=True
        ):
            ours, real = (case.text or "").split(MARK), (text or "").split(MARK)
            found += [
                f"{case.name}: {real!r} instead of {ours!r}"
                for ours, real in zip(ours, real, strict=False)
                if ours != real
            ]
            if (text is None) is not (case.text is None) or len(ours) != len(real):
                found.append(f"{case.name}: {text!r}")
            if is_valid and not loads(case.template):
                found.append(f"{case.name}: does not load")
    return found


def test_amtool_renders_what_was_recorded(tmp_path):
    (tmp_path / "empty.tmpl").touch()
    assert not differences(together(CASES), tmp_path / "*.tmpl")


def test_amtool_renders_the_default_templates_as_we_do(tmp_path):
    (tmp_path / "default.tmpl").write_text(DEFAULT_TEMPLATES)
    templates = GoTemplates()
    cases = []
    for name in sorted(templates.names):
        if ".default." in name:
            html = name.endswith("html")
            argument = ".Alerts" if name.endswith("instances") else "."
            text = f'{{{{ template "{name}" {argument} }}}}'
            cases.append(Case(name, text, templates.compile(text, html=html).render(NOTIFICATION), html))
    assert len(cases) > 40
    assert not differences(cases, tmp_path / "*.tmpl")


# A running Alertmanager, and servers that receive what it sends

FILE = """{{ define "title" -}}
[{{ .Status | toUpper }}:{{ .Alerts.Firing | len }}/{{ len .Alerts }}] {{ .GroupLabels.Values | join " " }}
{{- end }}
{{ define "alerts" }}{{ range . }}
*{{ .Labels.alertname }}* {{ .Labels.instance }}: {{ or .Annotations.summary "-" }} since {{ .StartsAt }}
{{- if eq .Status "resolved" }} until {{ .EndsAt.UTC.Format "2006-01-02T15:04:05.000Z07:00" }}
{{- else }} ({{ .EndsAt }}){{ end }} {{ .GeneratorURL }} {{ .Fingerprint }}
{{- end }}{{ end }}
{{ define "mail" }}<html><body><h1 title="{{ template "title" . }}">{{ template "title" . }}</h1>
{{ range .Alerts }}<p class='{{ .Status }}'><a href="{{ .GeneratorURL }}">{{ .Annotations.summary }}</a></p>
{{ end }}<a href="{{ .ExternalURL }}/#/alerts?receiver={{ .Receiver }}">all</a></body></html>
{{ end }}"""
TITLE = '{{ template "title" . }}'
TEXT = """{{ .Receiver }} {{ .ExternalURL }}
{{ with .Alerts.Firing }}Firing:{{ template "alerts" . }}{{ end }}
{{- with .Alerts.Resolved }}
Resolved:{{ template "alerts" . }}{{ end }}
{{ range $k, $v := .CommonLabels.Remove .GroupLabels.Names }}{{ $k }}={{ $v | printf "%q" }};{{ end }}
{{ .CommonAnnotations.team }}{{ .CommonAnnotations.summary }}"""
COLOUR = '{{ if eq .Status "firing" }}danger{{ else }}good{{ end }}'
MAIL = '{{ template "mail" . }}'


class Received(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.bodies: dict[str, list[Any]] = {"/hook": [], "/slack": [], "mail": []}
        self.url = f"http://127.0.0.1:{self.server_port}"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - of aiosmtpd
        self.bodies["mail"].append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(len(bodies) < count for bodies in self.bodies.values()):
            assert time.monotonic() < deadline, {kind: len(bodies) for kind, bodies in self.bodies.items()}
            time.sleep(0.02)


class Answers(BaseHTTPRequestHandler):
    server: Received

    def do_POST(self) -> None:
        self.server.bodies[self.path].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is called there
        """Log nothing."""


@pytest.fixture
def received() -> Iterator[Received]:
    with Received() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def running(folder: Path, received: Received, smtp_port: int) -> AbstractContextManager[httpx.Client]:
    (folder / "team.tmpl").write_text(FILE)
    receiver = {
        "name": "team.a+b",
        "webhook_configs": [{"url": f"{received.url}/hook"}],
        "slack_configs": [
            {
                "api_url": f"{received.url}/slack",
                "send_resolved": True,
                "title": TITLE,
                "text": TEXT,
                "color": COLOUR,
            }
        ],
        "email_configs": [
            {
                "to": "ops@example.org",
                "send_resolved": True,
                "html": MAIL,
                "text": TEXT,
                "headers": {"Subject": TITLE},
            }
        ],
    }
    config = {
        "global": {
            "smtp_smarthost": f"127.0.0.1:{smtp_port}",
            "smtp_from": "a@b.c",
            "smtp_require_tls": False,
        },
        "templates": [str(folder / "*.tmpl")],
        "route": {
            "receiver": "team.a+b",
            "group_by": ["alertname"],
            "group_wait": "100ms",
            "group_interval": "1s",
        },
        "receivers": [receiver],
    }
    url = "--web.external-url=http://alerts.example/base"
    return alertmanager(ALERTMANAGER, folder, config, url, path="/base")


def part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert body is not None
    text: str = body.get_content()
    return text.replace("\r\n", "\n")


def test_the_notifications_of_a_running_alertmanager_have_the_same_texts(tmp_path, received):
    smtp = Controller(received, hostname="127.0.0.1", port=free_port())
    smtp.start()
    labels = {"alertname": "DiskFull", "job": 'a "node"'}
    annotations = {"summary": "<b>98 %</b> & 'more'", "team": "x"}
    urls = ["http://p/g?a=1&b=<2>", "javascript:alert(1)", ""]
    alerts: list[dict[str, Any]] = [
        {
            "labels": {**labels, "instance": f"db-{number}"},
            "annotations": annotations if number else {"team": "x"},
            "startsAt": (datetime.now(UTC) - timedelta(minutes=number)).isoformat(),
            **({"generatorURL": url} if url else {}),
        }
        for number, url in enumerate(urls)
    ]
    try:
        with running(tmp_path, received, smtp.port) as client:
            client.post("/api/v2/alerts", json=alerts).raise_for_status()
            received.wait_for(1)
            alerts[1]["endsAt"] = datetime.now(UTC).isoformat()
            client.post("/api/v2/alerts", json=[alerts[1]]).raise_for_status()
            received.wait_for(2)
    finally:
        smtp.stop()
    templates = GoTemplates.load(["*.tmpl"], tmp_path)
    title, text, colour = (templates.compile(each) for each in (TITLE, TEXT, COLOUR))
    html = templates.compile(MAIL, html=True)
    for hook, slack, mail in zip(*received.bodies.values(), strict=True):
        attachment = slack["attachments"][0]
        assert attachment["title"] == title.render(hook)
        assert attachment["text"] == text.render(hook)
        assert attachment["color"] == colour.render(hook)
        assert mail["Subject"] == title.render(hook)
        assert part(mail, "plain") == text.render(hook)
        assert part(mail, "html") == html.render(hook)
    assert "Resolved:" in text.render(received.bodies["/hook"][1])
