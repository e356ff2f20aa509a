"""The event loops of a parent process and their tasks, which a child process keeps and never runs.

Collecting one of the tasks would log "Task was destroyed but it is pending!", and collecting a loop would
close descriptors that the child shares with its parent.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from weakref import WeakSet

_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
_kept: list[object] = []


def keep_in_children(loop: asyncio.AbstractEventLoop) -> None:
    """Keep a loop and its tasks alive in every process that is forked from this one."""
    _loops.add(loop)


def _keep() -> None:
    tasks: list[object] = []
    _kept.append(tasks)
    for loop in tuple(_loops):
        with suppress(RuntimeError):  # its thread makes tasks all the time
            tasks += (loop, asyncio.all_tasks(loop))


if hasattr(os, "register_at_fork"):  # systems without it do not fork
    # Before the fork, as objects that renew themselves afterwards release their tasks.
    os.register_at_fork(before=_keep, after_in_parent=_kept.pop)
