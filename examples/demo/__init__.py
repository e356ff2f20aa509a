"""The demonstration: a shop whose back end fails now and then, and what is told of it, and to whom.

    codomyrmex-streaming demo

One process, only the public API. Read `main.py` first; `service.py`, `client.py` and `receiver.py` are the
world around it, `demo.alerts.yaml` says who is told.
"""
