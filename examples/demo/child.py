"""The process of a worker: it starts with the settings on stdin, and ends when the demo has ended.

    python -m codomyrmex.demo.child

It imports `worker.py`, which takes most of its start, when it knows how to end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import threading

from codomyrmex.demo.settings import Settings


def end_with_the_demo(folder: str) -> None:
    """Wait until the demo has ended, which closes stdin, and end this process too.

    A demo that is killed can neither end its workers nor remove its files.
    """
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main() -> None:
    """Run a worker with the settings that are the first line of stdin."""
    line = sys.stdin.buffer.readline()
    if not line:  # the demo has ended already
        return
    settings = Settings(*json.loads(line))
    name = os.environ["CODOMYRMEX_PROCESS"]
    logging.basicConfig(format=f"{name}: %(message)s")
    threading.Thread(target=end_with_the_demo, args=(settings.folder,), daemon=True).start()
    from codomyrmex.demo.worker import work
    from codomyrmex.integrations.durable import StoreError

    try:
        asyncio.run(work(settings))
    except (StoreError, OSError) as error:
        sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
