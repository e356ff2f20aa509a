"""Topic patterns: which are well-formed, what they match, and who receives an event."""

import pytest
from codomyrmex.streaming import (
    InMemoryStream,
    SSEStream,
    StreamingError,
    Subscription,
    TopicError,
    TopicStream,
    create_event,
)
from codomyrmex.streaming.testing import collect
from codomyrmex.streaming.topics import check_topic, matches
from hypothesis import given, settings
from hypothesis import strategies as st

tokens = st.sampled_from(["a", "b", "c", "a*", ">b", "\u00e9"])
topics = st.lists(tokens, min_size=1, max_size=4).map(".".join)
any_topics = (
    topics | st.sampled_from(["", ".", "a.", ".a", "a..b", "*", ">", "a.*", "a.>", "*.b", "a b"]) | st.none()
)
patterns = st.builds(
    lambda body, tail: ".".join([*body, *tail]),
    st.lists(tokens | st.just("*"), max_size=4),
    st.sampled_from([[], [">"]]),
).filter(bool)


def naive(pattern, topic):
    """Match token by token, recursively."""
    if pattern == "*":
        return True
    return topic is not None and naive_tokens(pattern.split("."), topic.split("."))


def naive_tokens(wanted, given_tokens):
    if not wanted or not given_tokens:
        return wanted == given_tokens
    if wanted == [">"]:
        return True
    return wanted[0] in {"*", given_tokens[0]} and naive_tokens(wanted[1:], given_tokens[1:])


def event_of(topic):
    return create_event(None) if topic is None else create_event(None, topic=topic)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "A", False),
        ("a", "a.b", False),
        ("a.b", "a.b", True),
        ("a.b", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*.b", "b", False),
        ("*.*", "a.b", True),
        ("*.*", "a", False),
        ("*.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        ("a.>", "a", False),
        ("a.>", "b.a", False),
        ("*.>", "a.b", True),
        ("*.>", "a", False),
        (">", "a", True),
        (">", "a.b.c", True),
        (">", None, False),
        ("*", "a", True),
        ("*", "a.b.c", True),
        ("*", None, True),
        ("a", None, False),
        ("a*", "ab", False),
        ("a*", "a*", True),
        ("a.b>", "a.bc", False),
        ("a.b>", "a.b>", True),
    ],
)
def test_patterns_match_as_in_nats_but_for_the_single_star(pattern, topic, expected):
    assert Subscription("s", pattern).should_receive(event_of(topic)) is expected
    assert naive(pattern, topic) is expected


@given(patterns, any_topics)
@settings(max_examples=200, deadline=None)
def test_a_pattern_matches_as_a_naive_matcher_does(pattern, topic):
    assert matches(pattern, topic) is naive(pattern, topic)


def test_an_event_without_a_topic_reaches_only_everything():
    event = create_event(None)
    reached = [p for p in ("*", ">", "*.*", "a", "None", "*.>") if Subscription("s", p).should_receive(event)]
    assert reached == ["*"]


@pytest.mark.parametrize("topic", [7, None, ["a"], {"a": 1}, b"a"])
async def test_a_topic_that_is_not_a_string_counts_as_none(topic):
    stream = InMemoryStream()
    with collect(stream) as everything, collect(stream, ">") as topical:
        await stream.publish(create_event(None, topic=topic))
        stream.publish_nowait(create_event(None, topic=topic))
    assert (len(everything), len(topical)) == (2, 0)


async def test_an_event_with_a_malformed_topic_is_delivered_to_patterns_though_no_subscription_can_name_it():
    stream = InMemoryStream()
    received = []
    for pattern in ("*", "a.>", "a.b"):
        await stream.subscribe(lambda event, pattern=pattern: received.append(pattern), topic=pattern)
    await stream.publish(create_event(1, topic="a..b"))
    assert received == ["*", "a.>"]
    with pytest.raises(TopicError, match="tokens must not be empty"):
        await stream.subscribe(received.append, topic="a..b")


MALFORMED = ["", ".", "a.", ".a", "a..b", "*.", "..", ">.a", "a.>.b", ">.>", None, 7, b"a", ["a"]]


@pytest.mark.parametrize("pattern", MALFORMED)
def test_a_malformed_pattern_is_refused_by_a_subscription(pattern):
    with pytest.raises(TopicError):
        Subscription("s", pattern)


@pytest.mark.parametrize("pattern", MALFORMED)
@pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])
async def test_a_malformed_pattern_is_a_value_error_at_subscribe(make, pattern):
    stream = make()
    with pytest.raises(ValueError, match="topic"):
        await stream.subscribe(print, topic=pattern)
    with pytest.raises(ValueError, match="topic"):
        async with stream.listen(pattern):
            pass
    assert stream.statistics().subscribers == 0


