"""How Alertmanager identifies and sorts alerts, for its API, webhooks and templates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_OFFSET, _PRIME = 14_695_981_039_346_656_037, 1_099_511_628_211
_LAST = 0x10FFFF  # the last Unicode code point


def alertmanager_fingerprint(labels: Mapping[str, str]) -> str:
    """Return Alertmanager's fingerprint of labels: the 64 bits of FNV-1a of the sorted labels, in hex."""
    value = _OFFSET
    for name in sorted(labels):
        value = _add(_add(value, name), labels[name])
    return f"{value:016x}"


# Cached, as the sorted labels of many alerts start with the same ones, and groups are sent repeatedly.
@lru_cache(20_000)
def _add(value: int, text: str) -> int:
    for byte in text.encode(errors="replace"):
        value = ((value ^ byte) * _PRIME) & 0xFFFF_FFFF_FFFF_FFFF
    return ((value ^ 0xFF) * _PRIME) & 0xFFFF_FFFF_FFFF_FFFF


def alert_order(labels: Mapping[str, str]) -> Any:
    """Return a key for sorting alerts: by job, by instance, then in the order of label sets."""
    job, instance = labels.get("job"), labels.get("instance")
    return job is None, job or "", instance is None, instance or "", *label_set_order(labels)


def label_set_order(labels: Mapping[str, str]) -> Any:
    """Return a key for sorting label sets: by length, then by the first label in which two of them differ.

    A set that lacks this label comes before one that has it.
    """
    return len(labels), [text for name in sorted(labels) for text in (_reversed(name), labels[name])]


@lru_cache(1_000)
def _reversed(name: str) -> str:
    """Return a text that sorts in the reverse order of the names."""
    return "".join([chr(_LAST - ord(char)) for char in name]) + chr(_LAST)
