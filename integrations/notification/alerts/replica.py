"""`Replica`: keeps the engine of a standby process up to date with that of the process that notifies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from codomyrmex.integrations.delivery.diagnostics import Diagnostics
from codomyrmex.integrations.delivery.secrets import LazyTraceback, describe
from codomyrmex.integrations.durable.store import StoreError
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.old_state import OldState
from codomyrmex.integrations.notification.alerts.shared_state import GapError, SharedState
from codomyrmex.integrations.notification.alerts.state_records import Head

_WAIT = 5.0  # seconds; the most that a missed wake-up can cost
_PAUSE = 0.25  # seconds between reads of the changes of another process
_RETRY = 0.2  # seconds before the store is tried again after an error

_log = Diagnostics(__name__)


class Replica:
    """Follows the shared state, so that this process can take over at once.

    Args:
        name: the name of the sink.
        state: the shared state.
        runner: the engine.
        on_config: called when another configuration is in force.

    Attributes:
        head: the head of the state that the engine has; None if the state has to be loaded.
    """

    def __init__(
        self, name: str, state: SharedState, runner: EngineRunner, on_config: Callable[[], None]
    ) -> None:
        self.head: Head | None = None
        self._name = name
        self._state = state
        self._runner = runner
        self._on_config = on_config

    async def load(self) -> None:
        """Load the whole state into the engine.

        Raises:
            StoreError: it cannot be read.
        """
        head, state = await self._state.load()
        await self._runner.restore(state)
        self.head = head

    async def migrate(self, old: OldState) -> None:
        """Continue from the state of an earlier version if nothing was saved yet; this process has the lease.

        Raises:
            StoreConfigError: the old state is damaged.
        """
        if self.head == Head():
            await self._runner.restore(await self._runner.call(old.load))
            await self._runner.mark_all()
        else:
            old.finish()

    async def follow(self, turn: asyncio.Lock, stands_by: Callable[[], bool]) -> None:
        """Apply saved changes to the engine whenever this process stands by, until cancelled.

        Args:
            turn: a lock that is held while the engine is changed.
            stands_by: returns whether this process stands by.
        """
        while True:
            try:
                if stands_by() and self._state.is_open:
                    await self._state.wait(_WAIT)
                    await asyncio.sleep(_PAUSE)
                    async with turn:
                        if stands_by():
                            await self.catch_up()
                else:
                    await asyncio.sleep(_RETRY)
            except StoreError:
                await asyncio.sleep(_RETRY)
            except Exception as error:  # noqa: BLE001 - a bug must not end the task
                self.head = None
                text = "sink %s cannot follow the state of the process that notifies: %s\n%s"
                _log.warning("follow", text, self._name, describe(error), LazyTraceback(error))
                await asyncio.sleep(_RETRY)

    def difference(self, config_id: str) -> str | None:
        """Return how a configuration differs from that of the process that notifies; None if it does not."""
        head = self.head
        if head is None or not config_id or head.config in {"", config_id}:
            return None
        return f"the file differs from that of {head.process or 'the last process'}, which is in force"

    async def catch_up(self) -> None:
        """Apply the changes saved since the last call to the engine.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            await self._apply_changes()
        except GapError:
            self.head = None
        if self.head is None or self._state.token() is not None:  # what is saved last counts
            head = await self._state.load_head()
            if head != self.head:
                await self.load()

    async def _apply_changes(self) -> None:
        for head, changes in await self._state.read_changes():
            known = self.head
            if known is None:
                continue
            if head.number == known.number + 1 and head.token >= known.token:
                await self._runner.apply(changes)
                self.head = head
                if head.config != known.config:
                    self._on_config()
            elif head.number > known.number:
                raise GapError
            if not head.process:  # it has ended in order
                await self._state.look()
