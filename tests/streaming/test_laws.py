"""Laws that hold for every order of events, checked against simple models."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from codomyrmex.streaming import InMemoryStream, Overflow, SSEStream, Stream, TopicStream, create_event
from helpers import DEADLINE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

tokens = st.sampled_from(["a", "b", "c"])
topics = st.lists(tokens, min_size=1, max_size=3).map(".".join)
patterns = st.one_of(
    st.just("*"),
    st.just(">"),
    topics,
    st.tuples(st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3), st.booleans()).map(
        lambda parts: ".".join([*parts[0], ">"] if parts[1] else parts[0])
    ),
)


def matches_naively(pattern, topic):
    """Return whether a pattern matches a topic, by plain recursion."""
    if pattern == "*":
        return True
    return topic is not None and _match(pattern.split("."), topic.split("."))


def _match(pattern, topic):
    if pattern == [">"]:
        return len(topic) >= 1
    if not pattern or not topic:
        return pattern == topic
    return pattern[0] in {"*", topic[0]} and _match(pattern[1:], topic[1:])


class BrokenError(Exception):
    """Raised by the handlers and filters of these tests."""


@dataclass(eq=False)
class Subscriber:
    """One subscriber, of the stream or of the model."""

    name: int
    pattern: str
    wants: str  # "all", "even", "broken"
    does: str  # "nothing", "raise", "cancel", "unsubscribe", "subscribe", "publish"
    asynchronous: bool
    victim: int
    active: bool = True
    handle: object = None

    def filter_fn(self):
        if self.wants == "all":
            return None
        if self.wants == "even":
            return lambda event: event.data["number"] % 2 == 0
        return self._broken

    @staticmethod
    def _broken(_):
        raise BrokenError


@dataclass
class Model:
    """A stream in memory, written as directly as possible."""

    subscribers: list[Subscriber] = field(default_factory=list)
    log: list = field(default_factory=list)
    buffer: deque = field(default_factory=lambda: deque(maxlen=5))
    published: int = 0
    dropped: int = 0
    errors: int = 0

    def publish(self, number, topic, depth):
        self.published += 1
        self.buffer.append(number)
        for subscriber in [s for s in self.subscribers if s.active and matches_naively(s.pattern, topic)]:
            if not subscriber.active:
                continue
            if subscriber.wants == "broken":
                self.errors += 1
            elif subscriber.wants == "all" or number % 2 == 0:
                self.call(subscriber, number, topic, depth)

    def call(self, subscriber, number, topic, depth):
        self.log.append((subscriber.name, number, depth))
        if subscriber.does == "raise":
            self.errors += 1
            return
        if subscriber.does in {"cancel", "unsubscribe"} and self.subscribers:
            self.subscribers[subscriber.victim % len(self.subscribers)].active = False
        elif subscriber.does == "subscribe" and len(self.subscribers) < 12:
            self.subscribers.append(child_of(subscriber, len(self.subscribers)))
        elif subscriber.does == "publish" and depth < 2:
            self.publish(number, topic, depth + 1)


def child_of(parent, name):
    return Subscriber(name, parent.pattern, parent.wants, "nothing", parent.asynchronous, 0)


class StreamAgainstModel(RuleBasedStateMachine):
    """Any sequence of calls, from outside and from handlers, on a stream and on its model."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stream = InMemoryStream(buffer_size=5)
        self.model = Model()
        self.real = []  # the stream's own subscribers, by name
        self.log = []
        self.numbers = iter(range(10_000))

    def teardown(self):
        self.loop.run_until_complete(self.stream.aclose())
        self.loop.close()

    def run(self, coroutine):
        async def bounded():
            async with asyncio.timeout(DEADLINE):
                return await coroutine

        return self.loop.run_until_complete(bounded())

    async def enter(self, subscriber):
        handler = self._plain(subscriber)
        if subscriber.asynchronous:
            handler = self._asynchronous(subscriber)
        subscriber.handle = await self.stream.subscribe(handler, subscriber.pattern, subscriber.filter_fn())
        self.real.append(subscriber)

    def _note(self, subscriber, event):
        self.log.append((subscriber.name, event.data["number"], event.data["depth"]))
        if subscriber.does == "raise":
            raise BrokenError

    def _again(self, event):
        return create_event({**event.data, "depth": event.data["depth"] + 1}, **event.metadata)

    def _plain(self, subscriber):
        def handler(event):
            self._note(subscriber, event)
            if subscriber.does in {"cancel", "unsubscribe"}:
                self.real[subscriber.victim % len(self.real)].handle.cancel()
            elif subscriber.does == "subscribe" and len(self.real) < 12:
                child = child_of(subscriber, len(self.real))
                child.handle = self.stream.subscribe_nowait(
                    self._plain(child), child.pattern, child.filter_fn()
                )
                self.real.append(child)
            elif subscriber.does == "publish" and event.data["depth"] < 2:
                return self.stream.publish(self._again(event))
            return None

        return handler

    def _asynchronous(self, subscriber):
        async def handler(event):
            await asyncio.sleep(0)
            self._note(subscriber, event)
            if subscriber.does == "cancel":
                self.real[subscriber.victim % len(self.real)].handle.cancel()
            elif subscriber.does == "unsubscribe":
                await self.stream.unsubscribe(self.real[subscriber.victim % len(self.real)].handle.id)
            elif subscriber.does == "subscribe" and len(self.real) < 12:
                await self.enter(child_of(subscriber, len(self.real)))
            elif subscriber.does == "publish" and event.data["depth"] < 2:
                await self.stream.publish(self._again(event))

        return handler

    @rule(
        pattern=patterns,
        wants=st.sampled_from(["all", "all", "even", "broken"]),
        does=st.sampled_from(
            ["nothing", "nothing", "raise", "cancel", "unsubscribe", "subscribe", "publish"]
        ),
        asynchronous=st.booleans(),
        victim=st.integers(0, 11),
    )
    def subscribe(self, pattern, wants, does, asynchronous, victim):
        if len(self.real) < 12:
            self.run(self.enter(Subscriber(len(self.real), pattern, wants, does, asynchronous, victim)))
            self.model.subscribers.append(
                Subscriber(len(self.model.subscribers), pattern, wants, does, asynchronous, victim)
            )

    @rule(victim=st.integers(0, 11), by_id=st.booleans())
    def end(self, victim, by_id):
        if not self.real:
            return
        subscriber = self.real[victim % len(self.real)]
        mirrored = self.model.subscribers[victim % len(self.real)]
        if by_id:
            assert self.run(self.stream.unsubscribe(subscriber.handle.id)) is mirrored.active
        else:
            subscriber.handle.cancel()
        mirrored.active = False

    @rule(topic=st.one_of(st.none(), topics))
    def publish(self, topic):
        number = next(self.numbers)
        metadata = {} if topic is None else {"topic": topic}
        self.run(self.stream.publish(create_event({"number": number, "depth": 0}, **metadata)))
        self.model.publish(number, topic, 0)

    @rule(topic=topics)
    def publish_to_an_interceptor_that_drops(self, topic):
        def drop(_):
            return None

        self.stream.add_interceptor(drop)
        self.run(self.stream.publish(create_event({"number": -1, "depth": 0}, topic=topic)))
        assert self.stream.remove_interceptor(drop)
        self.model.dropped += 1

    @invariant()
    def the_same_subscribers_got_the_same_events_in_the_same_order(self):
        assert self.log == self.model.log

    @invariant()
    def the_same_subscribers_are_active(self):
        assert [s.handle.active for s in self.real] == [s.active for s in self.model.subscribers]

    @invariant()
    def the_counts_agree(self):
        model = self.model
        assert self.stream.statistics() == (
            model.published,
            model.dropped,
            model.errors,
            sum(s.active for s in model.subscribers),
            len(model.buffer),
        )

    @invariant()
    def the_newest_events_are_kept(self):
        kept = [event.data["number"] for event in self.stream.get_recent_events(99)]
        assert kept == list(self.model.buffer)


