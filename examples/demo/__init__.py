"""The demo: a shop whose backend fails now and then, with its log, traces, alerts and live page.

    codomyrmex-streaming demo

One process that uses only the public API. Read `main.py` first. `service.py`, `client.py` and `receiver.py`
are the world around it; `demo.alerts.yaml` routes the alerts.

    codomyrmex-streaming demo --workers 3

The same in several processes, one of which is killed now and then. Read `worker.py` first: it is the
application. `workers.py`, with `supervisor.py`, `child.py`, `load.py` and `ledger.py`, starts it, kills it,
uses it, and counts what arrives; `workers.alerts.yaml` routes the alerts.
"""
