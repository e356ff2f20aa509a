"""Stores against a model in memory: any sequence of operations of two connections gives the same answers."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from codomyrmex.integrations.durable import LeaseLostError, Retention, StoreError
from codomyrmex.integrations.durable.store import Batch
from durable.stores import KINDS, make_place
from helpers import DEADLINE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

LONG = 600.0

connections = st.integers(0, 1)
log_names = st.sampled_from(["log", "log.a", "log_a", "Log"])
producers = st.sampled_from(["p", "P", "q-1"])
entries = st.lists(st.binary(max_size=20), min_size=1, max_size=7)
lease_names = st.sampled_from(["lease", "lease/a", "lease_a"])
owners = st.sampled_from(["one", "two"])
value_names = st.sampled_from(["a", "a/b", "a_b", "axb", "A"])


class StoreMachine(RuleBasedStateMachine):
    """The store and its model."""

    def __init__(self, place):
        super().__init__()
        self.runner = asyncio.Runner()
        self.stores = [place.store(), place.store()]
        self.logs = {}  # name: [epoch, first, values of all entries ever]
        self.newest = {}  # (log, producer): (number, entries, position)
        self.holders = {}  # name: Lease
        self.gone = {}  # name: the leases that were held once
        self.tokens = {}  # name: the highest token
        self.values = {}
        self.turn = 0  # of the connections
        for store in self.stores:
            self.run(store.open())

    def run(self, operation):
        return self.runner.run(operation)

    def teardown(self):
        for store in self.stores:
            self.run(store.close())
        self.runner.close()

    @rule(which=connections)
    def reopen(self, which):
        self.run(self.stores[which].close())
        self.run(self.stores[which].open())

    @rule(which=connections, log=log_names)
    def create_log(self, which, log):
        bounds = self.run(self.stores[which].create_log(log))
        epoch, first, values = self.logs.setdefault(log, [bounds.epoch, 1, []])
        assert bounds[:3] == (epoch, first, len(values))

    @rule(which=connections, log=log_names, producer=producers, values=entries)
    def append(self, which, log, producer, values):
        number = self.newest.get((log, producer), (0,))[0] + 1
        appending = self.stores[which].append(log, Batch(producer, number, values))
        if log not in self.logs:
            with pytest.raises(StoreError):
                self.run(appending)
            return
        known = self.logs[log][2]
        first = self.run(appending)
        assert first == len(known) + 1
        known += values
        self.newest[log, producer] = (number, values, first)

    @rule(which=connections, log=log_names, producer=producers)
    def repeat(self, which, log, producer):
        if (log, producer) in self.newest:
            number, values, first = self.newest[log, producer]
            assert self.run(self.stores[which].append(log, Batch(producer, number, values))) == first

    @rule(which=connections, log=log_names, after=st.integers(0, 40), limit=st.integers(1, 30))
    def read(self, which, log, after, limit):
        _, first, known = self.logs.get(log, (None, 1, []))
        expected = list(enumerate(known, start=1))[max(after, first - 1) :][:limit]
        found = self.run(self.stores[which].read(log, after, limit))
        assert [(entry.position, entry.value) for entry in found] == expected
        assert [entry.time for entry in found] == sorted(entry.time for entry in found)

    @rule(which=connections, log=log_names, after=st.integers(0, 40), size=st.integers(1, 60))
    def read_bytes(self, which, log, after, size):
        _, first, known = self.logs.get(log, (None, 1, []))
        found = self.run(self.stores[which].read(log, after, 100, size))
        start = max(after, first - 1)
        assert [entry.value for entry in found] == known[start : start + len(found)]
        assert bool(found) == (start < len(known))
        assert len(found) <= 1 or sum(len(entry.value) for entry in found) <= size

    @rule(which=connections, log=log_names, kept=st.integers(1, 20), keep_after=st.integers(0, 40))
    def trim(self, which, log, kept, keep_after):
        retention = Retention(max_events=kept)
        removed = self.run(self.stores[which].trim(log, retention, keep_after))
        if log not in self.logs:
            assert removed == 0
            return
        _, first, known = self.logs[log]
        self.logs[log][1] = max(first, min(len(known) + 1 - kept, keep_after + 1))
        assert removed == self.logs[log][1] - first

    @rule(which=connections, log=log_names, expected=st.booleans())
    def renew_epoch(self, which, log, expected):
        if log in self.logs:
            epoch, first, known = self.logs[log]
            bounds = self.run(self.stores[which].renew_epoch(log, epoch if expected else "another"))
            assert bounds[1:3] == (first, len(known))
            assert (bounds.epoch == epoch) == (not expected)
            self.logs[log][0] = bounds.epoch

    @rule(which=connections, log=log_names)
    def wait(self, which, log):
        _, _, known = self.logs.get(log, (None, 1, []))
        self.run(asyncio.wait_for(self.stores[which].wait(log, max(len(known) - 1, 0), 0.01), DEADLINE))

    @rule(which=connections, name=lease_names, owner=owners)
    def acquire(self, which, name, owner):
        lease = self.run(self.stores[which].acquire(name, owner, LONG))
        held = self.holders.get(name)
        if held is None:
            assert lease[:2] == (name, owner)
            assert lease.token > self.tokens.get(name, 0)
            self.tokens[name] = lease.token
            self.holders[name] = lease
        else:
            assert lease == (held if held.owner == owner else None)

    @rule(which=connections, name=lease_names)
    def renew(self, which, name):
        if name in self.holders:
            self.run(self.stores[which].renew(self.holders[name], LONG))

    @rule(which=connections, name=lease_names)
    def release(self, which, name):
        if name in self.holders:
            lease = self.holders.pop(name)
            self.gone.setdefault(name, []).append(lease)
            self.run(self.stores[which].release(lease))

    @rule(which=connections, name=lease_names, values=st.dictionaries(value_names, st.binary(max_size=5)))
    def use_a_lost_lease(self, which, name, values):
        for lease in self.gone.get(name, [])[-2:]:
            with pytest.raises(LeaseLostError):
                self.run(self.stores[which].renew(lease, LONG))
            with pytest.raises(LeaseLostError):
                self.run(self.stores[which].save(lease, values))
            self.run(self.stores[which].release(lease))

    @rule(
        which=connections,
        name=lease_names,
        values=st.dictionaries(value_names, st.none() | st.binary(max_size=20)),
    )
    def save(self, which, name, values):
        if name in self.holders:
            self.run(self.stores[which].save(self.holders[name], values))
            self.values.update(values)
            self.values = {name: value for name, value in self.values.items() if value is not None}

    @rule(which=connections, prefix=st.sampled_from(["", "a", "a/", "a_", "A", "%", "*"]))
    def load(self, which, prefix):
        expected = {name: value for name, value in self.values.items() if name.startswith(prefix)}
        assert self.run(self.stores[which].load(prefix)) == expected

    @rule(which=connections)
    def look(self, which):
        store = self.stores[which]
        assert self.run(store.logs()) == sorted(self.logs)
        assert self.run(store.leases("")) == sorted(self.holders.values())

    @invariant()
    def bounds(self):
        for log, (epoch, first, known) in self.logs.items():
            self.turn = 1 - self.turn
            assert self.run(self.stores[self.turn].bounds(log))[:3] == (epoch, first, len(known))


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_does_what_its_model_does(kind, servers, tmp_path):
    def machine():
        folder = tmp_path / uuid4().hex
        folder.mkdir()
        return StoreMachine(make_place(kind, servers, folder))

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
