"""Pipelines from one file: sources, processors, sinks."""