def test_the_error_has_the_pattern_and_the_problem():
    with pytest.raises(TopicError, match=r"tokens must not be empty, got 'a\.\.b'"):
        Subscription("s", "a..b")
    with pytest.raises(TopicError, match=r"'>'.*'a\.>\.b'"):
        Subscription("s", "a.>.b")
    with pytest.raises(TopicError, match="int"):
        Subscription("s", 7)


def test_a_topic_error_is_a_value_error_and_one_of_the_package():
    assert issubclass(TopicError, ValueError)
    assert issubclass(TopicError, StreamingError)


@pytest.mark.parametrize("topic", ["*", ">", "a.*", "*.a", "a.>", "a.*.b"])
def test_no_event_is_published_under_a_pattern_by_name(topic):
    with pytest.raises(TopicError, match="wildcards"):
        check_topic(topic)


# Delivery on a stream

operations = st.lists(
    st.tuples(st.just("subscribe"), patterns)
    | st.tuples(st.just("publish"), any_topics)
    | st.tuples(st.just("cancel"), st.integers(0, 20)),
    max_size=30,
)


async def run(operations, publish):
    """Carry out the steps; return the receivers of each event, actual and expected."""
    stream = InMemoryStream()
    subscribed = {}
    got, expected = [], []
    for number, (operation, value) in enumerate(operations):
        if operation == "subscribe":
            subscription = await stream.subscribe(lambda _, n=number: got[-1].append(n), value)
            subscribed[number] = subscription
        elif operation == "cancel" and subscribed:
            subscribed.pop(list(subscribed)[value % len(subscribed)]).cancel()
        elif operation == "publish":
            got.append([])
            expected.append([n for n, s in subscribed.items() if naive(s.topic, value)])
            await publish(stream, event_of(value))
    assert stream.statistics().subscribers == len(subscribed)
    return got, expected


@given(operations)
@settings(max_examples=150, deadline=None)
async def test_publish_reaches_the_matching_subscribers_in_the_order_of_subscription(operations):
    got, expected = await run(operations, lambda stream, event: stream.publish(event))
    assert got == expected


@given(operations)
@settings(max_examples=75, deadline=None)
async def test_publish_nowait_reaches_the_matching_subscribers_in_the_order_of_subscription(operations):
    async def publish(stream, event):
        stream.publish_nowait(event)

    got, expected = await run(operations, publish)
    assert got == expected


@given(st.lists(patterns, max_size=12), st.lists(any_topics, max_size=6))
@settings(max_examples=60, deadline=None)
async def test_a_subscription_receives_exactly_what_should_receive_accepts(wanted, published):
    stream = InMemoryStream()
    seen = [[] for _ in wanted]
    subscriptions = [await stream.subscribe(s.append, p) for s, p in zip(seen, wanted, strict=True)]
    events = [event_of(topic) for topic in published]
    for event in events:
        await stream.publish(event)
    assert seen == [[e for e in events if s.should_receive(e)] for s in subscriptions]


async def test_a_subscriber_with_several_ways_to_match_gets_an_event_once():
    stream = InMemoryStream()
    with collect(stream, "*.*") as one, collect(stream, "a.>") as two:
        await stream.publish(create_event(None, topic="a.b"))
    assert (len(one), len(two)) == (1, 1)


async def test_one_handler_subscribed_twice_is_called_twice():
    stream, seen = InMemoryStream(), []
    await stream.subscribe(seen.append, "a.*")
    await stream.subscribe(seen.append, "a.*")
    await stream.publish(create_event(None, topic="a.b"))
    assert len(seen) == 2


async def test_a_new_subscriber_receives_topics_published_before_it():
    stream = InMemoryStream()
    event = create_event(None, topic="a.b")
    await stream.publish(event)
    for pattern in ("a.b", "a.*", ">", "*"):
        with collect(stream, pattern) as events:
            await stream.publish(event)
        assert events == [event]
    await stream.publish(event)
    assert stream.statistics().published == 6


async def test_any_number_of_topics_reaches_its_subscribers():
    stream = InMemoryStream(buffer_size=1)
    with collect(stream, "a.*") as seen:
        for n in range(20_000):
            stream.publish_nowait(create_event(n, topic=f"a.{n}"))
    assert [event.data for event in seen] == list(range(20_000))


@pytest.mark.parametrize(
    "pattern", ["a." * 1_500 + ">", "a" * 1_001, ".".join(["a"] * 101), ".".join("*" * 101)]
)
def test_patterns_are_bounded(pattern):
    with pytest.raises(TopicError, match=r"at most 1000 characters and 100 tokens"):
        InMemoryStream().subscribe_nowait(lambda event: None, pattern)


async def test_topics_beyond_the_bounds_of_patterns_are_delivered_and_not_kept():
    stream, received = InMemoryStream(), []
    await stream.subscribe(received.append, "a.>")
    for topic in ("a." * 100_000 + "a", "a." + "b" * 1_000_000):
        await stream.publish(create_event(1, topic=topic))
    assert len(received) == 2
