"""Processes that share the state of their alerts, of which the one that notifies is killed at random moments.

It is killed ten times in all; `ALERT_HOLDER_KILLS` says another number, for all kinds of stores together,
and `ALERT_HOLDER_SEED` repeats a run. With `-rP`, pytest shows how many faults and notifications there were.
"""

from __future__ import annotations

import os
import random

import pytest
from availability.chaos import AlertChaos
from durable.stores import make_place

KILLS = int(os.environ.get("ALERT_HOLDER_KILLS", "10"))
KINDS = ("sqlite", "postgres", "redis", "nats")


@pytest.mark.parametrize("kind", KINDS)
def test_every_group_is_notified_and_resolved_and_only_what_was_in_flight_is_sent_again(
    kind, servers, tmp_path
):
    place = make_place(kind, servers, tmp_path)
    history = tmp_path / "history"
    history.mkdir()
    seed = int(os.environ.get("ALERT_HOLDER_SEED", random.randrange(2**32)))
    kills = KILLS // len(KINDS) + (KINDS.index(kind) < KILLS % len(KINDS))
    chaos = AlertChaos(place, history, seed)
    problems = chaos.run(kills)
    for what, number in (*chaos.faults.items(), *chaos.figures._asdict().items()):
        print(f"{kind}: {what} {number}")
    print(f"{kind}: in flight at a fault {chaos.in_flight}")
    assert problems == [], f"seed {seed}, {history}"
    assert chaos.figures.duplicates <= chaos.in_flight
    assert chaos.figures.alerts > kills
    assert chaos.faults["killed"] == kills
