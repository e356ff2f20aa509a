"""The demo itself: it ties the shop to its log, its traces, its alerts and its live page."""

from __future__ import annotations

import asyncio
import os
import secrets
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
SHOWN = ("order", "error", "summary", "from_state", "to_state")  # of a payload, in the log
GREETING = """
A shop takes orders. Its back end fails for a while every {cycle:g} seconds, for the first time in {begin:g}.

The live page:  {url}
  Events            every order, and what comes of it; click on one to see all of it
  Circuit breakers  "orders" opens when orders fail, tries again, and closes
  Alerts            what fires, who is told, and why not: an open circuit explains that orders fail
  Silences          may be added here with the token  {token}

In another terminal:  codomyrmex-streaming tail {url}api/events
Below is the log, and what pager and chat get. Ctrl-C ends the demo.
"""


async def run(*, port: int, cycle: float = 30.0, duration: float | None = None, browser: bool = True) -> bool:
    """Run the demo until Ctrl-C, SIGTERM or the end of its time.

    Args:
        port: of the live page.
        cycle: seconds from one failure of the back end to the next.
        duration: seconds until it ends by itself.
        browser: whether to open the page in a browser.

    Returns:
        Whether every event arrived everywhere.

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

    with receiver(say) as (address, arrived), order_service(cycle) as host, CircuitBoard(stream) as board:
        os.environ["DEMO_RECEIVER"] = address  # which stands in the alert file
        alerts = AlertSink(ALERTS, audit=decisions)
        client = Client(host, stream, traces.get_tracer("demo"), retry_after=cycle / 6)
        only_alerts = Binding(alerts, filter_fn=lambda event: "labels" in event.metadata)
        async with attach(stream, StructlogSink(), OpenTelemetrySink(), only_alerts) as attachment:
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
                say(GREETING.format(url=url, token=token, begin=cycle * FAILS_FROM, cycle=cycle))
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
    say("")
    say(f"orders: {in_words(client.orders)}")
    say(f"spans: {exporter.spans}, with {exporter.events} events")
    say(f"notifications: {in_words(arrived)}")
    for name, sink in report.sinks.items():
        say(f"{name}: {sink.delivered} events delivered, {sink.given_up + sink.lost} lost")
    return report.complete


def say(text: str) -> None:
    """Print, in one write, as several threads do."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def in_words(counts: Counter[str]) -> str:
    """Give counts in a line."""
    return ", ".join(f"{number} {what}" for what, number in counts.most_common()) or "none"


# The log


def configure_log() -> None:
    """Have structlog write short lines to the console."""
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
    """Leave out the many orders that are placed or refused, and of the other lines what would be too wide."""
    data = line["data"]
    if line["event"] == "orders.placed" or data.get("kind") == "rejected":
        raise structlog.DropEvent
    kept = {name: line[name] for name in ("timestamp", "level", "event")}
    kept |= {name: data[name] for name in SHOWN if data.get(name) is not None}
    return {**kept, "trace": line["trace_id"][:8]}


# The traces


class CountingExporter(SpanExporter):
    """Stands where the exporter to a collector would be, and counts."""

    def __init__(self) -> None:
        self.spans = self.events = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take spans."""
        self.spans += len(spans)
        self.events += sum(len(span.events) for span in spans)
        return SpanExportResult.SUCCESS
