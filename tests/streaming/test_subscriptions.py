"""`Subscription` on its own, and what its `cancel` does to the stream it belongs to."""

import functools
import threading

import pytest
from codomyrmex.streaming import InMemoryStream, SSEStream, Subscription, TopicStream, create_event


def test_without_arguments_it_has_a_new_id_and_receives_everything():
    subscription, other = Subscription(), Subscription()
    assert isinstance(subscription.id, str)
    assert subscription.id != other.id
    assert (subscription.topic, subscription.handler, subscription.filter_fn) == ("*", None, None)
    assert (subscription.active, subscription.dropped) == (True, 0)
    assert subscription.should_receive(create_event(None))


@pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])
@pytest.mark.parametrize("how", ["cancel", "unsubscribe", "aclose"])
async def test_on_end_is_called_with_the_subscription_whoever_ends_it(make, how):
    stream, ended = make(), []
    subscription = await stream.subscribe(print)
    subscription.on_end(ended.append)
    assert ended == []
    match how:
        case "cancel":
            subscription.cancel()
        case "unsubscribe":
            await stream.unsubscribe(subscription.id)
        case "aclose":
            await stream.aclose()
    assert set(ended) == {subscription}
    assert not subscription.active


async def test_a_dropped_event_is_counted_by_the_subscription_and_its_stream(caplog):
    stream = InMemoryStream()
    subscription, alone = await stream.subscribe(print), Subscription()
    event = create_event(None)
    for each in (subscription, alone):
        each.drop(event)
        each.drop(event, "a reason other than overflow")
        assert each.dropped == 2
    assert stream.statistics().dropped == 2
    assert [event.id in line and "a reason other" in line for line in caplog.messages] == [True]


def test_the_fields_can_be_given_by_position():
    subscription = Subscription("s", "a.*", print, bool, False)
    assert (subscription.topic, subscription.handler, subscription.filter_fn) == ("a.*", print, bool)
    assert subscription.active is False


def test_the_fields_can_be_given_by_name():
    subscription = Subscription(id="s", topic="a", handler=print, filter_fn=bool, active=False)
    assert (subscription.topic, subscription.active) == ("a", False)


@pytest.mark.parametrize(
    ("topic", "filter_fn", "active", "expected"),
    [
        ("*", None, True, True),
        ("a.*", None, True, True),
        ("b", None, True, False),
        ("*", None, False, False),
        ("*", lambda e: e.data == 1, True, True),
        ("*", lambda e: e.data == 2, True, False),
        ("b", lambda e: True, True, False),
        ("*", lambda e: True, False, False),
    ],
)
def test_it_receives_events_of_its_topics_that_pass_its_filter_while_active(
    topic, filter_fn, active, expected
):
    subscription = Subscription("s", topic, None, filter_fn, active)
    assert subscription.should_receive(create_event(1, topic="a.b")) is expected


@pytest.mark.parametrize(("answer", "expected"), [("yes", True), ([], False), (None, False), (1, True)])
def test_the_answer_of_a_filter_counts_by_its_truth(answer, expected):
    subscription = Subscription("s", filter_fn=lambda _: answer)
    assert subscription.should_receive(create_event(None)) is expected


def test_a_filter_is_only_asked_about_events_of_its_topics():
    asked = []
    subscription = Subscription("s", "a", filter_fn=asked.append)
    of_topic = create_event(None, topic="a")
    for event in (create_event(None), create_event(None, topic="b"), of_topic):
        subscription.should_receive(event)
    subscription.cancel()
    subscription.should_receive(of_topic)
    assert asked == [of_topic]


def test_cancel_takes_effect_at_once_and_may_be_repeated():
    subscription = Subscription("s")
    for _ in range(2):
        subscription.cancel()
        assert not subscription.active
        assert not subscription.should_receive(create_event(None))


def test_cancel_may_be_called_from_many_threads_at_once():
    subscription = Subscription("s")
    threads = [threading.Thread(target=subscription.cancel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not subscription.active


@pytest.mark.parametrize("handler", ["print", 7, [], object()])
def test_a_handler_that_cannot_be_called_is_refused(handler):
    with pytest.raises(TypeError, match="handler"):
        Subscription("s", handler=handler)


@pytest.mark.parametrize("filter_fn", ["print", 7, {}])
def test_a_filter_that_cannot_be_called_is_refused(filter_fn):
    with pytest.raises(TypeError, match="filter"):
        Subscription("s", filter_fn=filter_fn)


async def wanted(event, unused=None):
    return False


class Wanted:
    async def wanted(self, event):
        return False

    async def __call__(self, event):
        return False


@pytest.mark.parametrize(
    "filter_fn",
    [wanted, functools.partial(wanted, unused=1), Wanted().wanted, Wanted()],
    ids=["function", "partial", "method", "object"],
)
def test_an_async_filter_whose_answer_would_always_be_true_is_refused(filter_fn):
    with pytest.raises(TypeError, match="filter"):
        Subscription("s", filter_fn=filter_fn)


def test_its_repr_shows_the_id_the_topic_and_the_state():
    subscription = Subscription("some-id", "a.*")
    assert "some-id" in repr(subscription)
    assert "a.*" in repr(subscription)
    before = repr(subscription)
    subscription.cancel()
    assert repr(subscription) != before


@pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])
async def test_cancel_also_removes_it_from_its_stream(make):
    async with make() as stream:
        subscription = await stream.subscribe(print, topic="a.*")
        assert stream.statistics().subscribers == 1
        subscription.cancel()
        assert stream.statistics().subscribers == 0
        assert await stream.unsubscribe(subscription.id) is False


@pytest.mark.parametrize("make", [InMemoryStream, SSEStream, TopicStream])
async def test_unsubscribe_makes_it_inactive(make):
    async with make() as stream:
        subscription = await stream.subscribe(print)
        assert await stream.unsubscribe(subscription.id) is True
        assert not subscription.active


async def test_one_that_its_own_handler_cancels_gets_nothing_more():
    stream, seen = InMemoryStream(), []

    def handler(event):
        seen.append(event.data)
        subscription.cancel()

    subscription = await stream.subscribe(handler)
    for n in range(3):
        await stream.publish(create_event(n))
    assert seen == [0]


async def test_one_cancelled_by_an_earlier_handler_misses_the_event_in_progress():
    stream, seen = InMemoryStream(), []
    await stream.subscribe(lambda _: later.cancel())
    later = await stream.subscribe(seen.append)
    await stream.publish(create_event(None))
    assert seen == []


async def test_ids_on_a_stream_are_all_different():
    stream = InMemoryStream()
    ids = {(await stream.subscribe(print)).id for _ in range(100)}
    assert len(ids) == 100


def test_a_callback_that_comes_after_the_end_is_called_at_once():
    subscription, ended = Subscription(), []
    subscription.cancel()
    subscription.on_end(ended.append)
    assert ended == [subscription]
