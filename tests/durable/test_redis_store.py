"""What only Redis has: URLs, checks of servers, warnings, restricted users, TLS, failovers, full memory."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from codomyrmex.integrations import MissingExtraError
from codomyrmex.integrations.durable import (
    LeaseLostError,
    RedisStore,
    Retention,
    StoreConfigError,
    StoreError,
    StoreUnavailableError,
    open_store,
)
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.durable.stores import redis_store
from durable.servers import PASSWORD, USER, RedisServer, Server, free_port
from helpers import DEADLINE
from redis.asyncio import Redis

LONG = 60.0
DURABLE = {"appendfsync": "always"}


class SentinelServer(RedisServer):
    """Redis Sentinel, which watches nothing."""

    def command(self) -> list[str]:
        config = self.folder / "server.conf"
        config.write_text(f"port {self.port}\nuser {USER} on >{PASSWORD} +@all\n")
        return [str(self.program()), str(config), "--sentinel"]


@asynccontextmanager
async def client(server: Server) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        yield client


async def refusal(url: str) -> str:
    with pytest.raises(StoreConfigError) as caught:
        await RedisStore(url).open()
    return str(caught.value)


async def used(store: RedisStore) -> None:
    """Use each operation."""
    await store.create_log("log")
    bounds = await store.bounds("log")
    await store.renew_epoch("log", bounds.epoch)
    assert await store.append("log", Batch("producer", 1, [b"x"] * 3)) == 1
    assert len(await store.read("log", 0, 10)) == 3
    await asyncio.gather(store.wait("log", 3, 0.05), store.wait("another", 0, 0.05))
    assert await store.trim("log", Retention(max_events=1), 3) == 2
    lease = await store.acquire("lease", "owner", LONG)
    await store.renew(lease, LONG)
    await store.save(lease, {"a": b"1", "b": None})
    assert await store.load("") == {"a": b"1"}
    assert await store.leases("") == [lease]
    await store.release(lease)
    assert await store.logs() == ["log"]


# URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://localhost/", "redis://localhost:6379/0"),
        ("redis://user:pass%40word@localhost:7/3", "redis://localhost:7/3"),
        ("redis://:password@[::1]:7", "redis://[::1]:7/0"),
        ("rediss://localhost?prefix=shop", "rediss://localhost:6379/0?prefix=shop"),
        ("redis://localhost?prefix=codomyrmex", "redis://localhost:6379/0"),
    ],
)
def test_a_url_is_shown_without_credentials(url, shown):
    store = RedisStore(url)
    assert store.url == shown
    assert isinstance(open_store(url), RedisStore)
    assert "pass" not in repr(store)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://localhost/0?prefix=a&timeout=3&ssl=1", "unknown parameters ssl, timeout"),
        ("redis://localhost?prefix=a&prefix=b", "prefix: can be used once, got it 2 times"),
        ("redis://localhost?prefix={a}", "prefix: must be"),
        ("redis://localhost?prefix=", "prefix: must be"),
        ("redis://one,two", "must name one host"),
        ("redis:///0", "must name one host"),
        ("redis://localhost/mydata", "malformed"),
        ("redis://localhost:port", "malformed"),
        ("redis://localhost?prefix", "malformed"),
        ("http://localhost", "malformed"),
    ],
)
def test_a_url_that_is_not_understood_is_refused(url, problem):
    with pytest.raises(StoreConfigError, match=problem):
        RedisStore(url)


@pytest.mark.parametrize("password", ["sec/ret", "sec?ret", "sec#ret", "sec/ret?x=1", "sec:ret/"])
def test_a_password_that_is_not_escaped_does_not_appear_in_the_error(password):
    with pytest.raises(StoreConfigError) as caught:
        RedisStore(f"redis://user:{password}@localhost:6379/0")
    assert "sec" not in str(caught.value)
    assert "ret" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_must_be_positive(timeout):
    with pytest.raises(ValueError, match="timeout: must be greater than 0"):
        RedisStore("redis://localhost", timeout=timeout)


async def test_stores_with_different_prefixes_do_not_share_anything(redis_server):
    async with RedisStore(redis_server.fresh_url()) as one, RedisStore(redis_server.fresh_url()) as other:
        await used(one)
        assert await other.logs() == []
        assert await other.load("") == {}


async def test_all_keys_begin_with_the_prefix_and_are_in_one_hash_slot(redis_server):
    url = redis_server.fresh_url()
    async with RedisStore(url) as store, client(redis_server) as redis:
        await used(store)
        prefix = url.rpartition("=")[2]
        keys = [key.decode() async for key in redis.scan_iter(f"*{prefix}*")]
        assert len(keys) >= 8
        assert all(key.startswith(f"{{{prefix}}}:") for key in keys)


def test_a_missing_driver_is_an_error_with_the_command_that_installs_it(monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == "redis" or ".durable.stores.redis_" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"RedisStore needs redis.*\[redis\]"):
        open_store("redis://localhost")


# The server


async def test_redis_cluster_is_refused():
    with RedisServer(**{"cluster-enabled": "yes"}) as server:
        assert "cluster mode is not supported; use the URL of a single server" in await refusal(server.url)


async def test_sentinel_is_refused():
    with SentinelServer() as server:
        assert "sentinel mode is not supported; use the URL of a single server" in await refusal(server.url)


async def test_a_replica_is_refused(redis_server):
    replication = {"masteruser": USER, "masterauth": PASSWORD}
    with RedisServer(replicaof=f"127.0.0.1 {redis_server.port}", **replication) as server:
        assert "the server is a replica; use the URL of the primary" in await refusal(server.url)


@pytest.fixture
async def fake_server() -> AsyncIterator[str]:
    """Answer as Redis 6.0 does; in database 1 as Redis 5, in database 2 as one that has just started."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        database = b"0"
        try:
            while line := await reader.readline():
                parts = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    parts.append((await reader.readexactly(size + 2))[:-2])
                if parts[0] == b"SELECT":
                    database = parts[1]
                if database == b"2":
                    writer.write(b"-LOADING Redis is loading the dataset in memory\r\n")
                elif parts[0] != b"HELLO":
                    writer.write(b"+OK\r\n")
                elif database == b"1":
                    writer.write(b"-ERR unknown command `HELLO`, with args beginning with: `2`, \r\n")
                else:
                    words = [b"server", b"redis", b"version", b"6.0.16", b"mode", b"standalone"]
                    words += [b"role", b"master"]
                    writer.write(b"*%d\r\n" % len(words))
                    writer.writelines(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_server_that_is_too_old_is_refused(fake_server):
    assert "Redis >= 6.2 is required, got 6.0.16; upgrade the server" in await refusal(f"{fake_server}/0")
    assert "Redis >= 6.2 and a database that exists are required" in await refusal(f"{fake_server}/1")


async def test_a_server_that_has_just_started_is_unavailable(fake_server):
    with pytest.raises(StoreUnavailableError, match="the server has just started and is loading its data"):
        await RedisStore(f"{fake_server}/2").open()


async def test_a_database_that_does_not_exist_is_refused(redis_server):
    assert "DB index is out of range" in await refusal(f"{redis_server.url}/9999")


async def test_keys_that_hold_other_data_are_refused(redis_server):
    url = redis_server.fresh_url()
    async with client(redis_server) as redis:
        await redis.set(f"{{{url.rpartition('=')[2]}}}:schema", "mine")
    assert "hold other data; choose another ?prefix=" in await refusal(url)


async def test_a_newer_schema_is_used_if_it_is_compatible_and_refused_if_not(redis_server):
    url = redis_server.fresh_url()
    key = f"{{{url.rpartition('=')[2]}}}:schema"
    async with client(redis_server) as redis:
        await redis.hset(key, mapping={"version": 7, "compatible_since": 1})
        async with RedisStore(url) as store:
            await used(store)
        assert await redis.hget(key, "version") == b"7"
        await redis.hset(key, "compatible_since", 2)
    assert "version 7" in await refusal(url)


async def test_a_wrong_password_and_a_missing_one_are_errors_of_the_configuration():
    with RedisServer() as server:
        place = f"127.0.0.1:{server.port}"
        for url in (f"redis://{USER}:wrong-one@{place}", f"redis://:wrong-one@{place}", f"redis://{place}"):
            problem = await refusal(url)
            assert "did not accept the user or the password" in problem
            assert "wrong-one" not in problem


# Warnings


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        (DURABLE, []),
        ({"appendonly": "no"}, ["there is no append-only file, so a restart"]),
        ({"appendfsync": "everysec"}, ["appendfsync is everysec, so a power failure loses the last second"]),
        ({"appendfsync": "no"}, ["appendfsync is no, so a power failure loses what the operating system"]),
        ({**DURABLE, "maxmemory-policy": "allkeys-lru"}, ["maxmemory-policy is allkeys-lru"]),
        ({**DURABLE, "maxmemory-policy": "volatile-lru"}, []),
        ({**DURABLE, "rename-command": 'CONFIG ""'}, ["CONFIG GET is not permitted"]),
        (
            {**DURABLE, "user": f"{USER} on >{PASSWORD} ~* +@all -@admin -@dangerous"},
            ["CONFIG GET is not permitted", "a failover to a replica may lose"],
        ),
    ],
)
async def test_what_the_server_does_not_preserve_is_in_the_warnings(settings, problems):
    with RedisServer(**settings) as server:
        async with RedisStore(server.url) as store:
            assert len(store.warnings) == len(problems)
            for warning, problem in zip(store.warnings, problems, strict=True):
                assert problem in warning
                assert PASSWORD not in warning


