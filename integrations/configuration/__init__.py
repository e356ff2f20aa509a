"""Strict configuration files: YAML to typed structs, every problem with its position, and shared value types.

Alert routing and pipelines use it; it does not depend on them.
"""
