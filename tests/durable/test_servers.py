"""The servers that the tests of the stores start: whatever a test does to them, they keep their data."""

from __future__ import annotations

import socket
import time

import asyncpg
import nats
import psutil
import pytest
import redis.asyncio
from durable.servers import SERVERS, RedisServer
from helpers import DEADLINE


async def write(url: str) -> None:
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE kept AS SELECT 'value' AS value")
        await connection.close()
    elif url.startswith("redis"):
        async with redis.asyncio.from_url(url) as client:
            await client.set("kept", "value")
    else:
        client = await connect_nats(url)
        values = await client.jetstream().create_key_value(bucket="kept")
        await values.put("kept", b"value")
        await client.close()


async def read(url: str) -> str:
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        value = await connection.fetchval("SELECT value FROM kept")
        await connection.close()
        return value
    if url.startswith("redis"):
        async with redis.asyncio.from_url(url, decode_responses=True) as client:
            return await client.get("kept")
    client = await connect_nats(url)
    values = await client.jetstream().key_value("kept")
    entry = await values.get("kept")
    await client.close()
    return entry.value.decode()


async def connect_nats(url: str) -> nats.NATS:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    return await nats.connect(
        f"nats://{parts.hostname}:{parts.port}", user=parts.username, password=unquote(parts.password)
    )


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_keeps_its_data_and_its_url_when_it_is_killed_and_started_again(name, servers):
    server = servers.get(name)
    await write(server.url)
    server.kill()
    assert not server.running
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), 1)
    server.start()
    assert await read(server.url) == "value"
    server.stop()
    assert not server.running
    assert await read(servers.get(name).url) == "value"


@pytest.mark.parametrize("name", SERVERS)
def test_a_paused_server_takes_connections_and_answers_nothing_until_it_goes_on(name, servers):
    server = servers.get(name)
    server.pause()
    with socket.create_connection(("127.0.0.1", server.port), 0.1) as connection:
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    server.resume()
    assert server.ready()
    server.pause()
    assert servers.get(name).ready()


def test_a_server_of_its_own_has_its_settings_and_leaves_nothing_behind():
    with RedisServer(appendonly="no") as server:
        config = (server.folder / "server.conf").read_text()
        assert "appendonly no\n" in config
        [process] = [
            found
            for found in psutil.process_iter(["cmdline"])
            if str(server.port) in " ".join(found.info["cmdline"] or ())
        ]
    assert not server.folder.exists()
    deadline = time.monotonic() + DEADLINE
    while process.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.01)
