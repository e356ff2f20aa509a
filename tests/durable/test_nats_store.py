"""What only `NatsStore` has: its URL, what it checks and warns of, and the limits of the server."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager

import nats
import pytest
from codomyrmex.integrations import MissingExtraError
from codomyrmex.integrations.durable import NatsStore, StoreConfigError, StoreError, StoreUnavailableError
from codomyrmex.integrations.durable.store import Batch, Retention
from durable.servers import PASSWORD, USER, NatsServer, need
from durable.stores import leaks
from helpers import DEADLINE

LONG = 60.0


class Server(NatsServer):
    """A server with other settings than those of JetStream, as text."""

    def __init__(self, text: str, *, jetstream: bool = True) -> None:
        super().__init__()
        self._text = text
        self._jetstream = jetstream

    def command(self) -> list[str]:
        command = super().command()
        config = self.folder / "server.conf"
        lines = config.read_text().splitlines()
        if not self._jetstream:
            lines = [line for line in lines if not line.startswith("jetstream")]
        if "accounts" in self._text:
            lines = [line for line in lines if not line.startswith("authorization")]
        config.write_text("\n".join([*lines, self._text]))
        return command

    def ready(self) -> bool:
        return super().ready() or (not self._jetstream and "Server is ready" in self.log.read_text())


@asynccontextmanager
async def scripted_server(**info):
    """Yield the port of a server that introduces itself as told, and the lines that it gets."""
    got = []

    async def serve(reader, writer):
        writer.write(f"INFO {json.dumps({'headers': True, 'max_payload': 1048576, **info})}\r\n".encode())
        while line := await reader.readline():
            got.append(line)
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], got


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nats://", "must be like nats://host:4222"),
        ("nats://host:port", "must be like nats://host:4222"),
        ("nats://one,,two", "must be like nats://host:4222"),
        ("http://host", "must be like nats://host:4222"),
        ("nats://host/path", "can follow the host"),
        ("nats://host#fragment", "can follow the host"),
        ("nats://host?schema=x&other=y", "unknown parameter other, schema"),
        ("nats://host?prefix=a&prefix=b", "can be used once"),
        ("nats://host?prefix=a.b", "prefix: must be 1 to 40 characters"),
        ("nats://host?prefix=", "prefix: must be 1 to 40 characters"),
        ("nats://host?replicas=0", "replicas: must be 1 to 5"),
        ("nats://user:s3c/ret@host", "percent-encoded"),
        ("nats://user:s3c#ret@host", "percent-encoded"),
    ],
)
def test_a_url_that_is_not_valid_is_refused_without_showing_it(url, problem):
    with pytest.raises(StoreConfigError, match=problem) as caught:
        NatsStore(url)
    assert not any(part in str(caught.value) for part in ("s3c", "ret@"))


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_the_timeout_is_greater_than_0(timeout):
    with pytest.raises(ValueError, match="timeout: must be greater than 0"):
        NatsStore("nats://host", timeout)


def test_the_url_keeps_the_hosts_and_the_parameters():
    store = NatsStore("nats://user:pass@one:4222,two?prefix=shop&replicas=3")
    assert store.url == "nats://one:4222,two?prefix=shop&replicas=3"
    assert "pass" not in repr(store)


def test_without_the_driver_the_error_names_the_extra(monkeypatch):
    for name in ("nats_link", "nats_leases", "nats_store"):
        monkeypatch.delitem(sys.modules, f"codomyrmex.integrations.durable.stores.{name}")
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(MissingExtraError, match=r"NatsStore needs nats-py.*\[nats\]"):
        __import__("codomyrmex.integrations.durable.stores.nats_store")


async def test_a_server_that_is_too_old_is_refused():
    async with scripted_server(version="2.12.0") as (port, _), asyncio.timeout(DEADLINE):
        with pytest.raises(StoreConfigError, match=r"2\.12\.1 or newer, got .*2\.12\.0"):
            await NatsStore(f"nats://127.0.0.1:{port}").open()


async def test_a_tls_url_sends_no_password_to_a_server_that_offers_no_tls():
    async with (
        scripted_server(version="2.15.0", auth_required=True) as (port, got),
        asyncio.timeout(DEADLINE),
    ):
        for user in ("user:s3cret@", "s3cret@", ""):
            with pytest.raises(StoreConfigError, match="does not offer TLS"):
                await NatsStore(f"tls://{user}127.0.0.1:{port}").open()
    assert b"s3cret" not in b"".join(got)


@pytest.fixture
def certificate(tmp_path):
    """Make a certificate of 127.0.0.1 that nobody trusts, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    need(shutil.which("openssl"), "openssl")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    return certificate, key


