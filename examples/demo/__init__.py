"""The demo: a shop whose backend fails now and then, with its log, traces, alerts and live page.

    codomyrmex-streaming demo

One process that uses only the public API. Read `main.py` first. `service.py`, `client.py` and `receiver.py`
are the world around it; `demo.alerts.yaml` routes the alerts.
"""
