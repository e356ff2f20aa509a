"""Runs the command as `python -m codomyrmex.integrations.cli`."""

from codomyrmex.integrations.cli import main

main()
