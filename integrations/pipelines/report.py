"""The report and the health of a pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from codomyrmex.integrations.delivery.health import DrainReport, SinkHealth
from codomyrmex.integrations.durable.health import StreamHealth


class PipelineReport(NamedTuple):
    """What became of the events of a pipeline.

    The numbers add up: `received + added == filtered + failed + lost + published`. With a spool, a sink's
    `left` is what is in the spool for it, to be delivered later, which is not a loss.

    Attributes:
        received: events that the sources read.
        added: events that steps made in addition, where one returned several for one.
        filtered: events that were dropped on purpose, by step.
        failed: events that were lost because a step raised, by step, or because the `spool` refused them.
        lost: events that were lost because the drain timeout expired.
        published: events that went to the sinks, or into the spool.
        skipped: input that did not become events, by source and reason.
        source_errors: why a source ended early, by source.
        delivery: what became of the published events at each sink.
        not_exported: events that a sink accepted but its backend did not, by sink.
    """

    received: int
    added: int
    filtered: Counter[str]
    failed: Counter[str]
    lost: int
    published: int
    skipped: Counter[str]
    source_errors: dict[str, str]
    delivery: DrainReport
    not_exported: Counter[str]

    @property
    def complete(self) -> bool:
        """Whether nothing was lost and no source failed."""
        losses = self.failed or self.lost or self.source_errors or self.not_exported
        return self.delivery.complete and not losses

    def to_dict(self) -> dict[str, Any]:
        """Return the report as built-in types, with the report of each sink as `sinks`."""
        fields = self._asdict()
        sinks = {name: sink._asdict() for name, sink in fields.pop("delivery").sinks.items()}
        return {**fields, "sinks": sinks}


class PipelineHealth(NamedTuple):
    """The present state of the parts of a pipeline.

    Attributes:
        sources: `running`, `ended`, or why it failed, by source.
        sinks: the health of each sink, by name.
        spool: the health of the spool, or None if there is none.
    """

    sources: Mapping[str, str]
    sinks: Mapping[str, SinkHealth]
    spool: StreamHealth | None = None
