"""The core streams against a bare loop, the plain way, and other libraries."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import blinker
import psygnal
import reactivex.operators as rx
from baselines import (
    PlainFanOut,
    PlainSubscription,
    plain_create_event,
    plain_publish,
    plain_to_sse,
)
from codomyrmex.streaming import Event, InMemoryStream, SSEStream, StreamProcessor, create_event
from measure import Result, compare
from pyee import EventEmitter
from reactivex import Subject

PAYLOAD = {
    "order": 42,
    "customer": "Ada Lovelace",
    "lines": [{"sku": "A-1", "count": 2, "price": 19.9}, {"sku": "B-7", "count": 1, "price": 5.0}],
    "paid": True,
    "note": None,
}
EVENT = create_event(PAYLOAD, topic="orders.created")

_loop = asyncio.new_event_loop()


def run(work: Coroutine[Any, Any, int]) -> int:
    return _loop.run_until_complete(work)


def counting_handler() -> Callable[[Event], None]:
    """The smallest useful handler: it counts the events of each topic."""
    counts: Counter[str | None] = Counter()

    def count(event: Event) -> None:
        counts[event.topic] += 1

    return count


def empty_handler() -> Callable[[Event], None]:
    def nothing(event: Event) -> None:
        pass

    return nothing


def stream_with(handlers: list[Callable[[Event], None]]) -> InMemoryStream:
    stream = InMemoryStream()
    for handler in handlers:
        stream.subscribe_nowait(handler)
    return stream


def measure() -> Iterator[Result]:
    yield from publishing()
    yield from other_libraries()
    yield from index()
    yield from making_and_encoding()
    yield from fan_out()
    yield from processing()
    yield from memory()


def publishing() -> Iterator[Result]:
    for count, bar in ((1, 4.0), (100, 1.3), (1_000, 1.15)):
        yield publish_against_loop(counting_handler, "", count, bar)
    yield publish_against_loop(empty_handler, " that does nothing", 1, None)
    handlers = [counting_handler()]
    stream = stream_with(handlers)
    n = 5_000

    def without_waiting() -> int:
        publish = stream.publish_nowait
        for _ in range(n):
            publish(EVENT)
        return n

    yield compare(
        "publish_nowait to 1 plain handler", "the bare call", without_waiting, bare_loop(handlers, n)
    )


def publish_against_loop(
    make: Callable[[], Callable[[Event], None]], which: str, count: int, bar: float | None
) -> Result:
    handlers = [make() for _ in range(count)]
    stream = stream_with(handlers)
    n = max(20, 10_000 // count)

    async def publish() -> int:
        publish = stream.publish
        for _ in range(n):
            await publish(EVENT)
        return n

    many = f"{count:,} plain handlers" if count > 1 else "1 plain handler"
    return compare(
        f"publish to {many}{which}",
        "the bare call" if count == 1 else "the bare loop",
        lambda: run(publish()),
        bare_loop(handlers, n),
        bar=bar,
    )


def bare_loop(handlers: list[Callable[[Event], None]], n: int) -> Callable[[], int]:
    def one() -> int:
        handler = handlers[0]
        for _ in range(n):
            handler(EVENT)
        return n

    def many() -> int:
        for _ in range(n):
            for handler in handlers:
                handler(EVENT)
        return n

    return one if len(handlers) == 1 else many


def other_libraries() -> Iterator[Result]:
    for count in (1, 100):
        handlers = [counting_handler() for _ in range(count)]
        stream = stream_with(handlers)
        n = max(50, 5_000 // count)

        def ours(stream: InMemoryStream = stream, n: int = n) -> int:
            for _ in range(n):
                stream.publish_nowait(EVENT)
            return n

        for name, send in senders(handlers):

            def theirs(send: Callable[[Event], object] = send, n: int = n) -> int:
                for _ in range(n):
                    send(EVENT)
                return n

            yield compare(
                f"publish_nowait to {count} plain handler{'s' if count > 1 else ''}",
                name,
                ours,
                theirs,
                rounds=21,
            )


def senders(handlers: list[Callable[[Event], None]]) -> Iterator[tuple[str, Callable[[Event], object]]]:
    signal = blinker.Signal()
    for handler in handlers:
        signal.connect(handler, weak=False)
    yield "blinker", signal.send
    emitter = EventEmitter()
    for handler in handlers:
        emitter.add_listener("event", handler)
    yield "pyee", lambda event: emitter.emit("event", event)
    subject: Subject[Event] = Subject()
    for handler in handlers:
        subject.subscribe(handler)
    yield "reactivex", subject.on_next
    instance = psygnal.SignalInstance((object,), name="event")
    for handler in handlers:
        instance.connect(handler, unique=False)
    yield "psygnal", instance.emit


def index() -> Iterator[Result]:
    n = 3_000
    events = [create_event(None, topic=f"user.{number}.signup") for number in range(n)]
    alone = stream_with([])
    alone.subscribe_nowait(counting_handler(), "user.>")

    async def publish(stream: InMemoryStream) -> int:
        for event in events:
            await stream.publish(event)
        return n

    exact, patterns = InMemoryStream(), InMemoryStream()
    plain = []
    for number in range(10_000):
        handler = counting_handler()
        exact.subscribe_nowait(handler, f"user.{number}.signup")
        patterns.subscribe_nowait(handler, f"user.{number}.*")
        plain.append(PlainSubscription(f"user.{number}.signup", handler))

    async def scan() -> int:
        for event in events[:5]:
            await plain_publish(plain, event)
        return 5

    one = "1 matching subscription among 10,000"
    yield compare(
        f"{one} exact topics",
        "the only one",
        lambda: run(publish(exact)),
        lambda: run(publish(alone)),
        bar=1.5,
    )
    yield compare(
        f"{one} patterns",
        "the only one",
        lambda: run(publish(patterns)),
        lambda: run(publish(alone)),
        bar=5.0,
    )

    def forget(stream: InMemoryStream) -> int:
        """Subscribe and cancel, so that each topic is looked up anew."""
        stream.subscribe_nowait(counting_handler(), "nobody.*.publishes").cancel()
        return run(publish(stream))

    yield compare(
        f"{one} patterns, every topic new",
        "the only one, every topic new",
        lambda: forget(patterns),
        lambda: forget(alone),
        bar=5.0,
    )
    yield compare(
        f"{one} exact topics",
        "the plain list scan",
        lambda: run(publish(exact)),
        lambda: run(scan()),
        rounds=11,
    )


def making_and_encoding() -> Iterator[Result]:
    n = 1_000

    def create(make: Callable[..., object]) -> Callable[[], int]:
        def work() -> int:
            for _ in range(n):
                make(PAYLOAD, topic="orders.created")
            return n

        return work

    yield compare(
        "create_event", "the plain way", create(create_event), create(plain_create_event), bar=1 / 3
    )
    theirs = plain_create_event(PAYLOAD, topic="orders.created")

    def ours_encoded() -> int:
        for _ in range(n):
            EVENT.to_sse()
        return n

    def theirs_encoded() -> int:
        for _ in range(n):
            plain_to_sse(theirs)
        return n

    yield compare("to_sse", "the plain way", ours_encoded, theirs_encoded, bar=1 / 4)


def fan_out() -> Iterator[Result]:
    """Publish ten events, and wait until every client has each frame.

    One after another, as an application does; and with the clients let in after each event, where more
    than half of our time is what asyncio needs to wake a waiting task.
    """
    clients, events = 1_000, [create_event(PAYLOAD, topic="orders.created") for _ in range(10)]
    got = [0]

    async def deliver(publish: Callable[[Event], Awaitable[None]], *, paced: bool) -> int:
        wanted = got[0] + clients * len(events)
        for event in events:
            await publish(event)
            if paced:
                await asyncio.sleep(0)
        while got[0] < wanted:  # noqa: ASYNC110 - an Event would be one more thing for each frame
            await asyncio.sleep(0)
        return clients * len(events)

    async def read(frames: Any) -> None:
        async for _ in frames:
            got[0] += 1

    async def start() -> tuple[SSEStream, PlainFanOut, list[asyncio.Task[None]]]:
        stream, plain = SSEStream(), PlainFanOut()
        ids = [(await stream.subscribe()).id for _ in range(clients)]
        readers: list[Any] = [stream.sse_generator(subscription) for subscription in ids]
        readers += [plain.frames(plain.subscribe()) for _ in range(clients)]
        return stream, plain, [asyncio.create_task(read(reader)) for reader in readers]

    stream, plain, tasks = _loop.run_until_complete(start())
    for paced in (False, True):
        yield compare(
            "SSE fan-out to 1,000 subscriptions" + (", clients let in after each event" if paced else ""),
            "the plain way",
            partial(lambda paced: run(deliver(stream.publish, paced=paced)), paced),
            partial(lambda paced: run(deliver(plain.publish, paced=paced)), paced),
            bar=None if paced else 8.0,
            rate=True,
            rounds=9,
        )
    for task in tasks:
        task.cancel()
    _loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def processing() -> Iterator[Result]:
    n = 2_000

    def double(event: Event) -> Event:
        return event.replace(data=event.data["order"] * 2)

    def is_wanted(event: Event) -> bool:
        return bool(event.data > 10)

    async def chain() -> InMemoryStream:
        source, sink = InMemoryStream(), stream_with([counting_handler()])
        await StreamProcessor(source).map(double).filter(is_wanted).sink(sink).start()
        return source

    source = _loop.run_until_complete(chain())
    sink = stream_with([counting_handler()])

    async def ours() -> int:
        for _ in range(n):
            await source.publish(EVENT)
        return n

    async def fused() -> int:
        for _ in range(n):
            event = double(EVENT)
            if is_wanted(event):
                await sink.publish(event)
        return n

    work = "a processor of map, filter and sink"
    yield compare(work, "a hand-fused loop", lambda: run(ours()), lambda: run(fused()), bar=0.5, rate=True)
    subject: Subject[Event] = Subject()
    subject.pipe(rx.map(double), rx.filter(is_wanted)).subscribe(sink.publish_nowait)

    def reactive() -> int:
        for _ in range(n):
            subject.on_next(EVENT)
        return n

    yield compare(work, "reactivex", lambda: run(ours()), reactive, bar=1.0, rate=True)


def memory() -> Iterator[Result]:
    count = 10_000

    async def idle() -> float:
        stream = SSEStream()

        async def client() -> None:
            subscription = await stream.subscribe()
            async for _ in stream.sse_generator(subscription.id):
                pass

        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tasks = [asyncio.create_task(client()) for _ in range(count)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert stream.statistics().subscribers == count
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return (after - before) / count

    each = _loop.run_until_complete(idle())
    yield Result(
        "10,000 idle SSE subscriptions, each with its task",
        "4 KiB each",
        each / 4096,
        1.0,
        rate=False,
        detail=f"{each:,.0f} B each",
    )

    async def many() -> tuple[int, int]:
        stream = stream_with([counting_handler()])
        for _ in range(20_000):
            await stream.publish(create_event(PAYLOAD, topic="orders.created"))
        gc.collect()
        blocks, resident = sys.getallocatedblocks(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(1_000_000):
            await stream.publish(create_event(PAYLOAD, topic="orders.created"))
        gc.collect()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        return sys.getallocatedblocks() - blocks, grown

    blocks, kibibytes = _loop.run_until_complete(many())
    yield Result(
        "1,000,000 events through a buffer of 1,000",
        "1,000 more memory blocks",
        max(blocks, 0) / 1_000,
        1.0,
        rate=False,
        detail=f"{blocks:+,} memory blocks, {kibibytes:+,} KiB at the peak",
    )
