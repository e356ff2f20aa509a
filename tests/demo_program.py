"""The demo as a program that runs beside a test."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 60.0


class Demo:
    """A demo that runs, and what it has printed up to now."""

    def __init__(self, *options: str) -> None:
        self.printed = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "codomyrmex.integrations.cli", "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.printed, re.DOTALL)) is None:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.05)
        return found

    def end(self, number: int | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.close()
        assert "Traceback" not in self.printed, self.printed
        return code

    def close(self) -> None:
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(*options: str) -> Iterator[Demo]:
    demo = Demo(*options)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.wait()
        demo.close()
