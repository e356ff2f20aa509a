"""The source `envoy_outlier_log`: Envoy's log of hosts that are ejected and restored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from codomyrmex.integrations.pipelines.line_sources import File, FileSource
from codomyrmex.integrations.pipelines.parts import Context, PartConfig, Push, Source
from codomyrmex.integrations.service_mesh.breaker_event import CircuitBreakerEvent
from codomyrmex.integrations.service_mesh.envoy_outlier_log import log_instance, read_line
from codomyrmex.integrations.service_mesh.open_circuits import REPEAT_INTERVAL, OpenCircuits
from codomyrmex.streaming import Event

_MAX_AGE = timedelta(hours=1)  # an Envoy that is restarted does not log that its hosts are back


class EnvoyOutlierLogFile(PartConfig, frozen=True):
    """Envoy's log of hosts that are ejected and restored; the settings are those of `File`."""

    path: str = ""
    position: str | None = None
    from_start: bool = False

    def _file(self) -> File:
        return File(path=self.path, position=self.position, from_start=self.from_start)

    def build(self, name: str, context: Context) -> Source:
        return _EnvoySource(name, self._file(), context)

    def reads(self, context: Context) -> Iterable[tuple[str, Path]]:
        return self._file().reads(context)

    def writes(self, context: Context) -> Iterable[tuple[str, Path]]:
        return self._file().writes(context)


class _EnvoySource(FileSource):
    """Reads the log, and repeats the events of hosts that are ejected, as alerts need it."""

    def __init__(self, name: str, config: File, context: Context) -> None:
        super().__init__(name, config, context, self._event_of)
        self._instance = log_instance(context.folder / config.path)
        self._repeated: list[Event] = []
        self._ejected = OpenCircuits(self._repeat, 0, _MAX_AGE)

    def _event_of(self, line: bytes) -> Event:
        event, timestamp = read_line(line, self._instance)
        self._ejected.update(event)
        return event.to_event(timestamp)

    def _repeat(self, event: CircuitBreakerEvent) -> None:
        self._repeated.append(event.to_event())

    async def run(self, push: Push) -> None:
        repeating = asyncio.create_task(self._push_repeated(push))
        try:
            await super().run(push)
        finally:
            repeating.cancel()

    async def _push_repeated(self, push: Push) -> None:
        while True:
            await asyncio.sleep(REPEAT_INTERVAL)
            self._repeated = []
            self._ejected.repeat()
            await push(self._repeated)
