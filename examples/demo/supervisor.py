"""`Supervisor`: starts the workers, and again those that have ended; `LeaseWatch`: who holds a lease."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import NamedTuple, Self

from codomyrmex.demo.errors import DemoError
from codomyrmex.demo.settings import READY, Settings
from codomyrmex.integrations.durable import DurableStream, StoreError

_STOP_TIMEOUT = 8.0  # seconds for a worker to end in order
_POLL_INTERVAL = 0.02  # seconds between two looks at the leases


class Supervisor:
    """Runs workers within a context, and starts another one in the place of each that has ended.

    Args:
        number: the number of workers.
        settings: what they are told.
        print_line: prints a line.
    """

    def __init__(self, number: int, settings: Settings, print_line: Callable[[str], None]) -> None:
        self._names = (f"worker-{position}" for position in count(1))
        self._settings = settings
        self._print_line = print_line
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ready = [asyncio.Event() for _ in range(number)]
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep(ready)) for ready in self._ready]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def wait_until_ready(self) -> None:
        """Wait until as many workers as there should be have started."""
        for ready in self._ready:
            await ready.wait()

    async def check(self) -> None:
        """Wait until `stop` is called, or raise a `DemoError` if a worker cannot start."""
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in ended:
            task.result()

    def kill(self, name: str) -> None:
        """Kill a worker with SIGKILL, if it runs."""
        if name in self._processes:
            self._processes[name].kill()

    async def stop(self) -> None:
        """End the workers in order, and kill those that do not end. Can be called twice."""
        self._stopping = True
        for kill in (False, True):
            for process in self._processes.values():
                process.kill() if kill else process.terminate()
            _, running = await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT)
            if not running:
                break
        for task in self._tasks:
            task.exception()  # which `check` has raised

    async def _keep(self, ready: asyncio.Event) -> None:
        """Run a worker, and then another one."""
        while not self._stopping:
            name = next(self._names)
            process = await self._start(name)
            self._processes[name] = process
            if self._stopping:  # in the meantime
                process.kill()
            assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101 - they are pipes
            with suppress(ConnectionError):  # it has ended
                process.stdin.write(json.dumps(self._settings).encode() + b"\n")
                await process.stdin.drain()
            started = await process.stdout.readline() == READY
            if started:
                ready.set()
            code = await process.wait()
            del self._processes[name]
            ready.clear()
            if self._stopping or code == -signal.SIGKILL:
                continue
            if not started:
                raise DemoError(f"{name} could not start")
            self._print_line(f"{name} has ended with exit code {code}")

    async def _start(self, name: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "codomyrmex.demo.child"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._settings.listener],
            process_group=0,  # Ctrl-C reaches this process only
            env={**os.environ, "CODOMYRMEX_PROCESS": name},
        )


class Takeover(NamedTuple):
    """A change of who holds the lease.

    Attributes:
        before: the name of the process that held it; None at first.
        after: the name of the process that holds it now.
        killed: whether the one before was killed.
        seconds: from the kill to the time when the lease was seen in other hands.
    """

    before: str | None
    after: str
    killed: bool
    seconds: float


class LeaseWatch:
    """Follows who holds a lease in the store of a stream.

    Args:
        stream: the stream.
        prefix: how the name of the lease begins.
        on_takeover: called with each change.
    """

    def __init__(self, stream: DurableStream, prefix: str, on_takeover: Callable[[Takeover], None]) -> None:
        self._stream = stream
        self._prefix = prefix
        self._on_takeover = on_takeover
        self._token = 0
        self._holder: str | None = None
        self._killed_at: float | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Look at the lease from time to time."""
        while True:
            with suppress(StoreError):  # the store is busy; what it has is seen later
                for lease in await self._stream.call(self._stream.store.leases(self._prefix)):
                    if lease.token > self._token:
                        self._token = lease.token
                        self._take(lease.owner.partition("#")[0])
            await asyncio.sleep(_POLL_INTERVAL)

    def _take(self, name: str) -> None:
        before, self._holder = self._holder, name
        killed_at, self._killed_at = self._killed_at, None
        seconds = 0.0 if killed_at is None else time.monotonic() - killed_at
        self._changed.set()
        self._on_takeover(Takeover(before, name, killed_at is not None, seconds))

    async def kill_holder(self, kill: Callable[[str], None]) -> None:
        """Kill the process that holds the lease, once there is one, and wait for the next one."""
        while self._holder is None:
            await self._next()
        self._killed_at = time.monotonic()
        kill(self._holder)
        await self._next()

    async def _next(self) -> None:
        self._changed.clear()
        await self._changed.wait()
