"""The client: it places orders, through a circuit breaker, each within a span, and publishes how it went."""

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

EVERY = 0.25  # seconds
TOO_SLOW = 0.3  # seconds
ITEMS = ("tea", "bread", "soap", "rice", "salt")


class Client:
    """Places orders until it is stopped. It is plain code on a thread, as most that calls services is.

    Args:
        host: of the service, with its port.
        stream: where the events go.
        tracer: makes the spans.
        retry_after: seconds that an open circuit waits before it tries again.

    Attributes:
        orders: how many were placed, have failed, or were refused by the breaker.
    """

    def __init__(self, host: str, stream: Stream, tracer: Tracer, retry_after: float) -> None:
        self.orders: Counter[str] = Counter()
        self._host = host
        self._stream = stream
        self._tracer = tracer
        self._alerts: set[str] = set()  # those that fire
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
            if self._stopped.wait(EVERY):
                break
        feed.detach()

    def stop(self) -> None:
        """Let it end."""
        self._stopped.set()

    def order(self, number: int) -> None:
        """Place an order and say how it went."""
        began = time.perf_counter()
        try:
            self._breaker.call(self._post, number)
        except pybreaker.CircuitBreakerError:
            self.orders["refused by the breaker"] += 1  # of which the breaker's feed tells
        except (OSError, HTTPException) as error:
            self.orders["failed"] += 1
            self._tell("failed", number, error=str(error))
            self._alert("OrdersFail", f"order {number} has failed: {error}", fires=True)
        else:
            took = time.perf_counter() - began
            self.orders["placed"] += 1
            self._tell("placed", number, seconds=round(took, 3))
            self._alert("OrdersFail", "orders are placed again", fires=False)
            self._alert("OrdersSlow", f"order {number} took {took:.2f} s", fires=took > TOO_SLOW)

    def _post(self, number: int) -> None:
        connection = HTTPConnection(self._host, timeout=5)
        try:
            connection.request("POST", f"/orders/{number}")
            answer = connection.getresponse()
        finally:
            connection.close()
        if answer.status >= 500:
            raise ConnectionError(f"{answer.status} {answer.reason}")

    def _tell(self, what: str, number: int, **details: Any) -> None:
        kind = EventType.ERROR if what == "failed" else EventType.MESSAGE
        data = {"order": number, "item": ITEMS[number % len(ITEMS)], **details}
        self._stream.publish_nowait(create_event(data, kind, topic=f"orders.{what}"))

    def _alert(self, name: str, summary: str, *, fires: bool) -> None:
        """Publish an alert when it begins and when it ends: labels say which, `status` whether it is over."""
        if fires == (name in self._alerts):
            return
        (self._alerts.add if fires else self._alerts.discard)(name)
        alert = create_event(
            {"summary": summary},
            EventType.ERROR if fires else EventType.MESSAGE,
            topic="orders.alert",
            labels={"alertname": name, "service": "orders", "severity": "warning"},
            annotations={"summary": summary},
            status="firing" if fires else "resolved",
        )
        self._stream.publish_nowait(alert)
