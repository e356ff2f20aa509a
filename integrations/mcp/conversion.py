"""Converts the responses of a live page to results of tools. A page may be of another version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from codomyrmex.integrations.delivery.health import SinkState
from codomyrmex.integrations.mcp.backend import DEFAULT_STREAM, BackendError
from codomyrmex.integrations.mcp.results import (
    AlertItem,
    BreakerItem,
    BreakerList,
    EventItem,
    EventPage,
    GroupItem,
    GroupPage,
    PublishedEvent,
    Replayed,
    RouteExplanation,
    RouteStep,
    SilenceItem,
    SilencePage,
    SinkItem,
    SinkList,
    StreamInfo,
    WhyNotNotified,
)
from codomyrmex.integrations.notification.alerts.explain import MatcherResult, Setting

P = ParamSpec("P")
T = TypeVar("T")

_MAX_ROUTES = 100
_STATES = list(SinkState)


def _reading(read: Callable[P, T]) -> Callable[P, T]:
    """Raise a BackendError if a response does not have the expected form."""

    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            problem = f"the response of the live page is not the expected one ({type(error).__name__})"
            raise BackendError(f"{problem}; check that both have the same version") from None

    return checked


@_reading
def event_page(answer: Mapping[str, Any]) -> EventPage:
    """Return the events of a page."""
    return EventPage(
        events=[_event(item["cursor"], item["event"]) for item in answer["events"]],
        cursor=answer["cursor"],
        has_more=answer["has_more"],
        missed=answer["missed"],
    )


def _event(cursor: str, event: Mapping[str, Any]) -> EventItem:
    metadata = dict(event["metadata"])
    topic = metadata.pop("topic", None)
    return EventItem(
        cursor=cursor,
        id=event["id"],
        type=event["type"],
        topic=topic if topic is None else str(topic),
        timestamp=event["timestamp"],
        data=event["data"],
        metadata=metadata,
    )


@_reading
def stream_info(stream: Mapping[str, Any]) -> StreamInfo:
    """Return the stream of a page."""
    return StreamInfo(
        name=DEFAULT_STREAM,
        type=stream["type"],
        subscriber_count=stream["subscribers"],
        buffered_events=stream["kept"],
        buffer_capacity=stream["capacity"],
        topics=stream["topics"],
    )


@_reading
def group_page(answer: Mapping[str, Any]) -> GroupPage:
    """Return the groups that were found."""
    groups = [
        GroupItem.model_validate({**group, "alerts": list(map(_alert, group["alerts"]))})
        for group in answer["groups"]
    ]
    return GroupPage(groups=groups, total=answer["total"], has_more=answer["has_more"])


def _alert(alert: Mapping[str, Any]) -> AlertItem:
    return AlertItem.model_validate({**alert, "starts_at": alert["startsAt"], "ends_at": alert["endsAt"]})


@_reading
def explanation(answer: Mapping[str, Any]) -> RouteExplanation:
    """Return where an alert would be sent, with the routes that were visited."""
    steps: list[RouteStep] = []
    waiting = [answer["root"]]
    while waiting and len(steps) < _MAX_ROUTES:
        node = waiting.pop()
        waiting += reversed(node["children"])
        if not node["why"].startswith("not visited"):
            steps.append(_step(node))
    return RouteExplanation(
        labels=answer["labels"],
        at=answer["at"],
        receivers=answer["receivers"],
        routes=steps,
        has_more=bool(waiting),
    )


def _step(node: Mapping[str, Any]) -> RouteStep:
    match = node["match"] or {}
    return RouteStep(
        path=node["path"],
        line=node["line"],
        matched=node["matched"],
        why=node["why"],
        matchers=[str(MatcherResult(**result)) for result in node["matchers"]],
        receiver=match.get("receiver"),
        group_key=match.get("group_key"),
        group_labels=match.get("group_labels", {}),
        settings=[str(Setting(**setting)) for setting in match.get("settings", ())],
        notes=match.get("notes", ()),
    )


@_reading
def silence_page(answer: Mapping[str, Any]) -> SilencePage:
    """Return the silences that were found."""
    silences = list(map(silence_item, answer["silences"]))
    return SilencePage(silences=silences, total=answer["total"], has_more=answer["has_more"])


@_reading
def silence_item(silence: Mapping[str, Any]) -> SilenceItem:
    """Return a silence."""
    times = {name: _iso(silence[name]) for name in ("starts_at", "ends_at")}
    matchers = ", ".join(silence["matchers"])
    return SilenceItem.model_validate({**silence, **times, "matchers": matchers})


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@_reading
def published_event(answer: Mapping[str, Any]) -> PublishedEvent:
    """Return the event that was published."""
    return PublishedEvent(event_id=answer["id"], timestamp=answer["timestamp"])


@_reading
def replayed(answer: Mapping[str, Any]) -> Replayed:
    """Return how many dead letters were queued again."""
    return Replayed(replayed=answer["replayed"])


@_reading
def reasons(answer: Mapping[str, Any]) -> WhyNotNotified:
    """Return why nobody was notified."""
    return WhyNotNotified.model_validate(answer)


@_reading
def section(state: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return a section of a page's state.

    Raises:
        BackendError: the page does not have it, or could not read it.
    """
    if name in state["problems"]:
        raise BackendError(f"the {name} are not available: {state['problems'][name]}")
    if state[name] is None:
        raise BackendError(f"this live page has no {name}: none were passed to `dashboard`")
    return list(state[name])


@_reading
def sink_list(sinks: Sequence[Mapping[str, Any]], limit: int) -> SinkList:
    """Return the first sinks, those in the worst state first."""
    items = [SinkItem.model_validate(sink) for sink in sinks]
    items.sort(key=lambda item: -_STATES.index(SinkState(item.state)))
    return SinkList(sinks=items[:limit], total=len(items), has_more=len(items) > limit)


@_reading
def breaker_list(breakers: Sequence[Mapping[str, Any]], limit: int) -> BreakerList:
    """Return the first circuit breakers in their order, which is that of the board: open ones first."""
    items = [BreakerItem.model_validate(breaker) for breaker in breakers]
    return BreakerList(breakers=items[:limit], total=len(items), has_more=len(items) > limit)
