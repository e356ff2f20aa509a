"""A process that forks: what must be made anew in the child.

The child has the memory of its parent but only one of its threads. A lock that another thread held is
held for ever, a task belongs to a loop that nobody runs, and what is queued is the parent's to send.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """What can be made anew."""

    def after_fork(self) -> None:
        """Called in the child, before anything else runs there."""


_first: WeakSet[Forked] = WeakSet()
_then: WeakSet[Forked] = WeakSet()


def renew_in_children(thing: Forked, *, last: bool = False) -> None:
    """Have `thing.after_fork()` called in every process that is forked from this one.

    Args:
        thing: what is made anew.
        last: it uses what others have to make anew before, such as their locks.
    """
    (_then if last else _first).add(thing)


def _renew() -> None:
    for thing in (*_first, *_then):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # there are systems without it, and these do not fork
    os.register_at_fork(after_in_child=_renew)
