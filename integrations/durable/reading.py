"""`LogReader`: the part of a durable stream that reads the log and manages its groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from codomyrmex.integrations.delivery.health import SinkHealth
from codomyrmex.integrations.durable.admin import StreamAdmin, StreamBounds
from codomyrmex.integrations.durable.entries import Record, StoredLetter
from codomyrmex.integrations.durable.processes import load_processes
from codomyrmex.integrations.durable.reports import GoneHandler, ProcessInfo, ReadSection, Registration
from codomyrmex.integrations.durable.runtime import Runtime
from codomyrmex.integrations.durable.saved_groups import GroupInfo
from codomyrmex.integrations.durable.store import READ_BYTES, Stored
from codomyrmex.integrations.durable.tail import Tail
from codomyrmex.streaming import Event

T = TypeVar("T")


class LogReader(ABC):
    """Reads the log of a durable stream, and manages its groups.

    Attributes:
        name: the name of the stream.
        admin: the stream in its store; used where the store is.
        runtime: the connection to the store.
    """

    name: str
    admin: StreamAdmin
    runtime: Runtime

    @property
    def tail(self) -> Tail:
        """The newest entries of the log."""
        return self.runtime.tail

    @abstractmethod
    async def open(self) -> None:
        """Connect to the store."""

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread that uses the store, and return its result."""
        return await self.runtime.call(coroutine)

    def owner(self, purpose: str) -> str:
        """Return the owner of a lease: this process and the purpose."""
        return self.runtime.owner(purpose)

    async def read_entries(self, after: int, limit: int, max_bytes: int = READ_BYTES) -> list[Stored]:
        """Return the entries after a position from the store, as `Store.read` does."""
        return await self.call(self.admin.store.read(self.name, after, limit, max_bytes))

    async def resolve(self, after: str | None) -> int:
        """Return the position that a cursor, `"earliest"` or None for the end stands for.

        Raises:
            CursorError: it is malformed, of another log, or no longer kept.
        """
        await self.open()
        return await self.call(self.admin.resolve(after))

    async def read(self, after: str | None = "earliest", limit: int = 100) -> list[Record]:
        """Return the events after a position, oldest first, at most `limit`.

        Args:
            after: a cursor, `"earliest"`, or None for the end.
            limit: the number of events.

        Raises:
            CursorError: as for `subscribe`.
            StoreUnavailableError: the store is not available.
        """
        await self.open()
        return await self.call(self.admin.read(after, limit))

    async def cursor(self) -> str:
        """Return the cursor of the end of the log."""
        return (await self.bounds()).last

    async def bounds(self) -> StreamBounds:
        """Return what the log holds."""
        await self.open()
        return await self.call(self.admin.bounds())

    async def groups(self) -> list[GroupInfo]:
        """Return the groups, with their holders and their lag."""
        await self.open()
        return await self.call(self.admin.groups())

    async def processes(self) -> list[ProcessInfo]:
        """Return the processes that report to the stream, and those that were gone a short time ago, by name.

        A process reports while sinks are attached in it, and while `report_section` has a section to report.
        """
        await self.open()
        return await self.call(load_processes(self.admin.store, self.name))

    def report_section(
        self, section: str, read: ReadSection, on_gone: GoneHandler | None = None
    ) -> Registration:
        """Report something to the other processes, every few seconds once the stream is used.

        Args:
            section: what it is a part of; `processes()` has the items of a section by name.
            read: returns the items by name, as JSON; called on any thread, and does not block. Texts are
                searched for secrets, and what is too large is left out.
            on_gone: a plain or an async function, called on a thread for handlers with each process that has
                reported this section with an `on_gone` too and that has ended or is gone. One process calls
                it for all, and another one does so again if that process ends meanwhile or the function
                raises.

        Returns:
            What is reported until its `close()` is called.

        Raises:
            TypeError: an argument is not a function.
            ValueError: the name of the section is not valid.
        """
        return self.runtime.sections.add(section, read, on_gone)

    def report_health(self, read: Callable[[], Mapping[str, SinkHealth]]) -> Registration:
        registration = self.report_section("sinks", lambda: {n: h._asdict() for n, h in read().items()})
        self.runtime.start()
        return registration

    async def seek(self, group: str, cursor: str | None) -> None:
        """Let a group continue after a cursor, `"earliest"`, or None for the end.

        Raises:
            GroupError: there is no such group.
            CursorError: as for `subscribe`.
        """
        await self.open()
        await self.call(self.admin.seek(group, cursor, self.owner("seek")))

    async def delete_group(self, group: str) -> None:
        """Delete a group, with its position, the count of its dead letters, and the state of an alert sink.

        Raises:
            GroupError: there is no such group, or a process reads it.
        """
        await self.open()
        await self.call(self.admin.delete_group(group, self.owner("delete")))

    async def dead_letters(self, group: str | None = None) -> list[StoredLetter]:
        """Return the dead letters that were neither replayed nor dropped, oldest first.

        Args:
            group: only those of one group: the name of a sink, or of a subscription's group.

        Raises:
            GroupError: there is no such group.
        """
        await self.open()
        return await self.call(self.admin.letters(group))

    async def replay_dead_letters(self, group: str) -> int:
        """Append the dead letters of a group to the log again, for this group only; return their number.

        Raises:
            GroupError: there is no such group.
        """
        await self.open()
        return await self.call(self.admin.replay(group, self.owner("replay")))

    async def drop_dead_letters(self, group: str) -> int:
        """Forget the dead letters of a group, and return their number.

        Raises:
            GroupError: there is no such group.
        """
        await self.open()
        return await self.call(self.admin.drop(group, self.owner("drop")))

    def get_recent_events(self, count: int = 10) -> list[Event]:
        """Return the newest `count` events that this process has read, oldest first."""
        items = [item for item in self.tail.newest(count) if item.group is None]
        return [event for item in items if (event := item.event()) is not None]
