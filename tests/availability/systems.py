"""What is compared: a cluster of Alertmanagers, and processes that share a store. Both notify a `Hook`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from availability.hook import Hook
from availability.load import Change, Prometheus, Publisher
from codomyrmex.integrations.durable import open_store
from durable.servers import Server, free_port

PATIENCE = 60.0
ALERTMANAGER = shutil.which("prometheus-alertmanager")


class Settings(NamedTuple):
    """What both are run with.

    Attributes:
        group_wait, group_interval: of the root route, in seconds.
        options: of Alertmanager.
        resend: of Prometheus, in seconds.
        lease: of the processes, in seconds.
        away: how long a member stays killed or stopped.
    """

    group_wait: float
    group_interval: float
    options: tuple[str, ...]
    resend: float
    lease: float
    away: float


DEFAULTS = Settings(5, 50, (), resend=10, lease=10, away=20)
"""Those of the cluster and of a lease; the times of groups and of Prometheus are a sixth of the defaults."""

QUICK = Settings(
    1,
    10,
    (
        *("--cluster.peer-timeout=1s", "--cluster.gossip-interval=50ms", "--cluster.probe-interval=250ms"),
        *(
            "--cluster.probe-timeout=200ms",
            "--cluster.reconnect-interval=1s",
            "--cluster.pushpull-interval=5s",
        ),
    ),
    resend=2,
    lease=1,
    away=5,
)
"""As quick as both can sensibly be made; the times of groups and of Prometheus are a thirtieth."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.02)


class System(ABC):
    """Members that notify together; some of them may be killed or stopped."""

    def __init__(self, folder: Path, hook: Hook, settings: Settings, members: int) -> None:
        self.folder, self.hook, self.settings = folder, hook, settings
        self.names = [f"member-{number}" for number in range(1, members + 1)]
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.stopped: set[str] = set()

    @abstractmethod
    def start(self, name: str) -> None:
        """Start a member."""

    @abstractmethod
    def ready(self, name: str) -> bool: ...

    @abstractmethod
    def notifying(self) -> str:
        """Return the member that notifies now, while all is well."""

    @abstractmethod
    def publish(self, change: Change) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def route(self) -> dict[str, Any]:
        return {
            "receiver": "hook",
            "group_by": ["alertname"],
            "group_wait": f"{self.settings.group_wait * 1000:.0f}ms",
            "group_interval": f"{self.settings.group_interval * 1000:.0f}ms",
            "repeat_interval": "4h",
        }

    def open(self) -> None:
        for name in self.names:
            self.start(name)
        for name in self.names:
            wait_for(lambda name=name: self.ready(name), f"the start of {name}")

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def end(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGTERM)
        self.processes[name].wait(PATIENCE)

    def stop(self, name: str) -> None:
        self.stopped.add(name)
        self.processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)
        self.stopped.discard(name)

    def kill_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


