"""`metrics_app` and `DeliveryCollector`, read with Prometheus's own parsers."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from codomyrmex.integrations import (
    DeliveryPolicy,
    DroppedError,
    InlineSink,
    PermanentError,
    Sink,
    SinkState,
    attach,
    attach_blocking,
)
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.logging_monitoring import DeliveryCollector
from codomyrmex.integrations.web import metrics_app, require_token, serving
from codomyrmex.streaming import InMemoryStream, Overflow, create_event
from helpers import until
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette
from starlette.routing import Mount

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
ONCE = DeliveryPolicy(batch_age=0, batch_size=1, max_attempts=1, breaker_failures=1_000)


class Pager(Sink):
    """A sink that refuses what is not a number."""

    def __init__(self, name="pager"):
        self.name = name

    async def send(self, events):
        if not isinstance(events[0].data, int):
            raise PermanentError("not a number")


class Hangs(Pager):
    """A sink whose service does not answer."""

    async def send(self, events):
        await asyncio.Event().wait()


class Picky(InlineSink):
    """A sink that leaves out events for reasons that are never the same."""

    name = "picky"

    def emit(self, event):
        raise DroppedError(f"reason {event.data}")


async def get(app, path="/metrics", method="GET", host="10.1.2.3:9090", **headers):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        return await client.request(method, path, headers=headers)


def samples(families):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def scrape(app):
    """Return the samples by name and labels, the same in both formats."""
    text, open_text = (await get(app)).text, (await get(app, accept=OPENMETRICS)).text
    read, openly_read = samples(parse_text(text)), samples(parse_openmetrics(open_text))
    assert read.keys() == openly_read.keys()
    return openly_read


def sink(name, sink="pager", **labels):
    return (f"codomyrmex_sink_{name}", *sorted({"sink": sink, **labels}.items()))


async def test_the_figures_of_an_attachment_are_metrics_in_both_formats():
    stream = InMemoryStream()
    async with attach(stream, Pager(), policy=ONCE) as attachment:
        app = metrics_app(attachment, stream)
        for data in (1, 2, "x"):
            await stream.publish(create_event(data))
        await until(lambda: attachment.health()["pager"].dead)
        figures = await scrape(app)
    assert figures[sink("delivered_events_total")] == 2
    assert figures[sink("dead_letters_total")] == 1
    assert figures[sink("retried_events_total")] == 0
    assert figures[sink("queued_events")] == figures[sink("in_flight_events")] == 0
    assert figures[sink("queue_capacity_events")] == ONCE.queue_size
    assert figures[sink("last_success_timestamp_seconds")] > 1.7e9
    assert figures[sink("last_loss_timestamp_seconds")] > 1.7e9
    assert figures["codomyrmex_stream_published_events_total",] == 3
    assert figures["codomyrmex_stream_subscribers",] == 1
    states = {state: figures[sink("state", codomyrmex_sink_state=state.value)] for state in SinkState}
    assert sum(states.values()) == states[SinkState.RETRYING] + states[SinkState.LOSING] == 1


async def test_the_content_type_is_what_the_client_asks_for():
    app = metrics_app(None, InMemoryStream())
    plain, wanted = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text"
    for accept, expected in (
        (OPENMETRICS, wanted),
        (wanted, wanted),
        ("application/openmetrics-text; version=9x", wanted),
        ("text/plain", plain),
        ("*/*", plain),
        ("", plain),
        ("application/openmetrics-text;q=0", plain),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.3", plain),
    ):
        response = await get(app, accept=accept)
        assert response.headers["content-type"].startswith(expected)
        assert response.headers["cache-control"] == "no-store"
        assert response.text.endswith("# EOF\n") is (expected == wanted)


async def test_dropped_events_are_counted_by_reason_and_lost_ones_when_the_sink_is_closed():
    stream = InMemoryStream()
    attachment = attach(stream, Hangs(), policy=DeliveryPolicy(queue_size=1, overflow=Overflow.DROP_NEWEST))
    app = metrics_app(attachment)
    stream.publish_nowait(create_event(1))
    async with attachment:
        for _ in range(3):
            stream.publish_nowait(create_event(1))
        figures = await scrape(app)
        assert figures[sink("dropped_events_total", reason="not_started")] == 1
        assert figures[sink("dropped_events_total", reason="queue_full")] == 2
        assert figures[sink("queued_events")] == 1
        assert sink("dropped_events_total", reason="lost") not in figures
        await attachment.aclose(0)
    assert (await scrape(app))[sink("dropped_events_total", reason="lost")] == 1


def test_a_blocking_attachment_has_metrics_in_a_registry_of_the_application():
    stream = InMemoryStream()
    registry = CollectorRegistry(auto_describe=True)
    with attach_blocking(stream, Pager(), policy=ONCE) as attachment:
        registry.register(DeliveryCollector(attachment, stream))
        stream.publish_nowait(create_event(1))
        assert attachment.flush(5)
        assert registry.get_sample_value("codomyrmex_sink_delivered_events_total", {"sink": "pager"}) == 1
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(DeliveryCollector(attachment, stream))


async def test_the_lag_of_a_group_is_exported_by_its_holder_only(tmp_path):
    class Stuck(Pager):
        async def send(self, events):
            raise ConnectionError("down")

    policy = DeliveryPolicy(batch_age=0, batch_size=1, max_attempts=1_000, drain_timeout=0)
    async with (
        DurableStream(SQLiteStore(tmp_path / "events.db")) as one,
        DurableStream(SQLiteStore(tmp_path / "events.db")) as two,
        attach(one, Stuck(), policy=policy) as first,
        attach(two, Stuck(), policy=policy) as second,
    ):
        await one.subscribe(lambda _: None, group="orders")
        await one.subscribe(lambda _: None, group="orders")
        for data in range(4):
            await one.publish(create_event(data))
        await until(lambda: two.tail.last == 4)
        await until(lambda: one.health().groups["orders"].delivered == 4)
        processes = [await scrape(metrics_app(first, one)), await scrape(metrics_app(second, two))]
        lags = [figures[sink("queued_events")] + figures[sink("in_flight_events")] for figures in processes]
        assert sorted(lags) == [0, 4]
        standby = [figures[sink("state", codomyrmex_sink_state="standby")] for figures in processes]
        assert sorted(standby) == [0, 1]
        assert [figures["codomyrmex_stream_published_events_total",] for figures in processes] == [4, 0]
        delivered = [processes[0][sink("delivered_events_total", name)] for name in ("orders", "orders#2")]
        assert sorted(delivered) == [0, 4]
        assert processes[0]["codomyrmex_store_available",] == 1
        assert processes[0]["codomyrmex_store_pending_events",] == 0


async def test_the_number_of_series_is_bounded_and_any_name_is_encoded():
    stream = InMemoryStream()
    names = ["pager\ud800\n\"'{}\\", *(f"sink {number}" for number in range(600))]
    async with attach(stream, Picky(), *map(Pager, names), policy=ONCE) as attachment:
        app = metrics_app(attachment)
        for data in range(150):
            stream.publish_nowait(create_event(data))
        assert await attachment.flush(30)
        figures = await scrape(app)
        assert await scrape(app) == figures
    delivered = {key[1][1]: value for key, value in figures.items() if "delivered" in key[0]}
    assert len(delivered) == 501
    assert delivered["pager\ufffd\n\"'{}\\"] == 150
    assert sum(delivered.values()) == 601 * 150
    reasons = [key for key in figures if key[0].endswith("dropped_events_total")]
    assert len(reasons) == 101
    assert sum(figures[key] for key in reasons) == 150
    assert len(figures) < 500 * 20 + 200


async def test_it_can_be_mounted_anywhere():
    app = metrics_app(None, InMemoryStream())
    for prefix, path in (("/internal", "/internal/metrics"), ("/metrics", "/metrics/"), ("", "/metrics")):
        response = await get(Starlette(routes=[Mount(prefix, app)]), path)
        assert "codomyrmex_stream_published_events_total 0.0" in response.text
    assert (await get(app, "/")).status_code == 200
    assert (await get(app, "/other")).status_code == 404
    assert (await get(app, method="POST")).status_code == 405
    head = await get(app, method="HEAD")
    assert (head.status_code, head.content) == (200, b"")


async def test_requests_for_other_names_are_refused_unless_they_are_allowed_or_authorized():
    stream = InMemoryStream()
    assert (await get(metrics_app(None, stream), host="[fd00::1]:9090")).status_code == 200
    assert (await get(metrics_app(None, stream), host="localhost")).status_code == 200
    refused = await get(metrics_app(None, stream), host="evil.example")
    assert (refused.status_code, "allowed_hosts" in refused.text) == (421, True)
    allowed = metrics_app(None, stream, allowed_hosts=["shop.default.svc"])
    assert (await get(allowed, host="shop.default.svc")).status_code == 200
    assert (await get(metrics_app(None, stream), origin="https://evil.example")).status_code == 403
    authorized = metrics_app(None, stream, authorize=require_token("t0ken"))
    assert (await get(authorized, host="shop.example")).status_code == 401
    assert (await get(authorized, host="shop.example", authorization="Bearer t0ken")).status_code == 200
    limited = metrics_app(None, stream, authorize=lambda _: "orders.*")
    assert (await get(limited)).status_code == 403


async def test_a_real_server_serves_them():
    app = metrics_app(None, InMemoryStream())
    async with serving(app, port=0, token="t0ken") as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/metrics")).status_code == 401
        response = await client.get("/metrics", headers={"authorization": "Bearer t0ken"})
        assert "codomyrmex_stream_subscribers 0.0" in response.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5,), r"attachment: must be what attach\(\) returned, got int"),
        ((None, 5), "stream: must be a Stream, got int"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(TypeError, match=message):
        metrics_app(*arguments)
