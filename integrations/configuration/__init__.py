"""Strict configuration: plain data into typed structs, with every problem found and where it stands.

Knows nothing of what is configured; alert routing and pipelines use it.
"""