async def test_a_primary_with_replicas_warns_that_a_failover_may_lose_entries():
    with RedisServer(**DURABLE) as primary:
        replication = {"masteruser": USER, "masterauth": PASSWORD}
        with RedisServer(replicaof=f"127.0.0.1 {primary.port}", **replication):
            async with client(primary) as redis, asyncio.timeout(DEADLINE):
                while (await redis.info("replication"))["connected_slaves"] == 0:
                    await asyncio.sleep(0.02)
            async with RedisStore(primary.url) as store:
                [warning] = store.warnings
                assert "a failover to a replica may lose the newest entries" in warning


# Users, TLS


async def test_a_user_needs_few_commands_and_only_the_keys_of_the_prefix():
    rights = "+@read +@write +@scripting +@connection +time ~{shop}:*"
    with RedisServer(user=f"{USER} on >{PASSWORD} {rights}") as server:
        async with RedisStore(f"{server.url}?prefix=shop") as store:
            await used(store)
        assert "the user is not permitted to do this" in await refusal(f"{server.url}?prefix=another")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    return tmp_path


async def test_tls_checks_the_certificate_of_the_server(certificate, monkeypatch):
    port = free_port()
    settings = {
        "tls-port": str(port),
        "tls-cert-file": f"{certificate}/cert.pem",
        "tls-key-file": f"{certificate}/key.pem",
        "tls-ca-cert-file": f"{certificate}/cert.pem",
        "tls-auth-clients": "no",
    }
    with RedisServer(**settings) as server:
        url = server.url.replace("redis:", "rediss:").replace(f"127.0.0.1:{server.port}", f"localhost:{port}")
        assert "name a file with that of its authority in SSL_CERT_FILE" in await refusal(url)
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}/cert.pem")
        async with RedisStore(url) as store:
            await used(store)
        assert "IP address mismatch" in await refusal(url.replace("localhost", "127.0.0.1"))


