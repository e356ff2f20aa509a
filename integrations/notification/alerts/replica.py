"""`Replica`: keeps the engine of a process on standby the same as that of the process that notifies."""

from __future__ import annotations

from collections.abc import Callable

from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.old_state import OldState
from codomyrmex.integrations.notification.alerts.shared_state import GapError, SharedState
from codomyrmex.integrations.notification.alerts.state_records import Head


class Replica:
    """Follows the shared state, so that taking over takes no time.

    Args:
        state: the shared state.
        runner: the engine.
        on_config: called when another configuration is in force.

    Attributes:
        head: of the state that the engine has; None if it has to be loaded.
    """

    def __init__(self, state: SharedState, runner: EngineRunner, on_config: Callable[[], None]) -> None:
        self.head: Head | None = None
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

    async def catch_up(self) -> None:
        """Apply to the engine what was saved since the last call.

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
