"""`Member`: a sink of an attachment, with the worker that delivers to it."""

from __future__ import annotations

from dataclasses import dataclass

from codomyrmex.integrations.delivery.groups import GroupStream
from codomyrmex.integrations.delivery.inline import InlineWorker
from codomyrmex.integrations.delivery.observers import Observers
from codomyrmex.integrations.delivery.policy import DeliveryPolicy
from codomyrmex.integrations.delivery.queued import QueuedWorker
from codomyrmex.integrations.delivery.sink import (
    AttachOptions,
    Binding,
    InlineSink,
    Sink,
    check_sink,
    check_type,
)
from codomyrmex.integrations.delivery.worker import Worker
from codomyrmex.streaming import FilterFunction, Stream, Subscription
from codomyrmex.streaming.subscriptions import is_plain_function
from codomyrmex.streaming.topics import check_pattern


@dataclass
class Member:
    """A sink of an attachment: its worker, and its subscription until it is removed."""

    worker: Worker
    topic: str
    filter_fn: FilterFunction | None
    subscription: Subscription | None = None

    def subscribe(self, stream: Stream) -> None:
        """Let the worker receive the events of a stream, unless it reads them itself."""
        handle = self.worker.handler(self.filter_fn)
        if isinstance(self.worker, InlineWorker):
            self.worker.sink.bind(stream, self.topic, self.filter_fn)
        if not isinstance(stream, GroupStream):
            self.subscription = stream.subscribe_nowait(handle, self.topic)
        elif isinstance(self.worker, InlineWorker):
            self.subscription = stream.subscribe_inline(handle, self.topic)

    def unsubscribe(self) -> None:
        """Let the worker receive no more events."""
        if self.subscription is not None:
            self.subscription.cancel()


def make_member(
    stream: Stream, sink: InlineSink | Sink | Binding, options: AttachOptions, observers: Observers
) -> Member:
    """Return the member for a sink, with the kind of worker that the sink and the stream need.

    Raises:
        TypeError: the sink or an option of its binding has the wrong type, or does not suit the stream.
        TopicError: the topic pattern is malformed.
    """
    binding = sink if isinstance(sink, Binding) else Binding(sink)
    topic = check_pattern(options.topic if binding.topic is None else binding.topic)
    filter_fn = options.filter_fn if binding.filter_fn is None else binding.filter_fn
    if filter_fn is not None and not is_plain_function(filter_fn):
        raise TypeError(f"filter_fn: must be a plain function of one event, got {filter_fn!r}")
    return Member(_make_worker(stream, binding, topic, filter_fn, options, observers), topic, filter_fn)


def _make_worker(
    stream: Stream,
    binding: Binding,
    topic: str,
    filter_fn: FilterFunction | None,
    options: AttachOptions,
    observers: Observers,
) -> Worker:
    sink = binding.sink
    check_sink(sink)
    check_type("policy", binding.policy, DeliveryPolicy, None)
    policy = binding.policy or options.policy or DeliveryPolicy()
    groups = stream if isinstance(stream, GroupStream) else None
    if binding.needs_groups and (groups is None or isinstance(sink, InlineSink)):
        raise TypeError(
            f"group: {sink.name!r} cannot have group, shards, shard_by or after: "
            "they need a durable stream and a sink that is not inline"
        )
    if isinstance(sink, InlineSink):
        if binding.policy is not None:
            raise TypeError(f"policy: {sink.name!r} is an inline sink, which has no queue; omit it")
        return InlineWorker(sink, policy, options.clock)
    if groups is not None:
        return groups.group_worker(binding, topic, filter_fn, policy, options.clock, observers)
    return QueuedWorker(sink, policy, options.clock, observers)
