"""How an event reads as a notification: its title, body, type and format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from codomyrmex.integrations.notification.templates import FORMATS, Template, check_format, compile_template
from codomyrmex.streaming import Event, EventType

MAX_TITLE = 250
NO_DATA = "(no data)"  # Apprise sends no empty body

_TYPES = frozenset({"info", "success", "warning", "failure"})
_SEVERITIES = {
    **dict.fromkeys(("critical", "error", "fatal", "page", "emergency", "alert"), "failure"),
    **dict.fromkeys(("warning", "warn"), "warning"),
    **dict.fromkeys(("info", "notice", "debug", "ok"), "info"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """A notification, before it is sent.

    Attributes:
        title: one line of plain text.
        body: text in the format.
        type: `info`, `success`, `warning` or `failure`.
        format: `text`, `markdown` or `html`.
    """

    title: str
    body: str
    type: str
    format: str


class Wording:
    """Words the notifications of a channel.

    What the metadata of an event says (`title`, `body`, `format`) goes before the templates, and these
    before the defaults: the type and topic, and the data as JSON.

    Args:
        title: a template of the title, or None.
        body: a template of the body, or None.
        format: of the body.

    Raises:
        TemplateError: one of them is no template.
        MissingExtraError: Jinja is not installed.
        ValueError: the format is unknown.
        TypeError: a template is not a text.
    """

    def __init__(self, title: str | None, body: str | None, format: str) -> None:  # noqa: A002 - as in the metadata
        self._format = check_format(format)
        self._title = None if title is None else compile_template(title)
        self._body = body
        self._bodies: dict[str, Template] = {}  # by the format that values are escaped for
        if body is not None:
            self._body_in(format)

    def message(self, event: Event) -> Message:
        """Make the notification of an event.

        Raises:
            TemplateError: a template does not work with this event.
        """
        given = event.metadata.get("format")
        format = given if isinstance(given, str) and given in FORMATS else self._format  # noqa: A001
        title, body = event.metadata.get("title"), event.metadata.get("body")
        if not isinstance(title, str):
            title = _title(event) if self._title is None else self._title.render(event=_values(event))
        if not isinstance(body, str):
            if self._body is None:
                body, format = _body(event), "text"  # noqa: A001 - Apprise turns it into what the service takes
            else:
                body = self._body_in(format).render(event=_values(event))
        # What UTF-8 cannot say would fail somewhere inside the plugin.
        body = body.encode("utf-8", "replace").decode()
        return Message(one_line(title), body if body.strip() else NO_DATA, notify_type(event), format)

    def _body_in(self, format: str) -> Template:  # noqa: A002 - as above
        if format not in self._bodies:
            self._bodies[format] = compile_template(self._body or "", format)
        return self._bodies[format]


def notify_type(event: Event) -> str:
    """Give `info`, `success`, `warning` or `failure` for an event.

    `metadata["notify_type"]` says it; else what is resolved is a success; else the severity among the
    labels or in the metadata says it; else an event of type ERROR is a failure.
    """
    metadata = event.metadata
    given = metadata.get("notify_type")
    if isinstance(given, str) and given in _TYPES:
        return given
    if metadata.get("status") == "resolved":
        return "success"
    labels = metadata.get("labels")
    for where in (labels, metadata):
        known = severity_type(where.get("severity")) if isinstance(where, Mapping) else None
        if known is not None:
            return known
    return "failure" if event.type is EventType.ERROR else "info"


def severity_type(severity: object) -> str | None:
    """Give the type of a notification for a severity, or None for one that is unknown."""
    return _SEVERITIES.get(severity.strip().lower()) if isinstance(severity, str) else None


def one_line(text: str) -> str:
    """Make a title of a text: no line breaks or other control characters, at most `MAX_TITLE` long."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:MAX_TITLE].rstrip()


def _title(event: Event) -> str:
    name = str(event.metadata.get("event") or event.topic or event.type.value)
    return f"{event.type.value.upper()} {name}"


def _body(event: Event) -> str:
    data = event.to_dict()["data"]
    return data if isinstance(data, str) else json.dumps(data, indent=2, ensure_ascii=False)


def _values(event: Event) -> dict[str, Any]:
    """Give an event to a template: plain values only, nothing that could be called."""
    return {**event.to_dict(), "topic": event.topic, "timestamp": event.timestamp}
