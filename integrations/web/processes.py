"""What the live page shows of all processes that use a durable stream: what they are, and their sinks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from codomyrmex.integrations.delivery.health import SinkHealth, SinkState, worst
from codomyrmex.integrations.durable import DurableStream, ProcessInfo, ProcessState
from codomyrmex.integrations.durable.reports import Registration
from codomyrmex.integrations.web.health import HasHealth
from codomyrmex.streaming import Clock

_MAX_AGE = 0.5  # seconds for which the reports are not loaded again
_PATIENCE = 0.3  # seconds to wait for the store; then the last reports are shown
_FIRST_TRIES, _PAUSE = 10, 0.02  # and seconds between them, until the report of this process is there
_MAX_PROCESSES = 200
_IDLE = {SinkState.STANDBY, SinkState.CLOSED}
_COUNTERS = ("queued", "in_flight", "delivered", "retried", "dead", "capacity")


class ProcessReports:
    """The reports of all processes that use a stream, this one included.

    Args:
        stream: the stream.
        attachment: the sinks of this process.
        clock: the clock.
    """

    def __init__(self, stream: DurableStream, attachment: HasHealth | None, clock: Clock) -> None:
        self._stream = stream
        self._attachment = attachment
        self._own: list[Registration] = []
        self._clock = clock
        self._latest: list[ProcessInfo] = []
        self._loaded_at = float("-inf")
        self._loading: asyncio.Task[None] | None = None

    def begin(self, title: str, clients: Callable[[], int]) -> None:
        """Report a page, from its first request on: the process may be forked until then.

        Args:
            title: the title of the page.
            clients: returns how many browsers show it.
        """
        if self._own:
            return
        self._own.append(self._stream.report_section("pages", lambda: {title: {"clients": clients()}}))
        if self._attachment is not None:
            self._own.append(self._stream.report_health(self._unreported))

    def _unreported(self) -> Mapping[str, SinkHealth]:
        """Return the health of sinks that are not reported: those of another stream, or not started."""
        reports_to = getattr(self._attachment, "reports_to", None)
        if self._attachment is None or (reports_to is not None and reports_to(self._stream)):
            return {}
        return self._attachment.health()

    async def get(self) -> list[ProcessInfo]:
        """Return the reports, or the last ones if the store does not answer at once."""
        if self._clock.monotonic() - self._loaded_at >= _MAX_AGE:
            if self._loading is None or self._loading.done():
                self._loading = asyncio.create_task(self._load())
            await asyncio.wait({self._loading}, timeout=_PATIENCE)
        return self._latest

    async def _load(self) -> None:
        with suppress(Exception):  # the stream reports that the store is not available
            for _ in range(_FIRST_TRIES):
                infos = await self._stream.processes()
                if self._latest or self._stream.owner("process") in {info.id for info in infos}:
                    break
                await asyncio.sleep(_PAUSE)  # this process is about to report
            self._latest = [info for info in infos if info.state is not ProcessState.ENDED]
            self._loaded_at = self._clock.monotonic()

    async def aclose(self) -> None:
        """Report nothing any more, and stop loading."""
        for registration in self._own:
            registration.close()
        self._own = []
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})


def show_processes(infos: Sequence[ProcessInfo]) -> list[dict[str, Any]]:
    """Return the processes as the page shows them, those that are gone last."""
    ordered = sorted(infos, key=lambda info: info.state is not ProcessState.RUNNING)  # otherwise by name
    return [
        {
            "name": info.name,
            "id": info.id,
            "state": info.state.value,
            "started_at": info.started_at,
            "reported_at": info.reported_at,
            "sinks": [
                {"name": name, "state": str(sink.get("state")), "error": sink.get("last_error")}
                for name, sink in _section(info, "sinks").items()
            ],
            "more_sinks": info.omitted.get("sinks", 0),
            "pages": sum(_number(page, "clients") for page in _section(info, "pages").values()),
        }
        for info in ordered[:_MAX_PROCESSES]
    ]


def pending(infos: Sequence[ProcessInfo]) -> float:
    """Return how many events all running processes have not stored yet."""
    running = [info for info in infos if info.state is ProcessState.RUNNING]
    return sum(_number(stream, "pending") for info in running for stream in _section(info, "stream").values())


def show_problems(infos: Sequence[ProcessInfo]) -> list[str]:
    """Return what each running process has lost, as sentences."""
    running = [info for info in infos if info.state is ProcessState.RUNNING]
    return [
        f"{info.name}: {problem}" if len(running) > 1 else str(problem)
        for info in running
        for stream in _section(info, "stream").values()
        for problem in _list(stream.get("problems"))
    ]


def show_sinks(infos: Sequence[ProcessInfo]) -> list[dict[str, Any]]:
    """Return each sink with its state in all running processes, and the sum of its counters."""
    parts: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for info in infos:
        if info.state is ProcessState.RUNNING:
            for name, sink in _section(info, "sinks").items():
                parts.setdefault(name, []).append((info.name, sink))
    return [_together(name, found) for name, found in sorted(parts.items())]


def _together(name: str, parts: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    states = Counter(_state(sink) for _, sink in parts)
    state = _worst(states)
    dropped: Counter[str] = Counter()
    for _, sink in parts:
        for reason, number in _mapping(sink.get("dropped")).items():
            dropped[reason] += number if isinstance(number, int) else 0
    errors = [sink for _, sink in parts if sink.get("last_error")]
    errors.sort(key=lambda sink: _state(sink) is not state)
    return {
        "name": name,
        "of": None,
        "state": state,
        **{counter: sum(_number(sink, counter) for _, sink in parts) for counter in _COUNTERS},
        "dropped": dict(dropped),
        "last_error": errors[0]["last_error"] if errors else None,
        "last_success": max(
            (str(sink["last_success"]) for _, sink in parts if sink.get("last_success")), default=None
        ),
        "oldest_age": max(_number(sink, "oldest_age") for _, sink in parts),
        "processes": [
            {"state": each, "names": [process for process, sink in parts if _state(sink) is each]}
            for each in sorted(states, key=lambda each: (each is not state, each in _IDLE, each))
        ],
    }


def _worst(states: Mapping[SinkState, int]) -> SinkState:
    """Return the worst state of a sink in all processes; one that is closed or stands by is no problem."""
    for harmless in (_IDLE, {SinkState.CLOSED}):
        if states.keys() - harmless:
            return worst(*(states.keys() - harmless))
    return SinkState.CLOSED


# The reports may be those of another version.


def _section(info: ProcessInfo, name: str) -> dict[str, Mapping[str, Any]]:
    return {key: value for key, value in info.sections.get(name, {}).items() if isinstance(value, Mapping)}


def _state(sink: Mapping[str, Any]) -> SinkState:
    try:
        return SinkState(str(sink.get("state")))
    except ValueError:
        return SinkState.DEGRADED


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    return value if isinstance(value, int | float) else 0


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
