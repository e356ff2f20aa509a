"""The demo itself: connects the shop to its log, its traces, its alerts and its live page."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import webbrowser
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from codomyrmex.demo.client import Client
from codomyrmex.demo.receiver import receiver
from codomyrmex.demo.service import FAILS_FROM, order_service
from codomyrmex.integrations import Binding, attach
from codomyrmex.integrations.logging_monitoring import OpenTelemetrySink, StructlogSink, stamp_trace_context
from codomyrmex.integrations.notification import AlertSink
from codomyrmex.integrations.service_mesh import CircuitBoard
from codomyrmex.integrations.web import dashboard, serving
from codomyrmex.streaming import InMemoryStream
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from structlog.typing import EventDict

ALERTS = Path(__file__).with_name("demo.alerts.yaml")
LOGGED = ("order", "error", "summary", "from_state", "to_state")  # fields of a payload
GREETING = """
A shop takes orders. Its backend fails for a while every {cycle:g} seconds, and for the first time after
{begin:g} seconds.

The live page:  {url}
  Events            every order and its result; click on one for its details
  Circuit breakers  "orders" opens when orders fail, tries again, and closes
  Alerts            what fires, who is notified, and why not: an open circuit inhibits failing orders
  Silences          can be added with the token  {token}

In another terminal:  {command} tail {url}api/events
For Kubernetes and Prometheus:  {url}readyz and {url}metrics
With three processes, of which one is killed every 20 seconds:  {command} demo --workers 3
Below are the log and the notifications of pager and chat. {end}
"""


async def run(*, port: int, cycle: float = 30.0, duration: float | None = None, browser: bool = True) -> bool:
    """Run the demo until Ctrl-C, SIGTERM or the end of its time.

    Args:
        port: the port of the live page.
        cycle: seconds from one failure of the backend to the next.
        duration: seconds until the demo ends; None for no limit.
        browser: whether to open the page in a browser.

    Returns:
        Whether every sink received every event.

    Raises:
        OSError: the port cannot be used.
    """
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows Ctrl-C is a KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    configure_log()
    stream, decisions = InMemoryStream(), InMemoryStream()
    stamp_trace_context(stream)
    exporter = CountingExporter()
    traces = TracerProvider()
    traces.add_span_processor(SimpleSpanProcessor(exporter))
    token = secrets.token_urlsafe(6)

    with (
        receiver(print_line) as (address, notifications),
        order_service(cycle) as host,
        CircuitBoard(stream) as board,
    ):
        os.environ["DEMO_RECEIVER"] = address  # used by the alert file
        alerts = AlertSink(ALERTS, audit=decisions)
        client = Client(host, stream, traces.get_tracer("demo"), retry_after=cycle / 6)
        only_alerts = Binding(alerts, filter_fn=lambda event: "labels" in event.metadata)
        # The state of an open circuit is published again each minute, outside any trace.
        traced = Binding(OpenTelemetrySink(), filter_fn=lambda event: "traceparent" in event.metadata)
        async with attach(stream, StructlogSink(), traced, only_alerts) as attachment:
            page = dashboard(
                stream,
                attachment,
                alerts,
                board,
                audit=decisions,
                allow_actions=token,
                title="codomyrmex-streaming demo",
                signals=False,
            )
            async with serving(page, port=port) as url:
                print_line(greeting(url, token, cycle, duration))
                if browser:
                    await asyncio.to_thread(webbrowser.open, url)
                ordering = asyncio.create_task(asyncio.to_thread(client.run))
                ending = asyncio.create_task(ended.wait())
                await asyncio.wait({ordering, ending}, timeout=duration, return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                client.stop()
                await ordering
            report = await attachment.aclose()
    traces.shutdown()
    print_line("")
    print_line(f"orders: {format_counts(client.orders)}")
    print_line(f"spans: {exporter.spans}, with {exporter.events} events")
    print_line(f"notifications: {format_counts(notifications)}")
    for name, sink in report.sinks.items():
        print_line(f"{name}: {sink.delivered} events delivered, {sink.given_up + sink.lost} lost")
    return report.complete


def greeting(url: str, token: str, cycle: float, duration: float | None) -> str:
    """Return what is printed at the start."""
    name = "codomyrmex-streaming"
    script = Path(os.path.relpath(sys.executable)).with_name(name)  # in an environment that is not active
    command = script if shutil.which(name) is None and script.exists() else name
    end = "Press Ctrl-C to end the demo." if duration is None else f"It ends after {duration:g} seconds."
    begin = cycle * FAILS_FROM
    return GREETING.format(url=url, token=token, begin=begin, cycle=cycle, command=command, end=end)


def print_line(text: str) -> None:
    """Print a line in one write, because several threads print."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def format_counts(counts: Counter[str]) -> str:
    """Return counts as one line."""
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "none"


# The log


def configure_log() -> None:
    """Configure structlog to write short lines to the console."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("%H:%M:%S", utc=False),
            shorten,
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=32),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )


def shorten(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Drop the many orders that succeed or are refused, and shorten the other lines."""
    data = line["data"]
    if line["event"] == "orders.placed" or data.get("kind") == "rejected":
        raise structlog.DropEvent
    kept = {name: line[name] for name in ("timestamp", "level", "event")}
    kept |= {name: data[name] for name in LOGGED if data.get(name) is not None}
    return kept if "trace_id" not in line else {**kept, "trace": line["trace_id"][:8]}


# The traces


class CountingExporter(SpanExporter):
    """Counts spans, in place of an exporter to a collector."""

    def __init__(self) -> None:
        self.spans = self.events = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Count spans and their events."""
        self.spans += len(spans)
        self.events += sum(len(span.events) for span in spans)
        return SpanExportResult.SUCCESS