TestStreamAgainstModel = StreamAgainstModel.TestCase
TestStreamAgainstModel.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


class UnawaitedAgainstModel(RuleBasedStateMachine):
    """`publish_nowait` and `publish` in turn: async handlers miss nothing, and each keeps its order."""

    subscriptions = Bundle("subscriptions")

    @initialize(make=st.sampled_from([InMemoryStream, TopicStream]))
    def begin(self, make):
        self.loop = asyncio.new_event_loop()
        self.stream = make()
        self.expected = {}
        self.seen = {}
        self.errors = {}
        self.numbers = iter(range(10_000))
        self.published = 0

    def teardown(self):
        if hasattr(self, "loop"):
            self.loop.run_until_complete(asyncio.wait_for(self.stream.aclose(), DEADLINE))
            self.loop.close()
            for name, (seen, _) in self.seen.items():
                for wait in (True, False):
                    assert [n for way, n in seen if way == wait] == [
                        n for way, n in self.expected[name] if way == wait
                    ]
            counts = self.stream.statistics()
            assert counts.published == self.published
            assert counts.handler_errors == sum(self.errors.values())
            assert (counts.dropped, counts.subscribers) == (0, 0)

    @rule(target=subscriptions, pattern=patterns, pauses=st.integers(0, 2), breaks=st.booleans())
    def subscribe(self, pattern, pauses, breaks):
        name, seen = len(self.expected), []

        async def handler(event):
            for _ in range(pauses):
                await asyncio.sleep(0)
            seen.append(event.data)
            if breaks and event.data[1] % 3 == 0:
                self.errors[name] = self.errors.get(name, 0) + 1
                raise BrokenError

        subscription = self.loop.run_until_complete(self.stream.subscribe(handler, pattern))
        self.expected[name], self.seen[name] = [], (seen, subscription)
        return name

    @rule(topic=topics, wait=st.booleans())
    def publish(self, topic, wait):
        event = create_event((wait, next(self.numbers)), topic=topic)
        self.published += 1
        for name, (_, subscription) in self.seen.items():
            if subscription.active and matches_naively(subscription.topic, topic):
                self.expected[name].append(event.data)
        if not wait:
            self.stream.publish_nowait(event)
            return
        self.loop.run_until_complete(asyncio.wait_for(self.stream.publish(event), DEADLINE))
        for seen, subscription in self.seen.values():
            if subscription.active and matches_naively(subscription.topic, topic):
                assert event.data in seen

    @rule(turns=st.integers(1, 4))
    def let_the_loop_run(self, turns):
        async def run():
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())

    @rule(name=consumes(subscriptions))
    def end(self, name):
        seen, subscription = self.seen[name]

        async def end():
            for _ in range(1_000):
                if len(seen) == len(self.expected[name]):
                    break
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            subscription.cancel()

        self.loop.run_until_complete(asyncio.wait_for(end(), DEADLINE))