# Faults


async def test_scripts_that_the_server_forgot_are_sent_again(redis_server):
    async with RedisStore(redis_server.fresh_url()) as store, client(redis_server) as redis:
        await redis.script_flush()
        await used(store)
        await redis.script_flush()
        assert await store.append("log", Batch("producer", 2, [b"x"])) == 4


async def test_a_server_that_becomes_a_replica_is_unavailable_until_it_is_the_primary_again():
    with RedisServer() as server:
        async with RedisStore(server.url) as store, client(server) as redis:
            await store.create_log("log")
            waiting = asyncio.create_task(store.wait("log", 0, LONG))
            await asyncio.gather(*(store.bounds("log") for _ in range(5)))  # several connections
            await redis.replicaof("127.0.0.1", str(free_port()))
            with pytest.raises(StoreUnavailableError):
                await waiting
            for operation in (
                lambda: store.read("log", 0, 1),  # which a replica would answer
                lambda: store.append("log", Batch("producer", 1, [b"x"])),
            ):
                with pytest.raises(StoreUnavailableError, match="the server is a replica"):
                    await operation()
            await redis.replicaof("NO", "ONE")
            assert await store.append("log", Batch("producer", 1, [b"x"])) == 1


async def test_a_server_whose_memory_is_full_refuses_entries_but_not_what_makes_room():
    with RedisServer(**DURABLE) as server:
        async with RedisStore(server.url) as store, client(server) as redis:
            await store.create_log("log")
            lease = await store.acquire("lease", "owner", LONG)
            await store.append("log", Batch("producer", 1, [bytes(100_000)] * 100))
            await redis.config_set("maxmemory", "2mb")
            with pytest.raises(StoreUnavailableError, match="has reached its maxmemory"):
                await store.append("log", Batch("producer", 2, [b"x"]))
            waiting = [asyncio.create_task(store.wait(log, 100, 1.0)) for log in ("log", "another")]
            await asyncio.gather(*waiting)
            await store.renew(lease, LONG)
            assert (await store.acquire("another", "owner", LONG)).token > lease.token
            await store.save(lease, {"position": b"90"})
            assert await store.load("") == {"position": b"90"}
            assert await store.trim("log", Retention(max_events=1), 90) == 90
            await redis.config_set("maxmemory", "100mb")
            assert await store.append("log", Batch("producer", 2, [b"x"])) == 101


async def test_a_server_that_lost_its_data_gives_no_token_again():
    with RedisServer(appendonly="no") as server:
        async with RedisStore(server.url) as store:
            lease = await store.acquire("lease", "owner", LONG)
            server.kill()
            server.start()
            with pytest.raises((LeaseLostError, StoreUnavailableError)):
                await store.save(lease, {"value": b"x"})
            again = await store.acquire("lease", "owner", LONG)
            assert again.token > lease.token
            with pytest.raises(LeaseLostError):
                await store.save(lease, {"value": b"x"})
            assert await store.bounds("log") is None
            with pytest.raises(StoreError, match="there is no log 'log'; create it first"):
                await store.append("log", Batch("producer", 1, [b"x"]))


