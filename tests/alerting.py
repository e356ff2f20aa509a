"""What the tests of the alert engine have in common: short configurations, steps, and lines to read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from codomyrmex.integrations.notification import (
    Alert,
    AlertConfig,
    AlertEngine,
    Sent,
    load_alert_config,
    simulate,
)
from codomyrmex.integrations.notification.alerts.simulation import Step

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
NIGHT = {  # from 22:00 to 07:00 UTC; second 0 of the tests is midnight
    "name": "night",
    "time_intervals": [
        {
            "times": [
                {"start_time": "22:00", "end_time": "24:00"},
                {"start_time": "00:00", "end_time": "07:00"},
            ]
        }
    ],
}


def channel(**options: Any) -> dict[str, Any]:
    return {"url": "json://127.0.0.1", **options}


def config(
    *,
    receivers: Collection[dict[str, Any]] = ({"name": "a", "apprise_configs": [channel()]},),
    resolve_timeout: str = "30d",
    rules: Collection[dict[str, Any]] = (),
    max_alerts: int = 1000,
    **root: Any,
) -> AlertConfig:
    """Load a configuration: group_wait 10 s, group_interval 1 min, repeat_interval 1 h, one receiver `a`."""
    times = {"group_wait": "10s", "group_interval": "1m", "repeat_interval": "1h"}
    return load_alert_config(
        {
            "global": {"resolve_timeout": resolve_timeout, "max_alerts": max_alerts},
            "route": {"receiver": next(iter(receivers))["name"], **times, **root},
            "receivers": receivers,
            "inhibit_rules": rules,
            "time_intervals": [NIGHT],
        }
    )


def receiver(name: str, *channels: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"name": name, "apprise_configs": channels or [channel()], **options}


def fires(name: str, *, since: float | None = None, **labels: str) -> Alert:
    return Alert({"n": name, **labels}, starts_at=since)


def ends(name: str, **labels: str) -> Step:
    return lambda engine, now: engine.observe([Alert({"n": name, **labels}, ends_at=now)], now)


def run(
    of: AlertConfig,
    *steps: tuple[float, Step],
    until: float,
    failing: Collection[str] = (),
    engine: AlertEngine | None = None,
) -> list[str]:
    """Run in virtual time, and return a line for each notification; see `line` for its format."""
    return lines(simulate(of, steps, until, failing=failing, engine=engine))


def lines(sent: Iterable[Sent]) -> list[str]:
    return [line(each) for each in sent]


def line(sent: Sent) -> str:
    """Return a line like `10 a: first notification: x y, end of z`; a second channel is `a[1]`."""
    notification = sent.notification
    where = notification.channel.removesuffix("[0]")
    kind = "" if notification.kind == "group" else f" ({notification.kind})"
    firing = sorted(each.labels.get("n", "-") for each in notification.alerts if each.status == "firing")
    gone = sorted(each.labels.get("n", "-") for each in notification.alerts if each.status == "resolved")
    alerts = ", ".join(
        f"{what}{' '.join(names)}" for what, names in (("", firing), ("end of ", gone)) if names
    )
    lost = "" if sent.delivered else ", lost"
    return f"{sent.at:g} {where}{kind}: {notification.reason}: {alerts}{lost}"
