"""Parses the bodies that clients post to the API: alerts and silences."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, NamedTuple
from uuid import uuid4

import msgspec
from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError, Op
from codomyrmex.integrations.notification import Alert, Silence
from codomyrmex.integrations.notification.alerts.alert import MAX_TIME, text_size
from codomyrmex.streaming.encoding import to_json_bytes
from starlette.exceptions import HTTPException

_NOT_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GO_ZERO = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()
_URI = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:|/)(?:[^\s\x00-\x1f\x7f%]|%[0-9A-Fa-f]{2})*")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # in a pair or alone
_MAX_REASONS = 100  # in the response to a request
_MAX_TEXT = 1_000  # characters of an error
_OPS = {
    (False, True): Op.EQUAL,
    (False, False): Op.NOT_EQUAL,
    (True, True): Op.REGEX,
    (True, False): Op.NOT_REGEX,
}


class _PostedAlert(msgspec.Struct, rename="camel", gc=False):
    labels: dict[str, str]
    annotations: dict[str, str] | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    generator_url: str | None = msgspec.field(default=None, name="generatorURL")


class _PostedMatcher(msgspec.Struct, rename="camel"):
    name: str
    value: str
    is_regex: bool
    is_equal: bool = True


class _PostedSilence(msgspec.Struct, rename="camel"):
    matchers: Annotated[list[_PostedMatcher], msgspec.Meta(min_length=1)]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str
    id: str | None = None
    annotations: dict[str, str] | None = None


_alerts = msgspec.json.Decoder(list[_PostedAlert] | None)
_raw_alerts = msgspec.json.Decoder(list[msgspec.Raw] | None)
_alert = msgspec.json.Decoder(_PostedAlert)
_silence = msgspec.json.Decoder(_PostedSilence)


class PostedAlerts(NamedTuple):
    """The valid alerts of a body, and the problems of the invalid ones."""

    alerts: list[Alert]
    problems: list[str]

    def reasons(self) -> str:
        """Return the problems as one text."""
        more = len(self.problems) - _MAX_REASONS
        return "; ".join(self.problems[:_MAX_REASONS]) + (f"; and {more} more" if more > 0 else "")


def parse_alerts(body: bytes, now: float, max_alerts: int, max_alert_size: int) -> PostedAlerts:
    """Return the alerts of a body, in their order.

    Args:
        body: JSON.
        now: seconds since 1970.
        max_alerts: the maximum number of alerts.
        max_alert_size: the maximum number of characters in the texts of an alert.

    Raises:
        HTTPException: with status 400 if the body is not a list, and 413 if it has too many alerts.
    """
    items: Sequence[_PostedAlert | msgspec.Raw]
    try:
        items = _alerts.decode(body) or ()
    except _NOT_JSON:  # the body or some of the alerts are invalid: decode one by one
        try:
            items = _raw_alerts.decode(_with_text(body)) or ()
        except _NOT_JSON as error:
            raise HTTPException(400, f"the body must be a JSON list of alerts: {error}") from None
    if len(items) > max_alerts:
        raise HTTPException(413, f"too many alerts: at most {max_alerts} are accepted in a body")
    alerts, problems = [], []
    check_size = len(body) > max_alert_size
    for number, item in enumerate(items):
        try:
            alert = _alert_of(item if isinstance(item, _PostedAlert) else _alert.decode(item), now)
            if check_size and text_size(alert) > max_alert_size:
                raise ValueError(f"too large: at most {max_alert_size} characters are accepted")
        except _NOT_JSON as error:
            problems.append(f"alert {number}: {error}")
        else:
            alerts.append(alert)
    return PostedAlerts(alerts, problems)


def _with_text(body: bytes) -> bytes:
    """Return JSON in which invalid UTF-8 and lone surrogates are replaced by U+FFFD, as Go reads it."""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    return to_json_bytes(json.loads(body)) if _SURROGATE.search(body) else body


def _alert_of(posted: _PostedAlert, now: float) -> Alert:
    labels, annotations = posted.labels, posted.annotations or {}
    if "" in labels.values():
        labels = {name: value for name, value in labels.items() if value}
    if not labels:
        raise ValueError("at least one label pair required")
    if "" in labels or "" in annotations:
        raise ValueError('invalid label set: invalid name ""')
    starts_at, ends_at = _seconds(posted.starts_at), _seconds(posted.ends_at)
    if starts_at is not None and ends_at is not None and ends_at < starts_at:
        raise ValueError("start time must be before end time")
    url = posted.generator_url or None
    if url is not None and not is_uri(url):
        raise ValueError("generatorURL: must be a URL")
    if starts_at is None:
        starts_at = now if ends_at is None else min(now, ends_at)
    return Alert(labels, annotations, starts_at, ends_at, url)


def is_uri(text: str) -> bool:
    """Return whether a text is an absolute URL or an absolute path (RFC 3986)."""
    return _URI.fullmatch(text) is not None


# Cached, as all alerts of a body usually have the same end.
@lru_cache(1_000)
def _seconds(moment: datetime | None) -> float | None:
    """Return a time in seconds since 1970; None for Go's zero time, which means that none is set."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    seconds = (aware - _EPOCH).total_seconds()
    return None if seconds == _GO_ZERO else min(seconds, MAX_TIME)


class PostedSilence(NamedTuple):
    """A silence to create; with an id, the one to change."""

    id: str | None
    silence: Silence


def parse_silence(body: bytes, now: float, max_bytes: int) -> PostedSilence:
    """Return the silence of a body.

    Args:
        body: JSON.
        now: seconds since 1970.
        max_bytes: the maximum size of the body.

    Raises:
        HTTPException: with status 400 if it is not valid, and 413 if it is too large.
    """
    if len(body) > max_bytes:
        raise HTTPException(413, f"the silence is too large: at most {max_bytes} bytes are accepted")
    try:
        posted = _silence.decode(_with_text(body))
    except _NOT_JSON as error:
        raise HTTPException(400, f"silence invalid: {error}") from None
    starts_at, ends_at = _seconds(posted.starts_at), _seconds(posted.ends_at)
    starts_at = now if starts_at is None else max(starts_at, 0.0)
    if ends_at is None or ends_at <= starts_at:
        raise HTTPException(400, "Failed to create silence: start time must be before end time")
    if ends_at <= now:
        raise HTTPException(400, "Failed to create silence: end time can't be in the past")
    matchers = []
    for number, each in enumerate(posted.matchers):
        try:
            matchers.append(Matcher(each.name, _OPS[each.is_regex, each.is_equal], each.value))
        except MatcherError as error:
            raise HTTPException(400, f"silence invalid: matcher {number}: {error}"[:_MAX_TEXT]) from None
    try:
        silence = Silence(
            tuple(matchers),
            starts_at,
            ends_at,
            posted.created_by,
            posted.comment,
            id=str(uuid4()),
            updated_at=now,
            annotations=posted.annotations or {},
        )
    except ValueError as error:
        raise HTTPException(400, f"silence invalid: {error}") from None
    return PostedSilence(posted.id or None, silence)
