"""The recipes of the documentation for programs and pools that would be ended by a signal."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, os, signal, sys, time
from codomyrmex.integrations import attach_blocking, Sink
from codomyrmex.streaming import InMemoryStream, create_event

async def send(events):
    for event in events:
        os.write(1, f"sent {event.data}\\n".encode())

stream = InMemoryStream()
"""
RECIPE = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
"""
SERVICE = """
attach_blocking(stream, Sink.from_function(send, name="out")).start()
stream.publish_nowait(create_event(1))
os.write(1, b"ready\\n")
while True:
    time.sleep(1)
"""
POOL = """
def work(number):
    stream.publish_nowait(create_event(number))

with attach_blocking(stream, Sink.from_function(send, name="out")):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(work, range(10))
        pool.close()
        pool.join()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")


def test_a_program_that_exits_on_sigterm_delivers_what_is_queued():
    command = [sys.executable, "-c", PROGRAM + RECIPE + SERVICE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (143, "sent 1\n", "")


def test_children_of_a_pool_that_is_closed_and_joined_deliver_what_is_queued():
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM + POOL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.splitlines()) == [f"sent {number}" for number in range(10)]