TestUnawaitedAgainstModel = UnawaitedAgainstModel.TestCase
TestUnawaitedAgainstModel.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


class QueueModel:
    """A bounded queue with a policy."""

    def __init__(self, size, overflow):
        self.size, self.overflow = size, overflow
        self.items, self.dropped, self.offered, self.open = deque(), 0, 0, True

    def put(self, item):
        if not self.open:
            return
        self.offered += 1
        if len(self.items) < self.size:
            self.items.append(item)
            return
        self.dropped += 1
        if self.overflow is Overflow.DROP_OLDEST:
            self.items.popleft()
            self.items.append(item)
        self.open = self.overflow is not Overflow.DISCONNECT


policies = st.tuples(st.integers(1, 3), st.sampled_from(Overflow))


class Listeners:
    """Listeners of one stream, each with the model of its queue."""

    def __init__(self, stream, queues):
        self.stream = stream
        self.models = [QueueModel(size, overflow) for size, overflow in queues]
        self.listeners = [stream.listen(queue_size=size, overflow=overflow) for size, overflow in queues]
        self.read = [[] for _ in queues]
        self.expected = [[] for _ in queues]

    async def publish(self, number, *, wait):
        for model in self.models:
            model.put(number)
        event = create_event(number, topic="t")
        if wait:
            await self.stream.publish(event)
        else:
            self.stream.publish_nowait(event)

    async def read_one(self, place):
        if self.models[place].items:
            self.expected[place].append(self.models[place].items.popleft())
            self.read[place].append((await anext(self.listeners[place])).data)

    async def read_to_the_end(self):
        for place, listener in enumerate(self.listeners):
            self.read[place] += [event.data async for event in listener]
            self.expected[place] += self.models[place].items
            await listener.__aexit__(None, None, None)


