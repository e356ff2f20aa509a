"""The command `mcp` as a process: a client of the SDK uses it, and it ends when it should."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from codomyrmex.integrations.web import dashboard, require_token
from codomyrmex.streaming import create_event
from event_server import Server
from mcp_process import COMMAND, PATIENCE, Assistant, assisting

TOKEN = "s3cret"
LEAVES = "the assistant ends with a request on its way"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture(scope="module")
def alone() -> Iterator[Assistant]:
    """One process for all tests without a live page."""
    with assisting() as assistant:
        yield assistant


def test_streams_can_be_created_published_to_and_subscribed_to(alone):
    assert alone.result("stream_create", name="orders") == {
        "status": "created",
        "stream_name": "orders",
        "stream_type": "in_memory",
    }
    subscribed = alone.result("stream_subscribe", stream_name="orders", topic="orders.*")
    for topic in ("orders.placed", "other.topic"):
        published = alone.result("stream_publish", stream_name="orders", data={"n": 1}, topic=topic)
        assert published["status"] == "published"
    read = alone.result("stream_read", subscription_id=subscribed["subscription_id"])
    assert [(event["topic"], event["data"]) for event in read["events"]] == [("orders.placed", {"n": 1})]
    status = alone.result("stream_status", stream_name="orders")
    assert status["streams"][0]["subscriber_count"] >= 1
    assert "there is already a stream 'orders'" in alone.error("stream_create", name="orders")


def test_a_wait_for_events_ends_with_the_next_event(alone):
    cursor = alone.result("recent_events")["cursor"]

    async def wait() -> Any:
        call = alone.client.call_tool
        waiting = asyncio.ensure_future(call("wait_for_events", {"cursor": cursor, "topic": "late"}))
        await call("stream_publish", {"stream_name": "default", "data": 7, "topic": "late"})
        return (await waiting).structured_content

    assert [event["data"] for event in alone.run(wait())["events"]] == [7]


def test_without_a_page_there_are_no_alerts_and_no_actions_on_them(alone):
    assert "there is no alert sink" in alone.error("why_not_notified", labels={"service": "orders"})
    names = {tool.name for tool in alone.run(alone.client.list_tools()).tools}
    assert not {"add_silence", "expire_silence", "replay_dead_letters"} & names


def test_a_page_that_is_down_is_one_sentence_until_it_is_up():
    server = Server()
    page = dashboard(server.stream, authorize=require_token(TOKEN), signals=False)
    with assisting("--url", server.url, CODOMYRMEX_TOKEN=TOKEN) as assistant:
        problem = assistant.error("recent_events")
        assert problem.startswith(f"{server.url}: cannot be reached (ConnectError)")
        server.up(page)
        server.run(server.stream.publish(create_event({"n": 1}, topic="a")))
        [event] = assistant.result("recent_events")["events"]
        assert event["data"] == {"n": 1}
        server.end()
        assert "cannot be reached" in assistant.error("recent_events")


def start(*options: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "CODOMYRMEX_TOKEN"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *options], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def send(process: subprocess.Popen[bytes], *messages: Any) -> None:
    assert process.stdin is not None
    for message in messages:
        process.stdin.write((message if isinstance(message, str) else json.dumps(message)).encode() + b"\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def finish(process: subprocess.Popen[bytes], end: Any) -> tuple[int, bytes, bytes]:
    """End a process in one way; return its exit code, and what is left of its stdout and stderr."""
    assert process.stdin is not None
    assert process.stdout is not None
    if end is LEAVES:
        process.stdout.close()
        send(process, {"jsonrpc": "2.0", "id": 4, "method": "tools/list"})
        process.stdin.close()
        assert process.stderr is not None
        with process.stderr:
            return process.wait(PATIENCE), b"", process.stderr.read()
    if end is not None:  # stdin stays open
        process.send_signal(end)
        process.wait(PATIENCE)
    output, messages = process.communicate(timeout=PATIENCE)
    return process.returncode, output, messages


def test_only_the_protocol_goes_to_stdout_and_every_end_is_orderly():
    ends: list[Any] = [None, LEAVES, signal.SIGTERM, signal.SIGINT]
    processes = [start() for _ in ends]
    try:
        for process in processes:
            send(process, INITIALIZE)
        for process, end in zip(processes, ends, strict=True):
            assert answer(process)["result"]["serverInfo"]["name"] == "codomyrmex-streaming"
            send(process, {"jsonrpc": "2.0", "method": "notifications/initialized"}, "this is no JSON")
            waiting = {"name": "wait_for_events", "arguments": {"timeout": 30}}
            send(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": waiting})
            send(process, {"jsonrpc": "2.0", "id": 3, "method": "tools/list"})
            while (found := answer(process)).get("id") != 3:  # every line is JSON
                assert found["jsonrpc"] == "2.0"
            code, output, messages = finish(process, end)
            assert code == 0, messages
            assert all(json.loads(line)["jsonrpc"] == "2.0" for line in output.splitlines())
            assert b"Traceback" not in messages
    finally:
        for process in processes:
            process.kill()
            process.wait()
