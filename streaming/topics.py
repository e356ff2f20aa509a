"""Topics and topic patterns, as in NATS.

A topic consists of tokens separated by `.`. In a pattern `*` matches one token, and `>` as the last token
matches one or more. Unlike in NATS, the pattern `"*"` matches everything, events without a topic included.
"""

from __future__ import annotations

from codomyrmex.streaming.errors import TopicError, shorten

EVERYTHING = "*"

_MAX_TOKENS = 100
_MAX_LENGTH = 1_000


def check_pattern(pattern: object) -> str:
    """Return the pattern; raise a `TopicError` if it is malformed."""
    if not isinstance(pattern, str):
        raise TopicError(f"topic pattern: must be a string, got {type(pattern).__name__}")
    tokens = pattern.split(".", _MAX_TOKENS)
    if len(pattern) > _MAX_LENGTH or len(tokens) > _MAX_TOKENS:
        limits = f"at most {_MAX_LENGTH} characters and {_MAX_TOKENS} tokens"
        raise TopicError(f"topic pattern: must have {limits}, got {shorten(pattern)}")
    if "" in tokens:
        raise TopicError(f"topic pattern: tokens must not be empty, got {shorten(pattern)}")
    if ">" in tokens[:-1]:
        raise TopicError(f"topic pattern: '>' must be the last token, got {shorten(pattern)}")
    return pattern


def check_topic(topic: object) -> str:
    """Return the topic; raise a `TopicError` if it is malformed or has a wildcard."""
    checked = check_pattern(topic)
    if is_pattern(checked):
        raise TopicError(f"topic: an event's topic must not have wildcards, got {shorten(topic)}")
    return checked


def is_pattern(pattern: str) -> bool:
    """Return whether the pattern has a wildcard."""
    return "*" in pattern.split(".") or pattern == ">" or pattern.endswith(".>")


def matches(pattern: str, topic: str | None) -> bool:
    """Return whether a well-formed pattern matches a topic; None is the topic of an event without one."""
    if pattern == EVERYTHING:
        return True
    if topic is None:
        return False
    expected, tokens = pattern.split("."), topic.split(".")
    if expected[-1] == ">":
        expected.pop()
        if len(tokens) <= len(expected):
            return False
    elif len(tokens) != len(expected):
        return False
    return all(e in ("*", t) for e, t in zip(expected, tokens, strict=False))