@settings(max_examples=150, deadline=None)
@given(
    make=st.sampled_from([InMemoryStream, SSEStream, TopicStream]),
    queues=st.lists(policies, min_size=1, max_size=3),
    steps=st.lists(st.sampled_from(["publish", "publish_nowait", 0, 1, 2]), max_size=30),
)
def test_each_listener_reads_what_its_policy_keeps_and_the_counts_balance(make, queues, steps):
    stream = make()
    all_of_them = Listeners(stream, queues)

    async def scenario():
        for listener in all_of_them.listeners:
            await listener.__aenter__()
        async with asyncio.timeout(DEADLINE):
            for number, step in enumerate(steps):
                if isinstance(step, str):
                    await all_of_them.publish(number, wait=step == "publish")
                else:
                    await all_of_them.read_one(step % len(queues))
            counts = stream.statistics()
            await stream.aclose()
            await all_of_them.read_to_the_end()
        return counts

    counts = asyncio.run(scenario())
    models = all_of_them.models
    assert all_of_them.read == all_of_them.expected
    assert [listener.subscription.dropped for listener in all_of_them.listeners] == [
        m.dropped for m in models
    ]
    dropped = sum(model.dropped for model in models)
    queued = sum(model.offered for model in models) - dropped
    published = sum(isinstance(step, str) for step in steps)
    assert counts[:4] == (published, dropped, 0, sum(model.open for model in models))
    assert queued == sum(map(len, all_of_them.read))


@settings(max_examples=60, deadline=None)
@given(
    make=st.sampled_from([InMemoryStream, SSEStream, TopicStream]),
    size=st.integers(1, 4),
    publishers=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    pauses=st.lists(st.integers(0, 3), min_size=1, max_size=5),
)
def test_back_pressure_loses_nothing_and_keeps_the_order_of_each_publisher(make, size, publishers, pauses):
    stream = make()
    read = []

    async def publish_all(name, count):
        for number in range(count):
            await stream.publish(create_event((name, number), topic="t"))

    async def read_all(entered):
        async with stream.listen(queue_size=size, overflow=Overflow.BLOCK) as events:
            entered.set()
            async for event in events:
                read.append(event.data)
                for _ in range(pauses[len(read) % len(pauses)]):
                    await asyncio.sleep(0)

    async def scenario():
        entered = asyncio.Event()
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            group.create_task(read_all(entered))
            await entered.wait()
            await asyncio.gather(*(publish_all(name, count) for name, count in enumerate(publishers)))
            await stream.aclose()

    asyncio.run(scenario())
    for name, count in enumerate(publishers):
        assert [number for who, number in read if who == name] == list(range(count))
    assert stream.statistics()[:3] == (sum(publishers), 0, 0)


def appending(numbers, is_async):
    async def later(event):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        numbers.append(event.data)

    return later if is_async else lambda event: numbers.append(event.data)


@settings(max_examples=80, deadline=None)
@given(
    make=st.sampled_from([InMemoryStream, TopicStream]),
    asynchronous=st.lists(st.booleans(), min_size=1, max_size=4),
    steps=st.lists(st.sampled_from(["publish", "publish_nowait", "cancel publisher", "loop"]), max_size=15),
)
def test_only_the_events_of_a_cancelled_publisher_may_miss_a_handler(make, asynchronous, steps):
    stream = make()
    handled = [[] for _ in asynchronous]
    failures, cancelled = [], set()

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        for numbers, is_async in zip(handled, asynchronous, strict=True):
            await stream.subscribe(appending(numbers, is_async))
        publishers = {}
        for number, step in enumerate(steps):
            event = create_event(number, topic="t")
            if step == "publish":
                publishers[number] = asyncio.create_task(stream.publish(event))
            elif step == "publish_nowait":
                stream.publish_nowait(event)
            elif step == "cancel publisher" and publishers:
                victim, task = publishers.popitem()
                if task.cancel():
                    cancelled.add(victim)
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*publishers.values(), return_exceptions=True)
            await stream.aclose()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert failures == []
    published = {number for number, step in enumerate(steps) if step.startswith("publish")}
    for numbers in handled:
        assert len(numbers) == len(set(numbers))
        assert published - cancelled <= set(numbers) <= published
    assert stream.statistics()[1:3] == (0, 0)


@given(make=st.sampled_from([InMemoryStream, SSEStream, TopicStream]), pattern=patterns, topic=topics)
@settings(max_examples=200, deadline=None)
def test_should_receive_and_delivery_agree_on_every_pattern(make, pattern, topic):
    stream: Stream = make()
    seen = []
    subscription = stream.subscribe_nowait(seen.append, pattern)
    event = create_event(0, topic=topic)
    stream.publish_nowait(event)
    assert bool(seen) == subscription.should_receive(event) == matches_naively(pattern, topic)
