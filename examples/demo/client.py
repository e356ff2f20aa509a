"""The client: places orders through a circuit breaker, each in a span, and publishes the results."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from itertools import count
from typing import Any

import pybreaker
from codomyrmex.integrations.service_mesh import attach_pybreaker
from codomyrmex.streaming import EventType, Stream, create_event
from opentelemetry.trace import Tracer

INTERVAL = 0.25  # seconds
SLOW = 0.3  # seconds
ITEMS = ("tea", "bread", "soap", "rice", "salt")


class Client:
    """Places orders until it is stopped. It is plain code on a thread, like most code that calls services.

    Args:
        host: the host and port of the service.
        stream: receives the events.
        tracer: starts the spans.
        retry_after: seconds until an open circuit breaker tries again.

    Attributes:
        orders: how many orders were placed, failed, or were refused by the circuit breaker.
    """

    def __init__(self, host: str, stream: Stream, tracer: Tracer, retry_after: float) -> None:
        self.orders: Counter[str] = Counter()
        self._host = host
        self._stream = stream
        self._tracer = tracer
        self._alerts: set[str] = set()  # the alerts that are firing
        self._stopped = threading.Event()
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=3, reset_timeout=retry_after, name="orders", throw_new_error_on_trip=False
        )

    def run(self) -> None:
        """Place orders until `stop` is called."""
        with self._tracer.start_as_current_span("start"):
            feed = attach_pybreaker(self._breaker, self._stream, service="orders")
        for number in count(1):
            with self._tracer.start_as_current_span("order"):
                self.order(number)
            if self._stopped.wait(INTERVAL):
                break
        feed.close()

    def stop(self) -> None:
        """End `run` after the present order."""
        self._stopped.set()

    def order(self, number: int) -> None:
        """Place an order and publish the result."""
        began = time.perf_counter()
        try:
            self._breaker.call(self._post, number)
        except pybreaker.CircuitBreakerError:
            self.orders["refused by the breaker"] += 1  # the feed of the breaker publishes these
        except (OSError, HTTPException) as error:
            self.orders["failed"] += 1
            self._publish("failed", number, error=str(error))
            self._alert("OrdersFail", f"order {number} failed: {error}", firing=True)
        else:
            took = time.perf_counter() - began
            self.orders["placed"] += 1
            self._publish("placed", number, seconds=round(took, 3))
            self._alert("OrdersFail", "orders succeed again", firing=False)
            self._alert("OrdersSlow", f"order {number} took {took:.2f} s", firing=took > SLOW)

    def _post(self, number: int) -> None:
        connection = HTTPConnection(self._host, timeout=5)
        try:
            connection.request("POST", f"/orders/{number}")
            answer = connection.getresponse()
        finally:
            connection.close()
        if answer.status >= 500:
            raise ConnectionError(f"{answer.status} {answer.reason}")

    def _publish(self, result: str, number: int, **details: Any) -> None:
        kind = EventType.ERROR if result == "failed" else EventType.MESSAGE
        data = {"order": number, "item": ITEMS[number % len(ITEMS)], **details}
        self._stream.publish_nowait(create_event(data, kind, topic=f"orders.{result}"))

    def _alert(self, name: str, summary: str, *, firing: bool) -> None:
        """Publish an alert when it starts and when it ends: the labels identify it, `status` says which."""
        if firing == (name in self._alerts):
            return
        (self._alerts.add if firing else self._alerts.discard)(name)
        alert = create_event(
            {"summary": summary},
            EventType.ERROR if firing else EventType.MESSAGE,
            topic="orders.alert",
            labels={"alertname": name, "service": "orders", "severity": "warning"},
            annotations={"summary": summary},
            status="firing" if firing else "resolved",
        )
        self._stream.publish_nowait(alert)
