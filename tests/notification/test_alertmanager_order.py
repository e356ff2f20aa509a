"""How Alertmanager identifies and sorts alerts."""

from __future__ import annotations

import pytest
from codomyrmex.integrations.notification.alertmanager import (
    alert_order,
    alertmanager_fingerprint,
    label_set_order,
)
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "ab", "b", "job", "instance", "ü", "\U0001f600"])
LABELS = st.dictionaries(NAMES, st.sampled_from(["", "1", "10", "2", "é"]), max_size=4)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"severity": "critical", "alertname": "A", "cluster": "c"}, "6a4eb8dda317068c"),
        ({"a": "\ufffd"}, "dd22faed59597613"),
    ],
)
def test_fingerprints_are_those_of_alertmanager(labels, expected):
    assert alertmanager_fingerprint(labels) == expected  # as Debian's shows them


def is_before(one: dict[str, str], other: dict[str, str]) -> bool:
    """Return whether a label set is before another one, by the rule in words."""
    if len(one) != len(other):
        return len(one) < len(other)
    for name in sorted({*one, *other}):
        if (name in one) != (name in other):
            return name not in one
        if one[name] != other[name]:
            return one[name] < other[name]
    return False


@given(LABELS, LABELS)
def test_the_label_set_without_the_first_different_label_comes_first(one, other):
    assert (label_set_order(one) < label_set_order(other)) is is_before(one, other)
    assert (label_set_order(one) == label_set_order(other)) is (one == other)


@given(LABELS, LABELS)
def test_alerts_are_sorted_by_their_job_and_instance_first(one, other):
    expected = is_before(one, other)
    for name in ("instance", "job"):
        if (name in one) != (name in other):
            expected = name in one
        elif one.get(name) != other.get(name):
            expected = one[name] < other[name]
    assert (alert_order(one) < alert_order(other)) is expected
