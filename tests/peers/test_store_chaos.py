"""Stores whose writers, readers, lease holders and servers are killed and stopped at random moments.

There are ten kills for each kind of store; `STORE_KILLS` says another number, and `STORE_SEED` repeats a run.
With `-rP`, pytest shows how many faults and operations there were.
"""

from __future__ import annotations

import os
import random

import pytest
from durable.chaos import Chaos
from durable.stores import make_place

KILLS = int(os.environ.get("STORE_KILLS", "10"))


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis", "valkey", "nats"])
def test_what_was_acknowledged_is_read_and_delivered_whatever_is_killed(kind, servers, tmp_path):
    place = make_place(kind, servers, tmp_path)
    history = tmp_path / "history"
    history.mkdir()
    seed = int(os.environ.get("STORE_SEED", random.randrange(2**32)))
    outcome = Chaos(place, history, seed).run(KILLS)
    for what, number in (*outcome.faults.items(), *outcome.operations.items()):
        print(f"{kind}: {what} {number}")
    assert outcome.findings == [], f"seed {seed}, {history}"
    assert outcome.operations["acked"] > KILLS
    assert outcome.operations["delivered"] > KILLS
    assert sum(number for what, number in outcome.faults.items() if what.endswith("killed")) == KILLS
