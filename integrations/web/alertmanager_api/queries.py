"""Parses the query parameters of requests, which select alerts and silences."""

from __future__ import annotations

from collections.abc import Callable

from codomyrmex.integrations.configuration.matcher_text import parse_matchers
from codomyrmex.integrations.configuration.matchers import Matcher, MatcherError, Op
from codomyrmex.integrations.notification import Silence
from codomyrmex.integrations.notification.alerts.alert_views import AlertFilter
from codomyrmex.integrations.notification.alerts.silences import SilenceState
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

_TRUE = frozenset({"true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled"})
_MAX_MATCHERS = 100
_MAX_TEXT = 1_000  # characters of an error
_ORDER = (SilenceState.ACTIVE, SilenceState.PENDING, SilenceState.EXPIRED)


def alert_filter(query: QueryParams) -> AlertFilter:
    """Return the filter of a request for alerts.

    Raises:
        HTTPException: with status 400 if a parameter is invalid.
    """
    pattern = query.get("receiver")
    receiver: Callable[[str], bool] | None = None
    if pattern:
        try:
            receiver = Matcher("receiver", Op.REGEX, pattern).holds
        except ValueError as error:
            raise HTTPException(400, f"failed to parse receiver param: {error}"[:_MAX_TEXT]) from None
    if not receivers_shown(query):
        receiver = _nothing
    return AlertFilter(
        matchers=_matchers(query, "filter"),
        receiver=receiver,
        active=_flag(query, "active"),
        silenced=_flag(query, "silenced"),
        inhibited=_flag(query, "inhibited"),
        muted=_flag(query, "muted"),
    )


def receivers_shown(query: QueryParams) -> bool:
    """Return whether receivers are shown: as they have no labels here, all or none are.

    Raises:
        HTTPException: with status 400 if a parameter is invalid.
    """
    return all(matcher.holds("") for matcher in _matchers(query, "receiver_matchers"))


def chosen_silences(query: QueryParams, silences: list[Silence], now: float) -> list[Silence]:
    """Return the silences that a request asks for, in Alertmanager's order.

    Active silences come first, ordered by their end, then pending ones, ordered by their start, then expired
    ones, the latest first. Each matcher of the request must be a matcher of the silence.

    Raises:
        HTTPException: with status 400 if a parameter is invalid.
    """
    states = {state for state in _ORDER if _flag(query, state.value)}
    wanted = _matchers(query, "filter")

    def matches(silence: Silence) -> bool:
        own = [*silence.matchers, *(matcher for each in silence.other_matchers for matcher in each)]
        return silence.state(now) in states and all(matcher in own for matcher in wanted)

    def order(silence: Silence) -> tuple[int, float]:
        state = silence.state(now)
        times = {
            SilenceState.ACTIVE: silence.ends_at,
            SilenceState.PENDING: silence.starts_at,
            SilenceState.EXPIRED: -silence.ends_at,
        }
        return _ORDER.index(state), times[state]

    return sorted(filter(matches, silences), key=order)


def _matchers(query: QueryParams, name: str) -> tuple[Matcher, ...]:
    """Return the matchers of all parameters with a name."""
    texts = query.getlist(name)
    if len(texts) > _MAX_MATCHERS:
        raise HTTPException(400, f"{name}: at most {_MAX_MATCHERS} matchers are accepted")
    return tuple(_matcher(text) for text in texts)


def _matcher(text: str) -> Matcher:
    try:
        found = parse_matchers(text)
    except MatcherError as error:
        raise HTTPException(400, f"bad matcher format: {error}"[:_MAX_TEXT]) from None
    if len(found) != 1 or text.startswith("{"):
        raise HTTPException(400, f"bad matcher format: {text}"[:_MAX_TEXT])
    return found[0]


def _flag(query: QueryParams, name: str) -> bool:
    """Return a boolean parameter as Go's OpenAPI runtime reads it; true if it is missing."""
    text = query.get(name, "")
    return not text or text.lower() in _TRUE


def _nothing(_: str) -> bool:
    return False
