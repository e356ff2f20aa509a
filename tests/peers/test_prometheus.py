"""A real Prometheus scrapes two processes of a durable stream, and promtool checks what it gets."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager

import httpx
import pytest
from codomyrmex.integrations import DeliveryPolicy, Sink, attach
from codomyrmex.integrations.durable import DurableStream, SQLiteStore
from codomyrmex.integrations.web import metrics_app, serving
from codomyrmex.streaming import create_event
from durable.servers import free_port

PATIENCE = 30.0
POLICY = DeliveryPolicy(batch_age=0, batch_size=1, max_attempts=1_000, drain_timeout=0)


def program(name):
    """Return a program; skip if it is missing on a developer's machine, and fail in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is absent, and CI should have installed Debian's prometheus")
        pytest.skip(f"{name} (Debian's prometheus) is not installed here")
    return found


class Down(Sink):
    name = "pager"

    async def send(self, events):
        raise ConnectionError("down")


@asynccontextmanager
async def processes(path):
    """Yield two streams on one file, as two processes have them, and the addresses of their metrics."""
    async with (
        DurableStream(SQLiteStore(path)) as one,
        DurableStream(SQLiteStore(path)) as two,
        attach(one, Down(), policy=POLICY) as first,
        attach(two, Down(), policy=POLICY) as second,
        serving(metrics_app(first, one), port=0) as url_one,
        serving(metrics_app(second, two), port=0) as url_two,
    ):
        yield (one, two), (url_one, url_two)


async def test_promtool_has_nothing_to_say_about_the_metrics(tmp_path):
    promtool = program("promtool")
    async with processes(tmp_path / "events.db") as (streams, urls), httpx.AsyncClient() as client:
        await streams[0].publish(create_event(1))
        text = (await client.get(f"{urls[0]}metrics")).text
    command = [promtool, "check", "metrics"]
    done = await asyncio.to_thread(
        subprocess.run, command, input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@asynccontextmanager
async def prometheus(folder, urls):
    """Run a Prometheus that scrapes some URLs, and yield a function that asks it for a sum."""
    targets = ", ".join(f"'{url.split('/')[2]}'" for url in urls)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 200ms}\n"
        f"scrape_configs: [{{job_name: shop, static_configs: [{{targets: [{targets}]}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1/") as client:

            async def ask(query):
                try:
                    answer = await client.get("query", params={"query": query})
                except httpx.TransportError:
                    return None
                if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it is still starting
                    return None
                return {float(row["value"][1]) for row in answer.json().get("data", {}).get("result", [])}

            yield ask
    finally:
        process.kill()
        await process.wait()


async def test_prometheus_sums_the_lag_of_a_group_over_its_processes(tmp_path):
    async with (
        processes(tmp_path / "events.db") as (streams, urls),
        prometheus(tmp_path, urls) as ask,
        asyncio.timeout(PATIENCE),
    ):
        for number, stream in enumerate(streams):
            for _ in range(number + 2):
                await stream.publish(create_event(number))
        expected = {
            "sum(up)": 2,
            "sum(codomyrmex_sink_queued_events) + sum(codomyrmex_sink_in_flight_events)": 5,
            "sum(codomyrmex_stream_published_events_total)": 5,
            'sum(codomyrmex_sink_state{codomyrmex_sink_state="standby"})': 1,
            "min(codomyrmex_store_available)": 1,
        }
        for query, value in expected.items():
            while (found := await ask(query)) != {value}:
                assert found is None or len(found) <= 1, query
                await asyncio.sleep(0.1)
