"""Encodes alerts, groups and silences with the names and the time format of Alertmanager's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.matchers import Matcher, Op
from codomyrmex.integrations.notification import Silence
from codomyrmex.integrations.notification.alerts.alert_views import AlertGroupView, AlertView
from codomyrmex.integrations.notification.alerts.notification import moment_of
from codomyrmex.integrations.web.alertmanager_api.parsing import is_uri
from codomyrmex.streaming.encoding import to_json_bytes

_encoder = msgspec.json.Encoder()


class _EncodedAlert(msgspec.Struct, gc=False, rename="camel", omit_defaults=True):
    annotations: Mapping[str, str] = msgspec.field()
    ends_at: str
    fingerprint: str
    receivers: msgspec.Raw
    starts_at: str
    status: msgspec.Raw
    updated_at: str
    labels: Mapping[str, str]
    generator_url: str | None = msgspec.field(default=None, name="generatorURL")


class _EncodedGroup(msgspec.Struct, gc=False, rename="camel"):
    alerts: list[_EncodedAlert]
    labels: Mapping[str, str]
    receiver: Mapping[str, str]
    route_labels: Mapping[str, str]


def encode_alerts(views: Sequence[AlertView]) -> bytes:
    """Return alerts as JSON."""
    return to_json(_AlertEncoder().alerts(views))


def encode_groups(groups: Sequence[AlertGroupView]) -> bytes:
    """Return groups of alerts as JSON."""
    encoder = _AlertEncoder()
    return to_json(
        [
            _EncodedGroup(
                encoder.alerts(group.alerts), group.labels, {"name": group.receiver}, group.route_labels
            )
            for group in groups
        ]
    )


def encode_silences(silences: Sequence[Silence], now: float) -> bytes:
    """Return silences as JSON."""
    return to_json([_silence(each, now) for each in silences])


def encode_silence(silence: Silence, now: float) -> bytes:
    """Return a silence as JSON."""
    return to_json(_silence(silence, now))


def to_json(value: Any) -> bytes:
    """Return a value as JSON, even if it contains lone surrogates, which msgspec does not encode."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return to_json_bytes(msgspec.to_builtins(value, enc_hook=msgspec.json.decode))


class _AlertEncoder:
    """Converts alerts to JSON. Receivers and statuses, which many alerts have in common, are encoded once."""

    def __init__(self) -> None:
        self._receivers: dict[Sequence[str], msgspec.Raw] = {}
        self._statuses: dict[tuple[Sequence[str], ...], msgspec.Raw] = {}

    def alerts(self, views: Sequence[AlertView]) -> list[_EncodedAlert]:
        return [
            _EncodedAlert(
                view.annotations,
                shown_time(view.ends_at),
                view.fingerprint,
                self._receivers.get(view.receivers) or self._encode_receivers(view.receivers),
                shown_time(view.starts_at),
                self._status(view),
                shown_time(view.updated_at),
                view.labels,
                view.url if view.url and is_uri(view.url) else None,
            )
            for view in views
        ]

    def _encode_receivers(self, names: Sequence[str]) -> msgspec.Raw:
        raw = self._receivers[names] = msgspec.Raw(to_json([{"name": name} for name in names]))
        return raw

    def _status(self, view: AlertView) -> msgspec.Raw:
        key = view.inhibited_by, view.muted_by, view.silenced_by
        raw = self._statuses.get(key)
        if raw is None:
            status = dict(zip(("inhibitedBy", "mutedBy", "silencedBy"), key, strict=True))
            state = "suppressed" if view.suppressed else "active"
            raw = self._statuses[key] = msgspec.Raw(to_json({**status, "state": state}))
        return raw


def _silence(silence: Silence, now: float) -> dict[str, Any]:
    return {
        "id": silence.id,
        "status": {"state": silence.state(now).value},
        "updatedAt": shown_time(
            min(silence.starts_at, now) if silence.updated_at is None else silence.updated_at
        ),
        "annotations": silence.annotations,
        "comment": silence.comment,
        "createdBy": silence.created_by,
        "endsAt": shown_time(silence.ends_at),
        "matchers": [_matcher(matcher) for matcher in silence.matchers],
        "startsAt": shown_time(silence.starts_at),
    }


def _matcher(matcher: Matcher) -> dict[str, Any]:
    return {
        "isEqual": matcher.op in {Op.EQUAL, Op.REGEX},
        "isRegex": matcher.op in {Op.REGEX, Op.NOT_REGEX},
        "name": matcher.name,
        "value": matcher.value,
    }


def shown_time(seconds: float) -> str:
    """Return a time with milliseconds, as in Alertmanager's API."""
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(10_000)
def _second(seconds: int) -> str:
    return f"{moment_of(seconds):%Y-%m-%dT%H:%M:%S}"
