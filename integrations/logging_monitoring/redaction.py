"""`redact`: an interceptor that takes secrets out of events before anything else sees them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from codomyrmex.integrations.delivery.secrets import DEFAULT_PATTERNS, REPLACEMENT, SecretPatterns
from codomyrmex.integrations.logging_monitoring.redaction_walk import Rules, Walk, look
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.diagnostics import Diagnostics

DEFAULT_KEYS: frozenset[str] = frozenset(
    [
        "access_key",
        "access_token",
        "api_key",
        "apikey",
        "auth",
        "auth_token",
        "authorization",
        "client_secret",
        "connection_string",
        "cookie",
        "credential",
        "credentials",
        "csrf",
        "csrf_token",
        "csrftoken",
        "dsn",
        "encryption_key",
        "id_token",
        "jwt",
        "mysql_pwd",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "private_key",
        "privatekey",
        "proxy_authorization",
        "pwd",
        "refresh_token",
        "secret",
        "secret_key",
        "secrets",
        "session",
        "session_id",
        "session_key",
        "sessionid",
        "set_cookie",
        "signature",
        "signing_key",
        "ssn",
        "token",
        "x_api_key",
        "xsrf",
        "xsrf_token",
    ]
)

_log = Diagnostics(__name__)


class RedactionStatistics(NamedTuple):
    """What a redactor has done.

    Attributes:
        events: events that it changed.
        values: values in which, or of which, something was replaced.
        unexamined: values replaced because they could not be examined: too deep, too many, too long,
            in a circle, of an unknown class, or raising.
    """

    events: int
    values: int
    unexamined: int


def redact(
    keys: Iterable[str] = DEFAULT_KEYS,
    patterns: Iterable[str | re.Pattern[str]] = DEFAULT_PATTERNS,
    replacement: str = REPLACEMENT,
) -> Redactor:
    """Make an interceptor that takes secrets out of events: `stream.add_interceptor(redact())`.

    A value is replaced as a whole where its key is one of `keys`: whatever the case, `-` and `_` alike, and
    also as the last words of a longer key (`db_password`, `accessToken`), at any depth, in data and
    metadata. In any other text what matches one of `patterns` is replaced.

    Nothing is changed in place: an event with a secret is passed on as a copy, any other as it is. It
    fails closed: what it cannot examine it replaces, and counts. What it does is bounded, however large
    or circular the payload.

    Args:
        keys: names of what is secret.
        patterns: regular expressions, as text or compiled, of what is secret in a text. Where one has a
            group, only what the first group holds is replaced.
        replacement: what stands there instead.

    Raises:
        TypeError: keys or patterns is a text and not a list of them, or a key is no text.
        ValueError: a pattern is no regular expression.
    """
    return Redactor(keys, patterns, replacement)


redact.makes_an_interceptor = True  # type: ignore[attr-defined] # so that a stream refuses it uncalled


class Redactor:
    """Takes secrets out of events; made by `redact`."""

    def __init__(
        self, keys: Iterable[str], patterns: Iterable[str | re.Pattern[str]], replacement: str
    ) -> None:
        if isinstance(keys, str):
            raise TypeError("keys is a list of names; put the one into a list")
        self._rules = Rules(keys, SecretPatterns(patterns, replacement), replacement)
        self._events = Counter()

    def __call__(self, event: Event) -> Event:
        """Give the event, or a copy without what is secret in it."""
        rules = self._rules
        try:
            clean_texts = False
            texts: list[str] = []
            doubtful: list[object] = []
            if look(event, rules, texts, doubtful):
                clean_texts = not rules.patterns.match_any(texts)
                if clean_texts and not doubtful:
                    return event
            walk = Walk(rules, skip_texts=clean_texts)
            metadata = walk.value(event.metadata, 0)  # first, while there is something to spend
            data = walk.value(event.data, 0)
            if data is event.data and metadata is event.metadata:
                return event
            if type(metadata) is not dict:
                metadata = self._topic_only(event)
        except Exception as error:  # noqa: BLE001 - fails closed: the stream would pass the event on as it was
            rules.unexamined.tick()
            name = type(error).__name__  # and no more of it, as its message may quote the secret
            _log.warning(name, "an event could not be examined (%s): all of its content was replaced", name)
            metadata, data = self._topic_only(event), rules.replacement
        self._events.tick()
        return event.replace(data=data, metadata=metadata)

    def _topic_only(self, event: Event) -> dict[str, Any]:
        topic = event.topic
        return {} if topic is None else {"topic": self._rules.patterns.redact(topic)}

    def statistics(self) -> RedactionStatistics:
        """Give the counts up to now."""
        rules = self._rules
        return RedactionStatistics(self._events.value(), rules.values.value(), rules.unexamined.value())