async def test_a_log_whose_hash_was_evicted_begins_anew(redis_server):
    url = redis_server.fresh_url()
    async with RedisStore(url) as store, client(redis_server) as redis:
        await used(store)
        await redis.delete(f"{{{url.rpartition('=')[2]}}}:log:log")
        assert (await store.create_log("log"))[1:] == (1, 0, 0)
        assert await store.append("log", Batch("producer", 1, [b"new"])) == 1
        assert [entry.value for entry in await store.read("log", 0, 10)] == [b"new"]


async def test_a_batch_that_arrives_late_is_not_appended_again(redis_server):
    async with RedisStore(redis_server.fresh_url()) as store:
        await store.create_log("log")
        await store.append("log", Batch("producer", 1, [b"1"]))
        await store.append("log", Batch("producer", 2, [b"2"]))
        with pytest.raises(StoreError, match="batch 1 of producer 'producer' is older than its newest"):
            await store.append("log", Batch("producer", 1, [b"1"]))
        assert [entry.value for entry in await store.read("log", 0, 10)] == [b"1", b"2"]
        with pytest.raises(StoreError, match="there is no log 'another'; create it first"):
            await store.renew_epoch("another", "epoch")


async def test_a_server_that_misses_its_replicas_is_unavailable():
    missing = pytest.raises(StoreUnavailableError, match="the server cannot do this now")
    with RedisServer(**{"min-replicas-to-write": "1"}) as server, missing:
        await RedisStore(server.url).open()


# Waiting


async def test_waiting_for_one_log_does_not_delay_those_who_wait_for_others(redis_server, monkeypatch):
    monkeypatch.setattr(redis_store, "_BLOCK", LONG)  # only an entry ends a wait
    url = redis_server.fresh_url()
    async with RedisStore(url) as reader, RedisStore(url) as writer:
        names = [f"log{number}" for number in range(10)]
        for name in names:
            await writer.create_log(name)
        for number in range(1, 4):
            waiting = {}
            for name in names:
                waiting[name] = asyncio.create_task(reader.wait(name, number - 1, LONG))
                await asyncio.sleep(0.002)
            for name in names:
                assert not waiting[name].done()
                await writer.append(name, Batch("producer", number, [b"x"]))
                async with asyncio.timeout(DEADLINE):
                    await waiting[name]


async def test_a_wait_that_is_refused_leaves_the_connections_usable(redis_server):
    url = redis_server.fresh_url()
    async with RedisStore(url) as store, client(redis_server) as redis:
        await used(store)
        for number in range(3):
            await redis.set(f"{{{url.rpartition('=')[2]}}}:log:bad{number}", "mine")
        names = ["log", "bad0", "bad1", "bad2"]
        outcomes = await asyncio.gather(*(store.wait(name, 3, 1.0) for name in names), return_exceptions=True)
        assert all(isinstance(outcome, StoreConfigError) for outcome in outcomes)
        for _ in range(20):
            assert [entry.position for entry in await store.read("log", 0, 10)] == [3]
            assert await store.logs() == ["log"]


async def test_those_who_wait_share_one_connection(redis_server):
    async with RedisStore(redis_server.fresh_url()) as store, client(redis_server) as redis:
        before = len(await redis.client_list())
        waiting = [asyncio.create_task(store.wait(f"log{n % 20}", 0, 0.3)) for n in range(200)]
        await asyncio.sleep(0.1)
        assert len(await redis.client_list()) - before <= 2
        await asyncio.gather(*waiting)


async def test_a_log_that_was_emptied_from_outside_wakes_those_who_begin_anew(redis_server, monkeypatch):
    monkeypatch.setattr(redis_store, "_BLOCK", LONG)  # only an entry ends a wait
    url = redis_server.fresh_url()
    prefix = f"{{{url.rpartition('=')[2]}}}:"
    async with RedisStore(url) as reader, RedisStore(url) as writer, client(redis_server) as redis:
        await used(writer)
        longest = asyncio.create_task(reader.wait("log", 3, LONG))
        await asyncio.sleep(0.05)
        await redis.delete(*[f"{prefix}{name}:log" for name in ("log", "entries", "producers", "seen")])
        await writer.create_log("log")
        await writer.append("log", Batch("producer", 1, [b"x"]))
        waiting = asyncio.create_task(reader.wait("log", 1, LONG))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await writer.append("log", Batch("producer", 2, [b"x"]))
        async with asyncio.timeout(DEADLINE):
            await waiting
        longest.cancel()
        await asyncio.wait([longest])