class Alertmanagers(System):
    """A cluster on this machine, to which Prometheus posts."""

    def __init__(self, folder: Path, hook: Hook, settings: Settings, members: int = 2) -> None:
        super().__init__(folder, hook, settings, members)
        self.ports = {name: (free_port(), free_port()) for name in self.names}  # of the API, and of gossip
        self.client = httpx.Client(timeout=5)
        for name in self.names:
            config = {
                "route": self.route(),
                "receivers": [{"name": "hook", "webhook_configs": [{"url": hook.url(name)}]}],
            }
            (folder / f"{name}.yml").write_text(json.dumps(config))  # JSON is YAML
        self.prometheus: Prometheus | None = None

    def open(self) -> None:
        super().open()
        wait_for(lambda: len(self.status(self.names[0])["peers"]) == len(self.names), "the cluster")
        self.prometheus = Prometheus([self.url(name) for name in self.names], self.settings.resend)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name][0]}"

    def start(self, name: str) -> None:
        api, gossip = self.ports[name]
        peers = [f"--cluster.peer=127.0.0.1:{self.ports[other][1]}" for other in self.names if other != name]
        command = [
            *(str(ALERTMANAGER), f"--config.file={self.folder / name}.yml"),
            *(f"--storage.path={self.folder / name}", f"--web.listen-address=127.0.0.1:{api}"),
            *(f"--cluster.listen-address=127.0.0.1:{gossip}", *peers, *self.settings.options),
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def status(self, name: str) -> Any:
        return self.client.get(f"{self.url(name)}/api/v2/status").raise_for_status().json()["cluster"]

    def ready(self, name: str) -> bool:
        """Return whether a member has settled, after which it notifies."""
        try:
            return self.status(name)["status"] == "ready"
        except httpx.HTTPError:
            return False

    def notifying(self) -> str:
        """Return the member with the first name in the cluster, as the others wait for it."""
        found = {self.status(name)["name"]: name for name in self.names}
        return found[min(found)]

    def publish(self, change: Change) -> None:
        self.prometheus.publish(change)

    def close(self) -> None:
        if self.prometheus is not None:
            self.prometheus.close()
        self.kill_all()
        self.client.close()


class Member:
    """A process of this package, see `availability.member`."""

    def __init__(self, name: str, process: subprocess.Popen[str], answered: Callable[[int], None]) -> None:
        self.name, self.process, self.answered, self.started = name, process, answered, False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line == "started\n":
                self.started = True
            else:
                self.answered(int(line))

    def close(self) -> None:
        """Close the pipes of a process that has ended."""
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was written last has no reader
                pipe.close()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def silent(self) -> bool:
        """Return whether all that it has answered has been read, and nothing follows."""
        return not self._thread.is_alive()

    def ask(self, line: str) -> bool:
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except (OSError, ValueError):  # it was killed, or its pipe is closed already
            return False
        return True


class Processes(System):
    """Processes of an application that attach the same `AlertSink` to a stream in one store."""

    def __init__(
        self,
        folder: Path,
        hook: Hook,
        settings: Settings,
        members: int = 2,
        *,
        url: str,
        server: Server | None,
        chance: random.Random,
        when_away: str = "send",
        urls: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, hook, settings, members)
        self.url, self.server, self.urls = url, server, urls or {}
        self.running: dict[str, Member] = {}
        config = {
            "global": {"resolve_timeout": "1d"},
            "route": self.route(),
            "receivers": [{"name": "hook"}],
            "when_away": when_away,
        }
        (folder / "alerts.yaml").write_text(json.dumps(config))
        self.publisher = Publisher(chance, self.usable)
        self.lives = 0

    def usable(self) -> list[Member]:
        return [
            member
            for name, member in self.running.items()
            if member.started and member.alive and name not in self.stopped
        ]

    def start(self, name: str) -> None:
        self.lives += 1
        life = f"{name}.{self.lives}"
        with (self.folder / f"{life}.err").open("ab") as errors:
            self.processes[name] = subprocess.Popen(
                [
                    *(sys.executable, "-m", "availability.member", self.urls.get(name, self.url)),
                    *(str(self.folder), self.hook.url(life), life, str(self.settings.lease)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(__file__).parents[1]),
                    "CODOMYRMEX_PROCESS": life,
                },
            )
        if name in self.running:
            self.running[name].close()
        self.running[name] = Member(life, self.processes[name], self.publisher.answered)

    def ready(self, name: str) -> bool:
        member = self.running[name]
        assert member.alive, (self.folder / f"{member.name}.err").read_text()[-2000:]
        return member.started

    def notifying(self) -> str:
        async def ask() -> str:
            async with open_store(self.url) as store:
                while not (leases := await store.leases("events/group/alerts/shard/")):
                    await asyncio.sleep(0.05)
                return leases[0].owner

        return asyncio.run(ask()).partition("#")[0].rpartition(".")[0]

    def stop(self, name: str) -> None:
        """Stop a process; what happened in it before is published, as a stopped one has no incidents."""
        self.stopped.add(name)
        member = self.running[name]
        wait_for(lambda: not self.publisher.waits_for(member), "the answers")
        super().stop(name)

    def publish(self, change: Change) -> None:
        self.publisher.publish(change)

    def close(self) -> None:
        self.publisher.close()
        self.kill_all()
        for member in self.running.values():
            member.close()
