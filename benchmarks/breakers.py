"""Circuit breakers with our listener and with an empty one; Envoy's log."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import purgatory
import pybreaker
from codomyrmex.integrations.service_mesh import EnvoyOutlierLog, attach_purgatory, attach_pybreaker
from codomyrmex.streaming import InMemoryStream
from measure import Result, compare


def measure() -> Iterator[Result]:
    yield from pybreakers()
    yield from factories()
    yield outlier_log()


def works() -> None:
    pass


def fails() -> None:
    raise OSError


class Empty(pybreaker.CircuitBreakerListener):
    """Overrides the methods that ours overrides, and does nothing."""

    def failure(self, cb: Any, exc: BaseException) -> None:
        pass

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        pass


def calls(call: Callable[[Callable[[], None]], object], n: int) -> Callable[[], int]:
    def timed() -> int:
        for _ in range(n):
            call(works)
        return n

    return timed


def added(result: Result, limit: float) -> Result:
    """Turn a ratio of times into the additional microseconds of ours."""
    ours, theirs = (_microseconds(part) for part in result.detail.split(" against "))
    extra = ours - theirs
    return Result(
        result.work,
        result.against,
        extra / limit,
        bar=1.0,
        rate=False,
        detail=f"+{extra:.1f} µs, {result.detail}",
    )


def _microseconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"ns": 0.001, "µs": 1.0, "ms": 1_000.0}[unit]


def pybreakers() -> Iterator[Result]:
    def breaker(listener: bool) -> pybreaker.CircuitBreaker:  # noqa: FBT001 - a local function
        made = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=3_600, name="orders")
        if listener:
            attach_pybreaker(made, InMemoryStream())
        else:
            made.add_listener(Empty())
        return made

    yield compare(
        "pybreaker, a successful call with our listener",
        "with an empty listener",
        calls(breaker(listener=True).call, 1_000),
        calls(breaker(listener=False).call, 1_000),
        bar=1.1,
    )

    def changes(made: pybreaker.CircuitBreaker) -> Callable[[], int]:
        def timed() -> int:
            for _ in range(50):
                made.open()
                made.close()
            return 100

        return timed

    yield added(
        compare(
            "pybreaker, a state change: share of 20 µs over an empty listener",
            "with an empty listener",
            changes(breaker(listener=True)),
            changes(breaker(listener=False)),
        ),
        20.0,
    )


def factories() -> Iterator[Result]:
    def factory(listener: bool) -> purgatory.SyncCircuitBreakerFactory:  # noqa: FBT001 - a local function
        made = purgatory.SyncCircuitBreakerFactory(default_threshold=1, default_ttl=0)
        if listener:
            attach_purgatory(made, InMemoryStream())
        else:
            made.add_listener(lambda _name, _kind, _event: None)
        return made

    def call_through(made: purgatory.SyncCircuitBreakerFactory) -> Callable[[Callable[[], None]], None]:
        def call(function: Callable[[], None]) -> None:
            with made.get_breaker("orders"):
                function()

        return call

    yield compare(
        "purgatory, a successful call with our listener",
        "with an empty listener",
        calls(call_through(factory(listener=True)), 500),
        calls(call_through(factory(listener=False)), 500),
        bar=1.1,
    )

    def changes(made: purgatory.SyncCircuitBreakerFactory) -> Callable[[], int]:
        call = call_through(made)

        def timed() -> int:
            for _ in range(30):
                with suppress(OSError):
                    call(fails)  # opens
                call(works)  # half open, closed
            return 90

        return timed

    yield added(
        compare(
            "purgatory, a state change: share of 20 µs over an empty listener",
            "with an empty listener",
            changes(factory(listener=True)),
            changes(factory(listener=False)),
        ),
        20.0,
    )


def outlier_log() -> Result:
    line = {
        "type": "CONSECUTIVE_5XX",
        "timestamp": "2026-11-24T10:00:00.123Z",
        "cluster_name": "up",
        "upstream_url": "127.0.0.1:19101",
        "action": "EJECT",
        "num_ejections": 1,
        "enforced": True,
        "eject_consecutive_event": {},
    }
    n = 20_000
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "outliers.log"
        log.write_text(f"{json.dumps(line)}\n" * n, encoding="utf-8")

        def followed() -> int:
            stream = InMemoryStream()
            feed = EnvoyOutlierLog(log, stream, from_start=True)
            feed.poll()
            feed.close()
            assert stream.statistics().published == n
            return n

        def parsed() -> int:
            with log.open(encoding="utf-8") as lines:
                for text in lines:
                    json.loads(text)
            return n

        result = compare(
            "Envoy's outlier log, lines published",
            "json.loads of the same lines",
            followed,
            parsed,
            rate=True,
            rounds=7,
        )
    seconds = _microseconds(result.detail.split(" against ")[0]) / 1_000_000
    return result._replace(detail=f"{1 / seconds:,.0f} lines a second, bar 50,000; {result.detail}")
