"""The feed for pybreaker and for aiobreaker, which is a fork of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, ClassVar

from codomyrmex.integrations.delivery.secrets import describe
from codomyrmex.integrations.service_mesh.breaker_event import BreakerState, as_utc
from codomyrmex.integrations.service_mesh.feed import BreakerFeed, check_type, wrap_method
from codomyrmex.streaming import Stream


class ListenerFeed(BreakerFeed):
    """A feed that is itself a listener of one breaker.

    Rejected calls reach no listener, so the breaker's methods are wrapped, and only while the circuit is
    open: calls that pass cost nothing extra.

    Attributes:
        library: the name of the library.
        breaker_type: the library's class of breakers.
        rejection: the exception that an open breaker raises.
        local_storage: the library's storage that no other process shares.
    """

    library: ClassVar[str]
    breaker_type: ClassVar[type]
    rejection: ClassVar[type[Exception]]
    local_storage: ClassVar[type]

    def __init__(
        self, breaker: Any, stream: Stream, service: str | None, *, calls: bool, repeat_interval: float
    ) -> None:
        check_type("breaker", breaker, self.library, self.breaker_type)
        storage = getattr(breaker, "_state_storage", None)
        super().__init__(
            stream,
            self.library,
            service,
            calls=calls,
            repeat_interval=repeat_interval,
            shared=not isinstance(storage, self.local_storage),
        )
        self.breaker = breaker
        self._name = str(breaker.name or "unnamed")
        self._changes = 0
        self._wrappers: ExitStack | None = None
        breaker.add_listener(self)
        self._state = _state_name(breaker.current_state)
        opened_at = self._opened_at_of(breaker)
        self.publish_snapshot(
            self._name, self._state, failure_count=breaker.fail_counter, opened_at=opened_at
        )
        self._update_wrappers()

    def close(self) -> None:
        super().close()
        if self in self.breaker.listeners:
            self.breaker.remove_listener(self)
        self._update_wrappers()

    def refresh(self) -> None:
        if self.shared and not self.closed:
            try:  # another process may have closed the circuit; the library notices that when it is asked
                _ = self.breaker.state
            except Exception as error:  # noqa: BLE001 - the storage may not be available
                self.log_error(self._name, error)

    # The library calls these within the breaker's lock.

    def before_call(self, breaker: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing before a call."""

    def success(self, breaker: Any) -> None:
        """Publish a successful call, if calls are published."""
        if self.calls:
            self.publish_success(self._name, failure_count=breaker.fail_counter)

    def failure(self, breaker: Any, error: BaseException) -> None:
        """Record a failed call, and publish it if calls are published."""
        self.record_failure(self._name, error)
        if self.calls:
            self.publish_failure(self._name, error, failure_count=breaker.fail_counter)

    def state_change(self, breaker: Any, old: Any, new: Any) -> None:
        """Publish a change of state."""
        self._changes += 1
        self._state = _state_name(new)
        self.publish_change(
            self._name,
            old and _state_name(old),
            self._state,
            failure_count=breaker.fail_counter,
            opened_at=self._opened_at_of(breaker),
            shared=self.shared,
        )
        self._update_wrappers()

    def _opened_at_of(self, breaker: Any) -> datetime | None:
        # Processes that share a storage agree on the time of opening, which has no public accessor.
        storage = getattr(breaker, "_state_storage", None)
        return as_utc(getattr(storage, "opened_at", None)) if self._is_open() else None

    def _is_open(self) -> bool:
        return self._state.lower() == BreakerState.OPEN

    def _update_wrappers(self) -> None:
        wrappers = self._wrappers
        if self._is_open() and not self.closed:
            if wrappers is None:
                self._wrappers = ExitStack()
                self.wrap_calls(self._wrappers)
        elif wrappers is not None:
            self._wrappers = None
            wrappers.close()

    def wrap_calls(self, undo: ExitStack) -> None:
        """Wrap the methods of the breaker that call the guarded function."""
        original = self.breaker.call

        def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with self.publishing_rejections():
                return original(func, *args, **kwargs)

        wrap_method(self.breaker, "call", call, undo)

    @contextmanager
    def publishing_rejections(self) -> Iterator[None]:
        """Publish a rejection that is raised within the context."""
        changes = self._changes
        try:
            yield
        except self.rejection as error:
            # After a change of state the call was not rejected: it was let through and failed.
            if changes == self._changes and self._wrappers is not None:
                self.publish_rejection(self._name, self._state, reason=describe(error))
            raise


def _state_name(state: Any) -> str:
    """Return the name of a state: a string, a member of an Enum, or an object that has one of these."""
    state = getattr(state, "state", state)
    return str(getattr(state, "name", state))
