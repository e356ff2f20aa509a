"""Durable streams whose publishers, readers, sinks and servers are killed, stopped and cut off at random.

There are ten kills for each kind of store; `STREAM_KILLS` says another number, and `STREAM_SEED` repeats a
run. With `-rP`, pytest shows how many faults and operations there were.
"""

from __future__ import annotations

import os
import random

import pytest
from durable.stores import make_place
from durable.stream_chaos import StreamChaos

KILLS = int(os.environ.get("STREAM_KILLS", "10"))


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis", "nats"])
def test_streams_keep_what_they_promise_whatever_is_killed_stopped_or_cut_off(kind, servers, tmp_path):
    place = make_place(kind, servers, tmp_path)
    history = tmp_path / "history"
    history.mkdir()
    seed = int(os.environ.get("STREAM_SEED", random.randrange(2**32)))
    outcome = StreamChaos(place, history, seed).run(KILLS)
    for what, number in (*outcome.faults.items(), *outcome.operations.items()):
        print(f"{kind}: {what} {number}")
    assert outcome.findings == [], f"seed {seed}, {history}"
    assert outcome.operations["stored"] > KILLS
    assert outcome.operations["sending"] > KILLS
    assert outcome.operations["received"] > KILLS
    assert sum(number for what, number in outcome.faults.items() if what.endswith("killed")) == KILLS
