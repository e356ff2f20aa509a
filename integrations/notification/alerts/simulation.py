"""A configuration in virtual time: what happens at which moment, and what would have been sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from codomyrmex.integrations.notification.alerts.alert import Alert
from codomyrmex.integrations.notification.alerts.config import AlertConfig
from codomyrmex.integrations.notification.alerts.engine import AlertEngine
from codomyrmex.integrations.notification.alerts.notification import Notification

Happening = Alert | Callable[[AlertEngine, float], None]  # an alert, or something that is done to the engine


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification that would have been sent.

    Args:
        at: seconds since 1970.
        notification: what.
        delivered: False if its receiver was said to fail.
    """

    at: float
    notification: Notification
    delivered: bool = True


def simulate(
    config: AlertConfig,
    happenings: Iterable[tuple[float, Happening]],
    until: float,
    *,
    failing: Collection[str] = (),
    engine: AlertEngine | None = None,
) -> list[Sent]:
    """Run a configuration in virtual time; delivering takes none.

    Args:
        config: the configuration.
        happenings: what happens, with the moment; in order.
        until: the last moment, in seconds since 1970.
        failing: the names of receivers that deliver nothing.
        engine: to go on with one that has run before.
    """
    engine = AlertEngine(config) if engine is None else engine
    sent: list[Sent] = []
    now = -math.inf

    def deliver(now: float) -> None:
        while due := engine.due(now):
            for notification in due:
                delivered = notification.receiver not in failing
                sent.append(Sent(now, notification, delivered))
                (engine.delivered if delivered else engine.failed)(notification, now)

    def run_up_to(moment: float) -> None:
        deadline = engine.next_deadline()
        while deadline is not None and deadline < moment:
            at = max(deadline, now)
            deliver(
                at if at > -math.inf else moment
            )  # an engine that was restored may have something at once
            deadline = engine.next_deadline()

    for at, happening in happenings:
        if at > until:
            break
        run_up_to(at)
        now = at
        if isinstance(happening, Alert):
            engine.observe([happening], now)
        else:
            happening(engine, now)
    run_up_to(until)
    deliver(until)
    return sent
