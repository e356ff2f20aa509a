"""Where events come from. Each source is a task that pushes into a pipeline until it ends or is stopped."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

from codomyrmex.integrations.pipelines.file import EnvoyOutlierLogSource, File, Http, Sse, Stdin
from codomyrmex.integrations.pipelines.lines import LineReader
from codomyrmex.integrations.pipelines.served import Served
from codomyrmex.integrations.pipelines.standard_input import StandardInput
from codomyrmex.integrations.service_mesh.envoy_outlier_log import EnvoyOutlierLog
from codomyrmex.integrations.service_mesh.tail import FileTail
from codomyrmex.integrations.web.ingest import event_ingest
from codomyrmex.integrations.web.sse_client import EventSource
from codomyrmex.streaming import Event, InMemoryStream, Stream
from codomyrmex.streaming.diagnostics import Diagnostics

T = TypeVar("T")
Push = Callable[[list[Event]], Awaitable[None]]

_BATCH = 500  # events that are pushed at once

_log = Diagnostics(__name__)


class Source(ABC):
    """Where events come from.

    Args:
        name: what it is called in reports.

    Attributes:
        finishes: whether `run` ends by itself after `stop`, with what it has taken pushed; else it is
            cancelled between two pushes.
        unfinished: lines that were taken and could not be pushed any more.
    """

    finishes = False
    unfinished = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self._stopped = asyncio.Event()

    async def open(self) -> None:  # noqa: B027 - most have nothing to open
        """Get ready; what cannot be had is said here.

        Raises:
            OSError: it cannot be had.
        """

    @abstractmethod
    async def run(self, push: Push) -> None:
        """Push events until there are no more, or the task is cancelled."""

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped.set()

    async def close(self) -> None:  # noqa: B027 - most end with `run`
        """Give back what `open` took, where `run` was never called."""

    def counts(self) -> dict[str, int]:
        """Give what was left out, by reason."""
        return {}

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Wait for something, or until it is to stop: None then."""
        task, stopped = asyncio.create_task(waiting), asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopped.cancel()


class _LineSource(Source):
    """A source of lines."""

    finishes = True

    def __init__(self, name: str, file: Stdin | File) -> None:
        super().__init__(name)
        self._reader = LineReader(file.format, file.pattern, file.unmatched, file.topic, file.metadata)

    def counts(self) -> dict[str, int]:
        return {"invalid lines": self._reader.invalid, "unmatched lines": self._reader.unmatched}

    async def _push(self, lines: list[bytes], push: Push) -> None:
        self.unfinished = len(lines)
        for first in range(0, len(lines), _BATCH):
            batch = lines[first : first + _BATCH]
            events = self._reader.read(batch)
            self.unfinished -= len(batch)
            if events:
                await push(events)


class StdinSource(_LineSource):
    """Lines of the standard input.

    Attributes:
        stdin: what is read; a source that takes over from another one gets that one's.
    """

    def __init__(self, name: str, file: Stdin) -> None:
        super().__init__(name, file)
        self.stdin: StandardInput | None = None

    async def open(self) -> None:
        if self.stdin is None:
            self.stdin = StandardInput()
        self.stdin.open()

    async def run(self, push: Push) -> None:
        stdin = self.stdin
        assert stdin is not None  # noqa: S101 - it was opened
        while not self._stopped.is_set():
            lines = await self._unless_stopped(stdin.lines())
            if lines is None:
                break
            await self._push(lines, push)
        await self._push(stdin.lines_read(), push)

    def counts(self) -> dict[str, int]:
        too_long = 0 if self.stdin is None else self.stdin.too_long
        return {**super().counts(), "lines that are too long": too_long}


class FileSource(_LineSource):
    """A file that is followed, as `tail -F` does; without `follow`, it is read once."""

    def __init__(self, name: str, file: File, folder: Path) -> None:
        super().__init__(name, file)
        if not file.path:
            raise ValueError("a file has a path")
        self._file = file
        self._path = folder / file.path
        self._position = _position(file.position, self._path, folder)
        self._tail: FileTail | None = None

    async def open(self) -> None:
        try:
            self._path.open("rb").close()
        except FileNotFoundError:
            if not self._file.follow:  # one that is followed may come later
                raise
        if self._position is not None:
            _check_folder(self._position)
        # Opened here: what is written from now on is new.
        from_start = self._file.from_start or not self._file.follow
        self._tail = FileTail(self._path, position=self._position, from_start=from_start)

    async def close(self) -> None:
        if self._tail is not None:
            self._tail.close()

    async def run(self, push: Push) -> None:
        tail, follow = self._tail, self._file.follow
        assert tail is not None  # noqa: S101 - it was opened
        try:
            while not self._stopped.is_set():
                lines = await asyncio.to_thread(tail.lines)
                if lines:
                    await self._take(lines, tail, push)
                elif follow:
                    await self._unless_stopped(asyncio.sleep(self._file.interval))
                else:
                    await self._take([tail.rest()], tail, push)
                    return
        finally:
            tail.close()

    async def _take(self, lines: list[bytes], tail: FileTail, push: Push) -> None:
        await self._push(lines, push)
        if self._position is not None:
            await asyncio.to_thread(tail.save)


