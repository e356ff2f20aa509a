"""`event_ingest` on a durable stream: what is acknowledged is in the store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from codomyrmex.integrations.durable import DurableStream, SQLiteStore, StoreUnavailableError
from codomyrmex.integrations.durable.store import Batch
from codomyrmex.integrations.web import event_ingest
from codomyrmex.streaming import Event
from helpers import DEADLINE, in_time


@pytest.fixture
async def stream(tmp_path: Path) -> AsyncIterator[DurableStream]:
    async with DurableStream(SQLiteStore(tmp_path / "events.db"), publish_timeout=DEADLINE) as stream:
        yield stream


async def post(stream: DurableStream, *values: object, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(event_ingest(stream, allowed_hosts=["*"], **options))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/", content=json.dumps(values))


async def stored(stream: DurableStream) -> list[Event]:
    return [record.event for record in await stream.read(limit=10_000)]


@in_time
async def test_events_are_in_the_store_in_their_order_when_they_are_acknowledged(stream: DurableStream):
    answer = await post(stream, *({"data": number, "id": str(number)} for number in range(1_000)))
    assert answer.status_code == 202
    assert answer.json() == {"ids": [str(number) for number in range(1_000)], "errors": []}
    assert [event.data for event in await stored(stream)] == list(range(1_000))


@in_time
async def test_an_invalid_event_is_reported_and_the_others_are_stored(stream: DurableStream):
    answer = await post(
        stream, {"data": 1, "id": "1"}, {"data": 2, "type": "unknown"}, {"data": 3, "id": "3"}
    )
    assert (answer.status_code, answer.json()["ids"]) == (202, ["1", "3"])
    assert [error["index"] for error in answer.json()["errors"]] == [1]
    assert [event.data for event in await stored(stream)] == [1, 3]


@in_time
async def test_events_that_are_too_large_for_the_store_are_a_413(stream: DurableStream):
    large, small = {"data": "x" * 1_100_000}, {"data": "small", "id": "small"}
    answer = await post(stream, large, max_bytes=8_000_000)
    assert answer.status_code == 413
    assert "the limit is 1048576" in answer.json()["errors"][0]["error"]
    answer = await post(stream, large, small, max_bytes=8_000_000)
    assert (answer.status_code, answer.json()["ids"]) == (202, ["small"])
    assert [event.data for event in await stored(stream)] == ["small"]


@in_time
async def test_without_the_store_events_are_a_503_and_can_be_posted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def append(log: str, batch: Batch) -> int:
        raise StoreUnavailableError("away")

    values = [{"data": number, "id": str(number)} for number in range(10)]
    async with DurableStream(SQLiteStore(tmp_path / "events.db"), publish_timeout=0.1) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(stream.store, "append", append)
            answer = await post(stream, *values)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["ids"] == []
        assert answer.json()["error"] == "the store of the stream is not available; try again later"
        while (answer := await post(stream, *values)).status_code == 503:
            assert answer.json()["ids"] == []
        assert answer.status_code == 202
        assert {event.id for event in await stored(stream)} == {value["id"] for value in values}
