"""The time that the tools for assistants take beyond the SDK's: computed results against prepared ones."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from codomyrmex.integrations import attach
from codomyrmex.integrations.mcp import LocalBackend, mcp_server
from codomyrmex.integrations.mcp.results import EventPage, GroupPage, WhyNotNotified
from codomyrmex.integrations.mcp.results import Result as ToolResult
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.streaming import EventType, InMemoryStream, create_event
from mcp import Client
from mcp.server.mcpserver import MCPServer
from measure import Result

LIMIT = 5.0  # milliseconds
CALLS, ROUNDS = 2, 41
ALERTS = 1_000
CONFIG = {"route": {"receiver": "ops", "group_by": ["service"]}, "receivers": [{"name": "ops"}]}
TOOLS: dict[str, tuple[type[ToolResult], dict[str, Any]]] = {
    "recent_events": (EventPage, {"limit": 10}),
    "alert_groups": (GroupPage, {"limit": 10}),
    "why_not_notified": (WhyNotNotified, {"labels": {"service": "s7"}}),
}


def tool_of(kind: type[ToolResult], result: ToolResult) -> Any:
    async def tool(limit: int = 0, labels: dict[str, str] | None = None) -> ToolResult:  # noqa: ARG001
        return result

    tool.__annotations__["return"] = kind
    return tool


def ready_made(results: dict[str, ToolResult]) -> MCPServer[Any]:
    """Return a server that measures the SDK alone: its tools return prepared results."""
    server = MCPServer[Any]("baseline")
    for name, (kind, _) in TOOLS.items():
        server.add_tool(tool_of(kind, results[name]), name=name)
    return server


@asynccontextmanager
async def clients() -> AsyncIterator[tuple[Client, Client]]:
    stream = InMemoryStream()
    sink = AlertSink(CONFIG)
    async with attach(stream, sink) as attachment:
        for number in range(ALERTS):
            labels = {"alertname": f"a{number}", "service": f"s{number % 20}", "host": f"host-{number}"}
            await stream.publish(create_event({"n": number}, EventType.ERROR, topic="jobs", labels=labels))
        await sink.flush()
        backend = LocalBackend(stream, attachment, sink)
        async with Client(mcp_server(backend)) as ours:
            results = {}
            for name, (kind, arguments) in TOOLS.items():
                answer = await ours.call_tool(name, arguments)
                results[name] = kind.model_validate(answer.structured_content)
            async with Client(ready_made(results)) as theirs:
                yield ours, theirs
        await backend.aclose()


async def milliseconds(client: Client, tool: str, arguments: dict[str, Any]) -> float:
    """Return the CPU time of a call, on which other programs on the machine have little influence."""
    started = time.process_time()
    for _ in range(CALLS):
        assert not (await client.call_tool(tool, arguments)).is_error
    return (time.process_time() - started) / CALLS * 1_000


async def costs() -> list[Result]:
    results = []
    async with clients() as (ours, theirs):
        for tool, (_, arguments) in TOOLS.items():
            rounds = [
                (await milliseconds(theirs, tool, arguments), await milliseconds(ours, tool, arguments))
                for _ in range(ROUNDS)
            ]
            extra = statistics.median(own - sdk for sdk, own in rounds)
            sdk, own = (statistics.median(each) for each in zip(*rounds, strict=True))
            results.append(
                Result(
                    f"tool {tool}, {ALERTS:,} alerts, beyond the time of the SDK",
                    f"{LIMIT:g} ms",
                    extra / LIMIT,
                    1.0,
                    rate=False,
                    detail=f"{extra:.2f} ms: {own:.2f} ms in all, and {sdk:.2f} ms for a prepared result",
                )
            )
    return results


def measure() -> Iterator[Result]:
    yield from asyncio.run(costs())
