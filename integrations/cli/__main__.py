"""`python -m codomyrmex.integrations.cli` is the command too."""

from codomyrmex.integrations.cli import main

main()