async def test_a_tls_url_uses_a_certificate_that_is_trusted_and_no_other(certificate, monkeypatch):
    cert, key = certificate
    with Server(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}') as server:
        url = server.fresh_url().replace("nats://", "tls://")
        with pytest.raises(StoreConfigError, match="certificate is not trusted") as caught:
            await NatsStore(url).open()
        assert not leaks(str(caught.value))
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        async with NatsStore(url) as store:
            await store.create_log("log")
            assert await store.append("log", Batch("producer", 1, [b"a"])) == 1


async def test_a_new_epoch_needs_a_log(nats_server):
    async with NatsStore(nats_server.fresh_url()) as store:
        with pytest.raises(StoreError, match="there is no log 'log'; create it first"):
            await store.renew_epoch("log", "epoch")


async def test_a_server_without_jetstream_is_refused():
    problem = "JetStream is not enabled; start nats-server with -js"
    with Server("", jetstream=False) as server, pytest.raises(StoreConfigError, match=problem):
        await NatsStore(server.url).open()


@pytest.mark.parametrize("user", ["", f"{USER}:wr0ng-s3cret@", "wr0ng-s3cret@"])
async def test_a_wrong_password_is_an_error_of_the_configuration(nats_server, user):
    with pytest.raises(StoreConfigError, match="the server refuses this user") as caught:
        await NatsStore(f"nats://{user}127.0.0.1:{nats_server.port}").open()
    assert "s3cret" not in f"{caught.value}{caught.value!r}"


async def test_a_user_who_may_not_use_jetstream_learns_what_is_not_allowed():
    users = '[{ user: u, password: p, permissions: { publish: "$JS.API.INFO" } }]'
    with Server(f"accounts {{ A {{ jetstream: enabled, users: {users} }} }}") as server:
        store = NatsStore(f"nats://u:p@127.0.0.1:{server.port}", timeout=0.5)
        with pytest.raises(StoreConfigError, match=r"(?i)permissions violation"):
            await store.open()


async def test_more_replicas_than_servers_are_refused(nats_server):
    with pytest.raises(StoreConfigError, match="replicas"):
        await NatsStore(nats_server.fresh_url(replicas="3")).open()


async def test_the_warnings_say_what_a_power_failure_takes_and_which_entries_are_refused(nats_server):
    async with NatsStore(nats_server.fresh_url()) as store:
        power, size = store.warnings
    assert "sync_interval is 'always'" in power
    assert "entries of more than 1,047,552 bytes are refused" in size
    assert not leaks(str(store.warnings))


async def test_an_entry_that_the_server_does_not_accept_is_refused_and_the_next_one_is_not(nats_server):
    async with NatsStore(nats_server.fresh_url()) as store:
        await store.create_log("log")
        with pytest.raises(
            StoreError, match=r"1,048,576 bytes .* max_payload of 1,048,576; raise it to 1,049,600"
        ):
            await store.append("log", Batch("producer", 1, [b"small", bytes(1024 * 1024)]))
        assert await store.append("log", Batch("producer", 2, [bytes(1024 * 1023)])) == 1


async def test_entries_of_1_mib_fit_if_the_server_takes_them():
    with Server("max_payload: 2MB") as server:
        async with NatsStore(server.fresh_url()) as store:
            assert len(store.warnings) == 1
            await store.create_log("log")
            entries = [bytes([number]) * 1024 * 1024 for number in range(3)]
            await store.append("log", Batch("producer", 1, entries))
            assert [entry.value for entry in await store.read("log", 0, 10)] == entries


