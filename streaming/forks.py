"""Forked processes: renewing state in the child.

The child has the memory of its parent but only one of its threads. A lock that another thread held stays
held forever, and a task belongs to a loop that never runs.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object with state that does not survive a fork."""

    def after_fork(self) -> None:
        """Renew the state; called in the child before anything else runs there."""


_first: WeakSet[Forkable] = WeakSet()
_last: WeakSet[Forkable] = WeakSet()


def renew_in_children(thing: Forkable, *, last: bool = False) -> None:
    """Call `thing.after_fork()` in forked processes; with `last` after the others, whose locks it uses."""
    (_last if last else _first).add(thing)


def _renew() -> None:
    for thing in (*_first, *_last):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # systems without it do not fork
    os.register_at_fork(after_in_child=_renew)
