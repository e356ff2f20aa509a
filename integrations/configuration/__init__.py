"""Strict configuration files: YAML to typed structs, every problem with its position, and shared value types.

Knows nothing about what is configured; alert routing and pipelines use it.
"""
