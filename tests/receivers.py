"""Helpers of the tests of receivers: alerts go through a real sink to a stand-in for the service."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from alert_channels import Running, ends, fires, routing, running
from codomyrmex.integrations import PartialDeliveryError, SinkHealth
from codomyrmex.integrations.notification import AlertConfigError, Finding, lint, load_alert_config
from codomyrmex.integrations.notification.channels import ChannelConfig
from codomyrmex.streaming import Event, create_event
from helpers import until

__all__ = ["attempted", "ends", "findings", "fires", "notes", "notifying", "outcome", "problems", "receiver"]


def receiver(key: str, *items: Mapping[str, Any], name: str = "ops", **more: Any) -> dict[str, Any]:
    """Return a configuration with one receiver."""
    return routing({"name": name, key: list(items)}, **more)


@asynccontextmanager
async def notifying(config: Any, *events: Event, **options: Any):
    """Publish events, pass the time until their notification, and yield the running sink."""
    async with running(config, None, drain_timeout=0, **options) as run:
        await run.publish(*(events or [fires("disk")]))
        await run.pass_time(30)
        yield run


async def attempted(run: Running) -> SinkHealth:
    """Wait for the first attempt of the only channel, and return its health."""

    def health() -> SinkHealth:
        [each] = run.sink.health().values()
        return each

    await until(lambda: health().last_error or health().last_success)
    return health()


async def outcome(config: Any, *events: Event) -> SinkHealth:
    """Return the health of the only channel after its first attempt."""
    async with notifying(config, *events) as run:
        return await attempted(run)


async def shown_by_errors(channel: ChannelConfig) -> list[str]:
    """Return all that a report of a failed delivery could show, the variables of its frames included."""
    sink = channel.create()
    await sink.open()
    try:
        with pytest.raises(PartialDeliveryError) as caught:
            await sink.send(
                [create_event({"groupKey": "{}:{}"}, title="t", body="b", payload={"channel": "#c"})]
            )
    finally:
        await sink.close()
    texts = []
    for error in caught.value.failed.values():
        frames = traceback.StackSummary.extract(
            traceback.walk_tb(error.__traceback__), capture_locals=True, lookup_lines=False
        )
        texts += [repr(error), *(f"{frame.name} {frame.locals}" for frame in frames)]
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
    return texts


def findings(config: Mapping[str, Any]) -> list[Finding]:
    return lint(load_alert_config(config, environ={}), 0)


def notes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what `check` notes, by path."""
    return {each.path: each.message for each in findings(config) if each.kind == "note"}


def problems(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with a configuration, by path."""
    try:
        load_alert_config(config, environ={})
    except AlertConfigError as error:
        return {each.path: each.message for each in error.problems}
    return {}