async def test_a_batch_waits_while_the_server_takes_no_more_of_them(nats_server):
    url = nats_server.fresh_url()
    subject = f"{url.partition('prefix=')[2]}.entry.log"
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}", user=USER, password=PASSWORD)
    async with NatsStore(url) as store, NatsStore(url, timeout=0.2) as hasty:
        await store.create_log("log")
        begun = [{"Nats-Batch-Id": f"b{number}", "Nats-Batch-Sequence": "1"} for number in range(50)]
        for headers in begun:
            await client.publish(subject, b"", headers=headers)
        await client.flush()
        with pytest.raises(StoreUnavailableError):
            await hasty.append("log", Batch("hasty", 1, [b"a", b"b"]))
        waiting = asyncio.create_task(store.append("log", Batch("producer", 1, [b"a", b"b"])))
        for headers in begun[:5]:
            ends = {"Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
            await client.publish(subject, b"", headers={**headers, **ends})
        first = await waiting
        assert [entry.value for entry in await store.read("log", first - 1, 2)] == [b"a", b"b"]
    await client.close()


async def test_a_batch_that_was_trimmed_is_known_to_other_processes(nats_server):
    url = nats_server.fresh_url()
    async with NatsStore(url) as one, NatsStore(url) as other:
        await one.create_log("log")
        await one.append("log", Batch("producer", 1, [b"a", b"b"]))
        assert await one.trim("log", Retention(max_age=1e-9), 2) == 2
        assert await other.append("log", Batch("producer", 1, [b"a", b"b"])) == 1
        assert await other.append("log", Batch("producer", 2, [b"c"])) == 3


async def test_an_older_batch_than_the_newest_is_an_error(nats_server):
    async with NatsStore(nats_server.fresh_url()) as store:
        await store.create_log("log")
        await store.append("log", Batch("producer", 2, [b"a"]))
        with pytest.raises(StoreError, match="batch 1 of producer 'producer' is older than its newest"):
            await store.append("log", Batch("producer", 1, [b"a"]))


async def test_names_of_values_with_slashes_and_more_of_them_than_one_answer_has(nats_server):
    names = [
        "/",
        "//",
        "a",
        "a/",
        "a/b",
        "a//b",
        "a/b.c:d@e_f-g",
        "ab/c",
        *(f"many/{n}" for n in range(1_200)),
    ]
    async with NatsStore(nats_server.fresh_url()) as store:
        lease = await store.acquire("lease", "owner", LONG)
        for start in range(0, len(names), 500):
            await store.save(lease, {name: name.encode() for name in names[start : start + 500]})
        for prefix in ("", "/", "a", "a/", "a/b", "a//", "many/1", "many/", "none"):
            expected = {name: name.encode() for name in names if name.startswith(prefix)}
            assert await store.load(prefix) == expected, prefix
        await store.save(lease, dict.fromkeys(names[:900]))
        assert len(await store.load("")) == len(names) - 900


async def test_more_values_than_the_server_takes_in_one_step_are_an_error(nats_server):
    async with NatsStore(nats_server.fresh_url()) as store:
        lease = await store.acquire("lease", "owner", LONG)
        with pytest.raises(StoreError, match="raise the server's limit"):
            await store.save(lease, {f"value/{number}": b"" for number in range(1_000)})
        assert await store.load("") == {}
        await store.save(lease, {"value": b""})


async def test_a_newer_schema_is_used_if_it_is_compatible(nats_server):
    url = nats_server.fresh_url()
    async with NatsStore(url) as store:
        await store.create_log("log")
    stream = f"{url.partition('prefix=')[2]}=state"
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}", user=USER, password=PASSWORD)
    answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=DEADLINE)
    config = json.loads(answer.data)["config"]
    for since in ("1", "2"):
        config["metadata"] = {"version": "2", "compatible_since": since}
        await client.request(f"$JS.API.STREAM.UPDATE.{stream}", json.dumps(config).encode(), timeout=DEADLINE)
        if since == "1":
            async with NatsStore(url) as store:
                assert await store.logs() == ["log"]
    await client.close()
    with pytest.raises(StoreConfigError, match=r"of version 2, which this version .* install a newer one"):
        await NatsStore(url).open()


async def test_a_log_in_memory_is_warned_of(nats_server):
    url = nats_server.fresh_url()
    prefix = url.partition("prefix=")[2]
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}", user=USER, password=PASSWORD)
    config = {
        "name": f"{prefix}=state",
        "subjects": [f"{prefix}.{kind}.>" for kind in ("lease", "value", "producer")],
        "storage": "memory",
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "allow_atomic": True,
        "allow_direct": True,
    }
    await client.request(
        f"$JS.API.STREAM.CREATE.{prefix}=state", json.dumps(config).encode(), timeout=DEADLINE
    )
    await client.close()
    async with NatsStore(url) as store:
        assert any("is in memory" in warning for warning in store.warnings)