class HttpSource(Source):
    """Events that are posted."""

    finishes = True

    def __init__(self, name: str, file: Http) -> None:
        super().__init__(name)
        self._metadata = {"topic": file.topic, **file.metadata}
        self._stream = InMemoryStream(buffer_size=1)
        app = event_ingest(self._stream, max_bytes=file.max_bytes, rate=file.rate)
        self._server = Served(app, file.listen, file.token)
        self._push: asyncio.Future[Push] | None = None

    @property
    def url(self) -> str:
        """Where events are posted to."""
        return self._server.url

    async def open(self) -> None:
        self._push = asyncio.get_running_loop().create_future()
        await self._stream.subscribe(self._take)  # who posts is answered when it is through
        await self._server.start()

    async def _take(self, event: Event) -> None:
        assert self._push is not None  # noqa: S101 - it was opened
        push = await asyncio.shield(self._push)  # who comes before `run` waits for it
        await push([event.replace(metadata={**self._metadata, **event.metadata})])

    async def run(self, push: Push) -> None:
        assert self._push is not None  # noqa: S101 - it was opened
        self._push.set_result(push)
        try:
            await self._stopped.wait()
        finally:
            await self._server.stop()  # who has posted is still answered

    async def close(self) -> None:
        await self._server.stop()


class SseSource(Source):
    """Events of another server."""

    def __init__(self, name: str, file: Sse) -> None:
        super().__init__(name)
        self._metadata = file.metadata
        self._missed = 0
        self._client = EventSource(file.url, topic=file.topic, token=file.token, tell=self._tell)

    async def run(self, push: Push) -> None:
        async with self._client, aclosing(self._client.events()) as events:
            async for event in events:
                await push([event.replace(metadata={**self._metadata, **event.metadata})])

    def counts(self) -> dict[str, int]:
        return {"invalid events": self._client.invalid, "gaps that the server could not fill": self._missed}

    def _tell(self, what: str, details: Any) -> None:
        if what == "lost":
            message = "source %s: the connection was lost (%s), the next attempt is in %.1f s"
            _log.warning(self.name, message, self.name, details["why"], details["seconds"])
        elif what == "missed":
            self._missed += 1
            _log.warning(
                f"{self.name} missed",
                "source %s: the server does not have all that came meanwhile",
                self.name,
            )


class FeedSource(Source):
    """A feed with a thread of its own, such as that of Envoy's log."""

    finishes = True

    def __init__(self, name: str, file: EnvoyOutlierLogSource, folder: Path) -> None:
        super().__init__(name)
        if not file.path:
            raise ValueError("envoy_outlier_log has a path")
        self._file = file
        self._path = folder / file.path
        self._position = _position(file.position, self._path, folder)
        self._feed: EnvoyOutlierLog | None = None

    async def open(self) -> None:
        with suppress(FileNotFoundError):  # it may come later
            self._path.open("rb").close()
        if self._position is not None:
            _check_folder(self._position)

    async def run(self, push: Push) -> None:
        stream: Stream = InMemoryStream(buffer_size=1)
        loop = asyncio.get_running_loop()

        def take(event: Event) -> None:  # on the thread of the feed, which waits until it is through
            asyncio.run_coroutine_threadsafe(_awaited(push([event])), loop).result()

        await stream.subscribe(take)
        self._feed = EnvoyOutlierLog(
            self._path, stream, position=self._position, from_start=self._file.from_start
        )
        self._feed.start()
        try:
            await self._stopped.wait()
        finally:
            await asyncio.to_thread(self._feed.stop)

    def counts(self) -> dict[str, int]:
        return {} if self._feed is None else {"invalid lines": self._feed.invalid}


async def _awaited(pushing: Awaitable[None]) -> None:
    await pushing


def _position(position: str | None, path: Path, folder: Path) -> Path | None:
    if position is None:
        return None
    if not position:
        raise ValueError("the position is a file, in which is kept how far was read")
    if folder / position == path:
        raise ValueError("the position is a file of its own, not the one that is read")
    return folder / position


def _check_folder(position: Path) -> None:
    if not position.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {position.parent} for the position")


def make_source(file: Any, name: str, folder: Path) -> Source:
    """Make a source of what stands in the configuration.

    Args:
        file: its struct.
        name: what it is called.
        folder: where relative paths begin.

    Raises:
        ValueError: it cannot be made; the message says why.
    """
    match file:
        case Stdin():
            return StdinSource(name, file)
        case File():
            return FileSource(name, file, folder)
        case Http():
            return HttpSource(name, file)
        case Sse():
            return SseSource(name, file)
        case _:
            return FeedSource(name, file, folder)
