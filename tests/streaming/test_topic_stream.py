"""`TopicStream`: a buffer for each topic, and two orders of arguments."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from codomyrmex.streaming import (
    Event,
    InMemoryStream,
    StreamClosedError,
    StreamProcessor,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.testing import collect
from helpers import DEADLINE, shown
from hypothesis import given, settings
from hypothesis import strategies as st

EVENT = create_event(1)
BOTH_PUBLISHES = pytest.mark.parametrize("nowait", [False, True], ids=["publish", "publish_nowait"])


async def publish(stream: TopicStream, *args: Any, nowait: bool = False, **named: Any) -> None:
    if nowait:
        stream.publish_nowait(*args, **named)
    else:
        await stream.publish(*args, **named)


async def used(stream: TopicStream, *topics: str) -> None:
    for topic in topics:
        await stream.publish(topic, create_event(topic))


def ignore(event: Event) -> None:
    """Do nothing."""


# Publishing


@BOTH_PUBLISHES
@pytest.mark.parametrize(
    "call",
    [
        lambda event: (("user.signup", event), {}),
        lambda event: (("user.signup",), {"event": event}),
        lambda event: ((event,), {"topic": "user.signup"}),
        lambda event: ((), {"topic": "user.signup", "event": event}),
    ],
    ids=["topic, event", "topic, event=", "event, topic=", "topic=, event="],
)
async def test_a_topic_given_to_publish_becomes_the_topic_of_the_event(call, nowait):
    stream = TopicStream()
    event = create_event(1, source="web")
    args, named = call(event)
    with collect(stream, "user.signup") as events:
        await publish(stream, *args, nowait=nowait, **named)
    [received] = events
    assert received.metadata == {"source": "web", "topic": "user.signup"}
    assert (received.id, received.data, received.timestamp) == (event.id, event.data, event.timestamp)
    assert stream.get_recent_events("user.signup") == [received]


@BOTH_PUBLISHES
@pytest.mark.parametrize(
    "call",
    [lambda event: ((event,), {}), lambda event: ((), {"event": event})],
    ids=["event", "event="],
)
async def test_an_event_alone_goes_to_its_own_topic_and_is_not_copied(call, nowait):
    stream = TopicStream()
    event = create_event(1, topic="user.signup")
    args, named = call(event)
    await publish(stream, *args, nowait=nowait, **named)
    [kept] = stream.get_recent_events("user.signup")
    assert kept is event


@pytest.mark.parametrize("metadata", [{}, {"topic": "other"}, {"topic": 5}], ids=str)
async def test_an_event_that_gets_another_topic_is_copied_and_stays_as_it_was(metadata):
    stream = TopicStream()
    event = create_event([1], **metadata)
    before = copy.deepcopy(event)
    await stream.publish("mine", event)
    [kept] = stream.get_recent_events("mine")
    assert kept.topic == "mine"
    assert kept is not event
    assert kept.metadata is not event.metadata
    assert event == before
    assert stream.list_topics() == ["mine"]


async def test_an_event_that_has_the_topic_already_is_not_copied():
    stream = TopicStream()
    event = create_event(1, topic="mine")
    await stream.publish("mine", event)
    assert stream.get_recent_events("mine")[0] is event


@BOTH_PUBLISHES
async def test_an_event_without_a_topic_cannot_be_published_alone(nowait):
    stream = TopicStream()
    with pytest.raises(ValueError, match="topic"):
        await publish(stream, create_event(1), nowait=nowait)
    assert stream.list_topics() == []
    assert stream.statistics().published == 0


@BOTH_PUBLISHES
@pytest.mark.parametrize("topic", ["", "a..b", ".", "a.", "*", ">", "a.*", "a.>", "a.>.b", 5, None, ["a"]])
@pytest.mark.parametrize("given_as", ["argument", "keyword", "metadata"])
async def test_a_pattern_or_a_malformed_topic_cannot_be_published_to(topic, given_as, nowait):
    if topic is None and given_as != "metadata":
        pytest.skip("None says that there is no topic argument")
    stream = TopicStream()
    event = create_event(1, topic=topic) if given_as == "metadata" else create_event(1)
    args = (topic, event) if given_as == "argument" else (event,)
    named = {"topic": topic} if given_as == "keyword" else {}
    with pytest.raises(ValueError):
        await publish(stream, *args, nowait=nowait, **named)
    assert stream.list_topics() == []


@BOTH_PUBLISHES
@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), {}),
        (("a",), {}),
        (("a", "b"), {}),
        (("a", {"data": 1}), {}),
        ((), {"topic": "a"}),
        (("a", EVENT), {"topic": "b"}),
        ((EVENT, EVENT), {}),
        ((EVENT, EVENT), {"topic": "a"}),
        (("a",), {"evnt": EVENT}),
    ],
    ids=lambda value: str(value).replace(str(EVENT), "EVENT"),
)
async def test_publish_refuses_too_little_and_too_much(args, named, nowait):
    stream = TopicStream()
    with pytest.raises((TypeError, ValueError)):
        await publish(stream, *args, nowait=nowait, **named)
    assert stream.list_topics() == []


@pytest.mark.parametrize("topic", ["*x", "a*", "a.b>", "ü", "a b", "A.a", "1", "a." * 50 + "a"])
async def test_a_topic_may_have_any_other_tokens(topic):
    stream = TopicStream()
    with collect(stream, topic) as events:
        await stream.publish(topic, create_event(1))
    assert [event.topic for event in events] == [topic]


# Subscribing


def wants_even(event: Event) -> bool:
    return event.data % 2 == 0


@pytest.mark.parametrize(
    "subscribe",
    [
        lambda stream, handler: stream.subscribe("a", handler, wants_even),
        lambda stream, handler: stream.subscribe(handler, "a", wants_even),
        lambda stream, handler: stream.subscribe("a", handler, filter_fn=wants_even),
        lambda stream, handler: stream.subscribe(handler, "a", filter_fn=wants_even),
        lambda stream, handler: stream.subscribe("a", handler=handler, filter_fn=wants_even),
        lambda stream, handler: stream.subscribe(handler, topic="a", filter_fn=wants_even),
        lambda stream, handler: stream.subscribe(handler=handler, topic="a", filter_fn=wants_even),
        lambda stream, handler: stream.subscribe(filter_fn=wants_even, topic="a", handler=handler),
    ],
    ids=[
        "topic, handler, filter",
        "handler, topic, filter",
        "topic, handler, filter_fn=",
        "handler, topic, filter_fn=",
        "topic, handler=, filter_fn=",
        "handler, topic=, filter_fn=",
        "handler=, topic=, filter_fn=",
        "filter_fn=, topic=, handler=",
    ],
)
async def test_every_spelling_of_subscribe_means_the_same(subscribe):
    stream = TopicStream()
    handled: list[Event] = []
    subscription = await subscribe(stream, handled.append)
    for number in range(4):
        await stream.publish("a", create_event(number))
        await stream.publish("b", create_event(number))
    assert [(event.topic, event.data) for event in handled] == [("a", 0), ("a", 2)]
    assert (subscription.topic, subscription.filter_fn) == ("a", wants_even)


@pytest.mark.parametrize("named", [False, True])
async def test_a_handler_alone_gets_everything(named):
    stream = TopicStream()
    handled: list[Event] = []
    await (stream.subscribe(handler=handled.append) if named else stream.subscribe(handled.append))
    await used(stream, "a", "b.c")
    assert [event.topic for event in handled] == ["a", "b.c"]


async def test_an_async_handler_is_done_when_publish_returns():
    stream = TopicStream()
    handled: list[Event] = []

    async def handler(event: Event) -> None:
        await asyncio.sleep(0)
        handled.append(event)

    await stream.subscribe("a", handler=handler)
    await used(stream, "a")
    assert len(handled) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("user.*", ["user.signup", "user.login"]),
        ("user.>", ["user.signup", "user.login", "user.login.failed"]),
        ("*.login", ["user.login"]),
        ("*.*.failed", ["user.login.failed"]),
        (">", ["user", "user.signup", "user.login", "user.login.failed", "order"]),
        ("*", ["user", "user.signup", "user.login", "user.login.failed", "order"]),
        ("user", ["user"]),
    ],
)
@pytest.mark.parametrize("first", ["topic", "handler"])
async def test_patterns_are_subscribed_to_in_both_forms(pattern, expected, first):
    stream = TopicStream()
    handled: list[Event] = []
    if first == "topic":
        await stream.subscribe(pattern, handler=handled.append)
    else:
        await stream.subscribe(handled.append, topic=pattern)
    await used(stream, "user", "user.signup", "user.login", "user.login.failed", "order")
    assert [event.topic for event in handled] == expected


@pytest.mark.parametrize("topic", ["", "a..b", "a.", "a.>.b", ">.a"])
@pytest.mark.parametrize("first", ["topic", "handler"])
async def test_a_malformed_pattern_is_refused_at_subscribe(topic, first):
    stream = TopicStream()
    with pytest.raises(ValueError):
        await (stream.subscribe(topic, ignore) if first == "topic" else stream.subscribe(ignore, topic))
    assert stream.statistics().subscribers == 0
    assert stream.list_topics() == []


async def test_a_topic_that_is_not_a_string_is_refused_at_subscribe():
    with pytest.raises(ValueError):
        await TopicStream().subscribe(ignore, topic=5)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), {}),
        (("a",), {}),
        (("a", "b"), {}),
        ((ignore, ignore), {}),
        (("a", ignore), {"topic": "b"}),
        (("a", ignore), {"handler": ignore}),
        (("a", 5), {}),
        (("a", ignore, 5), {}),
        (("a",), {"handler": "b"}),
        (("a", ignore), {"last_event_id": "1"}),
    ],
    ids=shown,
)
async def test_subscribe_refuses_too_little_and_too_much(args, named):
    stream = TopicStream()
    with pytest.raises(TypeError):
        await stream.subscribe(*args, **named)
    assert stream.statistics().subscribers == 0
    assert stream.list_topics() == []


async def test_an_ended_subscription_gets_nothing_more():
    stream = TopicStream()
    handled: list[Event] = []
    by_id = await stream.subscribe("a", handler=handled.append)
    by_itself = await stream.subscribe("a", handler=handled.append)
    assert await stream.unsubscribe(by_id.id) is True
    assert await stream.unsubscribe(by_id.id) is False
    by_itself.cancel()
    by_itself.cancel()
    await used(stream, "a")
    assert handled == []
    assert stream.statistics().subscribers == 0


# Topics and their buffers


async def test_topics_are_listed_in_the_order_of_first_use():
    stream = TopicStream()
    await used(stream, "c", "a", "c", "b", "a")
    assert stream.list_topics() == ["c", "a", "b"]


async def test_a_subscription_uses_a_topic_too_but_a_pattern_is_none():
    stream = TopicStream()
    await used(stream, "z")
    for topic in ("b", "*", "a.*", ">", "a.>", "a"):
        await stream.subscribe(topic, handler=ignore)
    await used(stream, "a", "c")
    assert stream.list_topics() == ["z", "b", "a", "c"]


async def test_the_list_of_topics_is_the_callers_own():
    stream = TopicStream()
    await used(stream, "a")
    stream.list_topics().clear()
    assert stream.list_topics() == ["a"]


async def test_each_topic_has_its_own_buffer():
    stream = TopicStream(buffer_size=2)
    for number in range(5):
        await stream.publish("busy", create_event(number))
    await stream.publish("quiet", create_event("q"))
    assert [event.data for event in stream.get_recent_events("busy")] == [3, 4]
    assert [event.data for event in stream.get_recent_events("quiet")] == ["q"]
    assert stream.statistics().buffered == 3


@pytest.mark.parametrize(
    ("count", "expected"), [(2, [3, 4]), (5, [0, 1, 2, 3, 4]), (99, [0, 1, 2, 3, 4]), (0, []), (-1, [])]
)
async def test_recent_events_are_the_newest_oldest_first(count, expected):
    stream = TopicStream()
    for number in range(5):
        await stream.publish("a", create_event(number))
    assert [event.data for event in stream.get_recent_events("a", count)] == expected


async def test_the_default_count_of_recent_events_is_ten():
    stream = TopicStream()
    for number in range(15):
        await stream.publish("a", create_event(number))
    assert [event.data for event in stream.get_recent_events("a")] == list(range(5, 15))


async def test_a_topic_that_nobody_used_has_no_events_and_stays_unlisted():
    stream = TopicStream()
    assert stream.get_recent_events("a") == []
    assert stream.list_topics() == []


async def test_without_a_buffer_events_are_still_delivered():
    stream = TopicStream(buffer_size=0)
    with collect(stream, "a") as events:
        await used(stream, "a")
    assert len(events) == 1
    assert stream.get_recent_events("a") == []


# The bound on topics


async def test_the_topic_idle_for_longest_goes_at_the_bound():
    stream = TopicStream(max_topics=3)
    await used(stream, "a", "b", "c", "a", "d")
    assert stream.list_topics() == ["a", "c", "d"]
    assert stream.get_recent_events("b") == []
    assert len(stream.get_recent_events("a")) == 2


async def test_a_dropped_topic_starts_over_when_it_is_used_again():
    stream = TopicStream(max_topics=2)
    await used(stream, "a", "b", "c", "a")
    assert stream.list_topics() == ["c", "a"]
    assert len(stream.get_recent_events("a")) == 1


@pytest.mark.parametrize("when", ["before its first event", "after its last event"])
async def test_a_subscribed_topic_stays_while_another_can_go(when):
    stream = TopicStream(max_topics=2)
    if when == "before its first event":
        await stream.subscribe("a", handler=ignore)
    await used(stream, "a")
    if when == "after its last event":
        await stream.subscribe("a", handler=ignore)
    await used(stream, "b", "c", "d")
    assert stream.list_topics() == ["a", "d"]
    assert len(stream.get_recent_events("a")) == 1


@pytest.mark.parametrize("way", ["listen", "collect", "subscribe_nowait"])
async def test_a_subscribed_topic_is_kept_however_it_was_subscribed(way):
    stream = TopicStream(max_topics=2)
    await used(stream, "a", "b")
    match way:
        case "listen":
            async with stream.listen("a"):
                await used(stream, "c")
        case "collect":
            with collect(stream, "a"):
                await used(stream, "c")
        case "subscribe_nowait":
            stream.subscribe_nowait(ignore, "a")
            await used(stream, "c")
    assert stream.list_topics() == ["a", "c"]


async def test_the_bound_holds_even_where_every_topic_is_subscribed():
    stream = TopicStream(max_topics=2)
    handled: list[Event] = []
    for topic in ("a", "b", "c"):
        await stream.subscribe(topic, handler=handled.append)
    assert stream.list_topics() == ["b", "c"]
    await used(stream, "d", "a")
    assert len(stream.list_topics()) == 2
    assert [event.topic for event in handled] == ["a"]


@pytest.mark.parametrize("action", ["cancel", "unsubscribe"])
async def test_a_topic_may_go_once_its_last_subscription_has_ended(action):
    stream = TopicStream(max_topics=2)
    first = await stream.subscribe("a", handler=ignore)
    second = await stream.subscribe("a", handler=ignore)
    await used(stream, "a")
    first.cancel()
    await used(stream, "b", "c")
    assert stream.list_topics() == ["a", "c"]
    if action == "cancel":
        second.cancel()
    else:
        await stream.unsubscribe(second.id)
    await used(stream, "d", "e")
    assert stream.list_topics() == ["d", "e"]


_NAMES = st.sampled_from("abcde")


@settings(max_examples=80, deadline=None)
@given(
    max_topics=st.integers(1, 4),
    steps=st.lists(
        st.tuples(st.just("publish"), _NAMES)
        | st.tuples(st.just("subscribe"), _NAMES)
        | st.tuples(st.just("unsubscribe"), st.integers(0, 9)),
        max_size=30,
    ),
)
def test_the_bound_holds_and_only_the_longest_idle_topic_without_subscribers_goes(max_topics, steps):
    asyncio.run(_use(max_topics, steps))


async def _use(max_topics: int, steps: list[tuple[str, Any]]) -> None:
    stream = TopicStream(max_topics=max_topics)
    subscriptions: list[Any] = []
    order: list[str] = []  # by the last event, subscription or cancellation
    for step, value in steps:
        before = stream.list_topics()
        subscribed = {subscription.topic for subscription in subscriptions}
        topic = value
        if step == "publish":
            await stream.publish(value, create_event(value))
        elif step == "subscribe":
            subscriptions.append(await stream.subscribe(value, handler=ignore))
        elif value < len(subscriptions):
            subscription = subscriptions.pop(value)
            subscription.cancel()
            topic = subscription.topic
            if any(other.topic == topic for other in subscriptions):
                continue
        else:
            continue
        after = stream.list_topics()
        gone = [name for name in before if name not in after]
        if step != "unsubscribe":
            assert topic in after
            full = len(before) == max_topics and topic not in before
            idle = [name for name in order if name in before and name not in subscribed]
            may_go = idle[:1] if idle else [name for name in order if name in before][:1]
            assert gone == (may_go if full else [])
        assert len(after) <= max_topics
        if topic in order:
            order.remove(topic)
        order.append(topic)


async def test_threads_that_publish_to_many_topics_keep_the_bound():
    stream = TopicStream(max_topics=5)
    handled: list[Event] = []
    await stream.subscribe(handled.append)

    def publish_many(name: str) -> None:
        for number in range(200):
            stream.publish_nowait(f"{name}.{number % 7}", create_event(number))

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(asyncio.to_thread(publish_many, name) for name in "abc"))
    assert len(handled) == 600
    assert len(stream.list_topics()) == 5
    assert stream.statistics().buffered == sum(
        len(stream.get_recent_events(topic, 1_000)) for topic in stream.list_topics()
    )


@pytest.mark.parametrize("arguments", [{"buffer_size": -1}, {"max_topics": 0}, {"max_topics": -1}], ids=str)
def test_a_size_that_makes_no_sense_is_refused(arguments):
    with pytest.raises(ValueError):
        TopicStream(**arguments)


# The stream interface


async def test_it_is_a_sink_for_events_that_have_a_topic():
    source, topics = InMemoryStream(), TopicStream()
    failures: list[Exception] = []
    processor = StreamProcessor(source).sink(topics).on_error(lambda error, event: failures.append(error))
    await processor.start()
    await source.publish(create_event(1, topic="a"))
    await source.publish(create_event(2))
    await source.publish(create_event(3, topic="b"))
    assert topics.list_topics() == ["a", "b"]
    assert [type(error).__mro__[2] for error in failures] == [ValueError]


async def test_it_is_a_source_too():
    topics, sink = TopicStream(), InMemoryStream()
    await StreamProcessor(topics).filter(lambda event: event.topic != "b").sink(sink).start()
    await used(topics, "a", "b", "c")
    assert [event.topic for event in sink.get_recent_events()] == ["a", "c"]


async def test_listeners_get_the_events_of_their_pattern_and_end_with_the_stream():
    stream = TopicStream()
    async with stream.listen("a.*") as listener:
        await used(stream, "a.b", "b", "a.c")
        await stream.aclose()
        async with asyncio.timeout(DEADLINE):
            assert [event.topic async for event in listener] == ["a.b", "a.c"]


async def test_interceptors_see_the_topic_that_publish_was_given():
    stream = TopicStream()
    stream.add_interceptor(lambda event: None if event.topic == "b" else event)
    await used(stream, "a", "b")
    assert stream.list_topics() == ["a"]
    assert stream.statistics().dropped == 1


async def test_an_interceptor_may_move_an_event_to_another_topic():
    stream = TopicStream()
    stream.add_interceptor(lambda event: event.replace(metadata={"topic": "moved"}))
    with collect(stream, "moved") as events:
        await used(stream, "a")
    assert len(events) == 1
    assert stream.list_topics() == ["moved"]


@pytest.mark.parametrize("metadata", [{}, {"topic": 5}, {"topic": "a.*"}], ids=str)
@BOTH_PUBLISHES
async def test_an_interceptor_that_removes_the_topic_is_an_error(metadata, nowait):
    stream = TopicStream()
    stream.add_interceptor(lambda event: event.replace(metadata=metadata))
    with pytest.raises(ValueError, match="topic"):
        await publish(stream, "a", create_event(1), nowait=nowait)
    assert stream.list_topics() == []


async def test_a_closed_stream_refuses_events_and_keeps_its_buffers():
    async with TopicStream() as stream:
        subscription = await stream.subscribe("a", handler=ignore)
        await used(stream, "a")
    assert not subscription.active
    for refused in (stream.publish("a", create_event(1)), stream.subscribe("a", handler=ignore)):
        with pytest.raises(StreamClosedError):
            await refused
    with pytest.raises(StreamClosedError):
        stream.publish_nowait("a", create_event(1))
    assert len(stream.get_recent_events("a")) == 1


async def test_statistics_count_over_all_topics():
    stream = TopicStream()

    def broken(event: Event) -> None:
        raise ValueError("broken")

    await stream.subscribe("a", handler=ignore)
    await stream.subscribe("b", handler=broken)
    await stream.subscribe(ignore)
    await used(stream, "a", "b", "c")
    assert stream.statistics()._asdict() == {
        "published": 3,
        "dropped": 0,
        "handler_errors": 1,
        "subscribers": 3,
        "buffered": 3,
    }
