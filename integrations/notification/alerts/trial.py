"""`try_receiver`: renders a test notification of a receiver, and sends it on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from codomyrmex.integrations.configuration.environment import Secret
from codomyrmex.integrations.delivery.errors import PartialDeliveryError
from codomyrmex.integrations.delivery.secrets import REPLACEMENT, clean, describe
from codomyrmex.integrations.notification.alerts.config import AlertConfig, Receiver
from codomyrmex.integrations.notification.alerts.config_file import CHANNEL_TYPES
from codomyrmex.integrations.notification.alerts.engine_runner import EngineRunner
from codomyrmex.integrations.notification.alerts.group import route_matches
from codomyrmex.integrations.notification.alerts.notification import (
    Kind,
    Notification,
    NotifiedAlert,
    Part,
    Reason,
    Status,
)
from codomyrmex.integrations.notification.channels import ChannelConfig, ChannelError, UndeliverableChannel
from codomyrmex.integrations.notification.receivers.http_channel import HttpReceiver
from codomyrmex.integrations.notification.receivers.receiver_config import ReceiverConfig
from codomyrmex.integrations.notification.templates import TemplateError
from codomyrmex.streaming import Clock, Event, create_event
from codomyrmex.streaming.clock import SYSTEM_CLOCK

_MARGIN = 5.0  # seconds beyond the timeout of a channel
_LASTED = 60.0  # seconds from the start of the alert to its end


@dataclass(frozen=True)
class ChannelTrial:
    """What a channel would send, without secrets, and the result of sending it.

    Args:
        channel: the name of the channel, such as `oncall[0]`.
        type: the type of the channel, such as `slack`.
        title: the title, for channels whose service composes the message.
        body: the body, for the same channels.
        fields: other fields for the service, such as the recipients of a mail.
        requests: the bodies of the requests of a native receiver.
        problem: why a part cannot be shown, or is only the default text, or the channel cannot deliver; None
            if there is no problem.
        can_deliver: whether nothing is known that prevents a delivery.
        sent: whether it was delivered; None if it was not sent.
        error: why it was not delivered.
    """

    channel: str
    type: str
    title: str = ""
    body: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[Any, ...] | None = None
    problem: str | None = None
    can_deliver: bool = True
    sent: bool | None = None
    error: str | None = None


async def try_receiver(
    config: AlertConfig,
    receiver: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    *,
    resolved: bool = False,
    send: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> list[ChannelTrial]:
    """Render a notification for each channel of a receiver, and send it once if `send` is true.

    Args:
        config: the configuration.
        receiver: the name of the receiver, which must exist.
        labels: the labels of the alert.
        annotations: the annotations of the alert.
        resolved: whether the alert is resolved.
        send: whether to send.
        clock: the source of time.
    """
    runner = EngineRunner(config, "send-test", clock)
    trials = []
    for channel in config.receivers[receiver].channels:
        alert = _alert(labels, annotations, clock.time(), resolved=resolved)
        notification = _notification(config, config.receivers[receiver], channel.name, alert)
        event = await runner.render(notification, create_event(None))
        trial = await asyncio.to_thread(_preview, channel, event)
        if runner.unrendered:
            trial = replace(trial, problem="a template failed, so this is the default text")
            runner.unrendered = 0
        if send:
            error = await _send(channel, event)
            trial = replace(trial, sent=error is None, error=error)
        trials.append(trial)
    return trials


def _alert(
    labels: Mapping[str, str], annotations: Mapping[str, str], now: float, *, resolved: bool
) -> NotifiedAlert:
    status = Status.RESOLVED if resolved else Status.FIRING
    ends_at = now if resolved else None
    return NotifiedAlert("send-test", status, labels, annotations, now - _LASTED, ends_at)


def _notification(
    config: AlertConfig, receiver: Receiver, channel: str, alert: NotifiedAlert
) -> Notification:
    """Return the notification of the first route that uses a receiver."""
    routes = config.route.walk()
    route = next((each for each in routes if each.receiver == receiver.name), config.route)
    [match] = route_matches([route], alert.labels)
    key = f"send-test/{match.group_key}"  # not the incident of a real group
    fired = alert.status is Status.FIRING
    prints = frozenset({alert.fingerprint})
    firing, resolved = (prints, frozenset[str]()) if fired else (frozenset[str](), prints)
    reason = Reason.FIRST if fired else Reason.ALL_RESOLVED
    part = Part(key, match.group_labels, reason, [alert], firing, resolved)
    return Notification(
        "send-test", Kind.GROUP, receiver.name, channel, route.path, route.labels, [part], alert.starts_at
    )


def _preview(channel: ChannelConfig, event: Event) -> ChannelTrial:
    """Return what a channel would send. Reads the files with secrets, which must not be shown."""
    kind = next((key for key, each in CHANNEL_TYPES.items() if type(channel) is each), "application")
    trial = ChannelTrial(channel.name, kind.removesuffix("_configs"))
    problem, hidden = None, set[str]()
    try:
        hidden = {secret for secret in _secrets(channel, channel) if secret}
    except ChannelError as error:
        problem = str(error)
    if isinstance(channel, UndeliverableChannel):
        return replace(trial, problem=channel.reason, can_deliver=False)
    if problem is None:
        problem = next((message for _, message in channel.findings()), None)
    if isinstance(channel, HttpReceiver) and problem is None:
        try:
            bodies = [json.loads(each.content) for each in channel.requests(event)]
            return replace(trial, requests=tuple(_without(body, hidden) for body in bodies))
        except (ChannelError, TemplateError) as error:
            problem = str(error)
    title, body, fields = (_without(event.metadata.get(key), hidden) for key in ("title", "body", "payload"))
    fields = fields if isinstance(fields, Mapping) else {}
    trial = replace(trial, problem=problem, can_deliver=problem is None)
    return replace(
        trial, title=title, body=body, fields={name.rstrip("_"): each for name, each in fields.items()}
    )


def _secrets(value: object, channel: ChannelConfig) -> Iterator[str]:
    """Yield the secrets in options, and in the files that options name."""
    if isinstance(value, Secret):
        yield str(value)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            option = getattr(value, name)
            if isinstance(option, str) and option and name.endswith("_file"):
                if isinstance(channel, ReceiverConfig):
                    yield str(channel.read_secret(option))
            else:
                yield from _secrets(option, channel)
    elif isinstance(value, (list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _secrets(item, channel)


def _without(value: Any, hidden: set[str]) -> Any:
    """Return plain data without secrets."""
    if isinstance(value, str):
        for secret in sorted(hidden, key=len, reverse=True):
            value = value.replace(secret, REPLACEMENT)
        return value
    if isinstance(value, Mapping):
        return {key: _without(item, hidden) for key, item in value.items()}
    return [_without(item, hidden) for item in value] if isinstance(value, (list, tuple)) else value


async def _send(channel: ChannelConfig, event: Event) -> str | None:
    """Send an event once, and return why it was not delivered; None if it was."""
    sink = channel.create()
    try:
        async with asyncio.timeout(channel.timeout + _MARGIN):
            await sink.open()
            try:
                await sink.send([event])
            finally:
                await sink.close()
    except PartialDeliveryError as error:
        return clean(str(error.failed[event.id])) if event.id in error.failed else None
    except ChannelError as error:
        return clean(str(error))
    except TimeoutError:
        return f"no answer within {channel.timeout + _MARGIN:g} s"
    except Exception as error:  # noqa: BLE001 - the other channels are tried too
        return describe(error)
    return None
