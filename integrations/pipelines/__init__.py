"""Pipelines: sources, steps and sinks that are described in one file and run together.

    from codomyrmex.integrations.pipelines import Pipeline

    report = await Pipeline.from_file("pipeline.yaml").run()  # until its sources end

    async with Pipeline.from_file("pipeline.yaml") as pipeline:  # beside other work
        print(pipeline.health())

The command `codomyrmex-streaming run` is a thin layer above this package, which needs neither the command nor
its dependencies. Each part needs the extra of what it adapts: the alerts sink needs `alerts`, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.pipelines.config import (
        Part,
        PipelineConfig,
        PipelineConfigError,
        SpoolConfig,
        load_pipeline_config,
    )
    from codomyrmex.integrations.pipelines.pipeline import Pipeline
    from codomyrmex.integrations.pipelines.report import PipelineHealth, PipelineReport

__all__ = [
    "Part",
    "Pipeline",
    "PipelineConfig",
    "PipelineConfigError",
    "PipelineHealth",
    "PipelineReport",
    "SpoolConfig",
    "load_pipeline_config",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "Part": "config",
        "Pipeline": "pipeline",
        "PipelineConfig": "config",
        "PipelineConfigError": "config",
        "PipelineHealth": "report",
        "PipelineReport": "report",
        "SpoolConfig": "config",
        "load_pipeline_config": "config",
    },
)
