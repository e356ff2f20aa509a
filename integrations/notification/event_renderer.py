"""`EventRenderer`: the title, body, type and format of the notification of an event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codomyrmex.integrations.notification.templates import (
    CUT,
    FORMATS,
    Template,
    check_format,
    compile_template,
)
from codomyrmex.streaming import Event, EventType

MAX_TITLE = 250
NO_DATA = "(no data)"  # Apprise does not send an empty body

_TYPES = frozenset({"info", "success", "warning", "failure"})
_SEVERITIES = {
    **dict.fromkeys(("critical", "error", "fatal", "page", "emergency", "alert"), "failure"),
    **dict.fromkeys(("warning", "warn"), "warning"),
    **dict.fromkeys(("info", "notice", "debug", "ok"), "info"),
}


@dataclass(frozen=True, slots=True)
class Message:
    """A notification as a channel sends it."""

    title: str  # one line of plain text
    body: str
    type: str  # `info`, `success`, `warning` or `failure`
    format: str  # of the body: `text`, `markdown` or `html`
    cuts: Sequence[tuple[int, int]] = ()  # where the body may end, and how many alerts it then leaves out
    payload: Any = None  # what a channel sends besides or instead of these; without secrets

    def shortened(self, limit: int) -> str:
        """Return the body with at most `limit` characters; it says what was left out."""
        if len(self.body) <= limit:
            return self.body
        for end, left_out in reversed(self.cuts):
            more = f"\n\nand {left_out} more"
            if 0 < end <= limit - len(more):
                return f"{self.body[:end]}{more}"
        return f"{self.body[: max(limit - len(CUT), 0)]}{CUT}"[:limit]


class EventRenderer:
    """Renders events as notifications; the arguments and errors are those of `AppriseChannel`.

    The metadata of an event (`title`, `body`, `format`) takes precedence over the templates, and these
    over the defaults: the type and the topic, and the data as JSON.
    """

    def __init__(self, title: str | None, body: str | None, format: str) -> None:  # noqa: A002 - the metadata's key
        self._format = check_format(format)
        self._title = None if title is None else compile_template(title)
        self._body = body
        self._bodies: dict[str, Template] = {}  # by format
        if body is not None:
            self._body_template(format)

    def message(self, event: Event) -> Message:
        """Return the notification of an event, or raise a `TemplateError`."""
        metadata = event.metadata
        format, title, body = metadata.get("format"), metadata.get("title"), metadata.get("body")  # noqa: A001
        if not isinstance(format, str) or format not in FORMATS:
            format = self._format  # noqa: A001
        if not isinstance(title, str):
            title = _default_title(event) if self._title is None else self._title.render(event=_values(event))
        cuts = _cuts(metadata) if isinstance(body, str) else ()
        if not isinstance(body, str):
            if self._body is None:
                body, format = _default_body(event), "text"  # noqa: A001
            else:
                body = self._body_template(format).render(event=_values(event))
        body = body.encode("utf-8", "replace").decode()  # a lone surrogate would fail inside the plugin
        body = body if body.strip() else NO_DATA
        return Message(one_line(title), body, notify_type(event), format, cuts)

    def _body_template(self, format: str) -> Template:  # noqa: A002 - as above
        if format not in self._bodies:
            self._bodies[format] = compile_template(self._body or "", format)
        return self._bodies[format]


def notify_type(event: Event) -> str:
    """Return `info`, `success`, `warning` or `failure` for an event.

    In this order: `metadata["notify_type"]`; success for a resolved alert; the severity in the labels or
    the metadata; failure for an event of type ERROR.
    """
    metadata = event.metadata
    explicit = metadata.get("notify_type")
    if isinstance(explicit, str) and explicit in _TYPES:
        return explicit
    if metadata.get("status") == "resolved":
        return "success"
    for source in (metadata.get("labels"), metadata):
        by_severity = severity_type(source.get("severity")) if isinstance(source, Mapping) else None
        if by_severity is not None:
            return by_severity
    return "failure" if event.type is EventType.ERROR else "info"


def severity_type(severity: object) -> str | None:
    """Return the type of notification for a severity; None if it is unknown."""
    return _SEVERITIES.get(severity.strip().lower()) if isinstance(severity, str) else None


def one_line(text: str) -> str:
    """Return a title without line breaks and control characters, cut to `MAX_TITLE` characters."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())[:MAX_TITLE].rstrip()


def _cuts(metadata: Mapping[str, Any]) -> list[tuple[int, int]]:
    cuts = metadata.get("body_cuts")
    if not isinstance(cuts, (list, tuple)):
        return []
    return [(end, left_out) for end, left_out in cuts if isinstance(end, int)]


def _default_title(event: Event) -> str:
    name = str(event.metadata.get("event") or event.topic or event.type.value)
    return f"{event.type.value.upper()} {name}"


def _default_body(event: Event) -> str:
    data = event.to_dict()["data"]
    return data if isinstance(data, str) else json.dumps(data, indent=2, ensure_ascii=False)


def _values(event: Event) -> dict[str, Any]:
    """Return the variables of a template: plain values only, which cannot be called."""
    return {**event.to_dict(), "topic": event.topic, "timestamp": event.timestamp}
