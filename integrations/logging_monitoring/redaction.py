"""`redact`: an interceptor that removes secrets from events before anything else sees them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import DEFAULT_PATTERNS, REPLACEMENT, SecretPatterns
from codomyrmex.integrations.logging_monitoring.redaction_rules import Rules, names_in, scan
from codomyrmex.integrations.logging_monitoring.redaction_walk import Walk
from codomyrmex.streaming import Event
from codomyrmex.streaming.counters import Counter
from codomyrmex.streaming.errors import ENDS_PROGRAM

DEFAULT_KEYS: frozenset[str] = frozenset(
    """
    access_key access_token api_key apikey auth auth_token authorization client_secret connection_string
    cookie credential credentials csrf csrf_token csrftoken dsn encryption_key id_token jwt mysql_pwd
    passcode passphrase passwd password private_key privatekey proxy_authorization pwd refresh_token secret
    secret_key secrets session session_id session_key sessionid set_cookie signature signing_key ssn token
    x_api_key xsrf xsrf_token
    """.split()  # noqa: SIM905 - one name per line would be 45 lines
)
"""Names of secrets, as `redact` compares them with keys."""

_log = Diagnostics(__name__)


class RedactionStatistics(NamedTuple):
    """The counters of a redactor.

    Attributes:
        events: events that were passed on as a copy.
        values: values that were replaced, in full or in part.
        unexamined: values that were replaced because they could not be examined: too deep, too many, too
            long, circular, of an unknown class, or raising an exception.
    """

    events: int
    values: int
    unexamined: int


def redact(
    keys: Iterable[str] = DEFAULT_KEYS,
    patterns: Iterable[str | re.Pattern[str]] = DEFAULT_PATTERNS,
    replacement: str = REPLACEMENT,
) -> Redactor:
    """Return an interceptor that removes secrets from events: `stream.add_interceptor(redact())`.

    A value is replaced as a whole if its key is one of `keys`, in any case, with `-` or `_`, and also as the
    last words of a longer key (`db_password`, `accessToken`), at any depth, in data and metadata. So is the
    second of a pair (`("password", "x")`, also as lists within a list) and the value of a named value
    (`{"name": "password", "value": "x"}`). In all other strings, whatever matches one of `patterns` is
    replaced. Strings that are JSON or percent-encoded are examined like the values that they encode.

    Nothing is changed in place: an event with a secret is passed on as a copy, any other unchanged. Types
    that may show their readers something other than they showed here, such as subclasses of `str`, mappings
    other than `dict`, and sequences other than `list` and `tuple`, are always passed on as plain copies.
    Values that cannot be examined are replaced and counted. The work is bounded, however large or circular
    the payload is.

    Args:
        keys: names of secrets.
        patterns: regular expressions, as strings or compiled, for secrets within strings. If a pattern has a
            group, only what the first group matches is replaced.
        replacement: the replacement for secrets.

    Raises:
        TypeError: `keys` or `patterns` is a string instead of a list, or a key is not a string.
        ValueError: a pattern is not a regular expression.
    """
    return Redactor(keys, patterns, replacement)


redact.makes_an_interceptor = True  # type: ignore[attr-defined] # so that streams refuse it uncalled


class Redactor:
    """An interceptor that removes secrets from events; made by `redact`."""

    def __init__(
        self, keys: Iterable[str], patterns: Iterable[str | re.Pattern[str]], replacement: str
    ) -> None:
        if isinstance(keys, str) or not isinstance(keys, Iterable):
            raise TypeError(f"keys: must be a list of names, got {keys!r}")
        self._rules = Rules(keys, SecretPatterns(patterns, replacement), replacement)
        self._events = Counter()

    def __call__(self, event: Event) -> Event:
        """Return the event, or a copy without its secrets."""
        rules = self._rules
        try:
            texts: list[str] = []
            unknown: list[Any] = []
            texts_are_clean, keys_are_clean = False, False
            if scan(event, rules.harmless_keys, texts, unknown):
                names = names_in(unknown, rules.harmless_keys) if unknown else []
                texts_are_clean = not rules.match_any(texts + names if names else texts)
                keys_are_clean = texts_are_clean and names is not None
                if texts_are_clean and names is not None and not (names and rules.may_be_secret(names)):
                    if names:
                        rules.cache(names)
                    return event
            walk = Walk(rules, skip_texts=texts_are_clean, skip_keys=keys_are_clean)
            metadata = walk.value(event.metadata, 0)  # before the data, which may use up the limits
            data = walk.value(event.data, 0)
            if data is event.data and metadata is event.metadata:
                return event
            if type(metadata) is not dict:
                metadata = self._topic_only(event)
        except ENDS_PROGRAM:
            raise
        except BaseException as error:  # noqa: BLE001 - if it was raised, the stream would pass the event on
            rules.unexamined.tick()
            name = type(error).__name__  # without the message, which may quote the secret
            _log.warning(name, "an event could not be examined (%s): its whole content was replaced", name)
            metadata, data = self._topic_only(event), rules.replacement
        self._events.tick()
        return event.replace(data=data, metadata=metadata)

    def _topic_only(self, event: Event) -> dict[str, Any]:
        topic = event.topic
        return {} if topic is None else {"topic": self._rules.patterns.redact(topic)}

    def statistics(self) -> RedactionStatistics:
        """Return the counters."""
        rules = self._rules
        return RedactionStatistics(self._events.value(), rules.values.value(), rules.unexamined.value())
