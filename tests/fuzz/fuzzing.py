"""A small fuzzer on hypothesis: mutated examples from the corpus, with bounds on time and memory.

A target is a function of bytes that handles the documented exceptions and lets every other one through.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
MAX_SIZE = 65_536  # bytes of an input
MAX_SECONDS = 1.0  # of CPU for an input
MIN_MEASURED = 8_192  # bytes; the memory of smaller inputs is not measured, because that is slow
BASE_MEMORY = 8 << 20  # bytes that any input may take
HANGING = 20.0  # seconds of CPU after which an input is interrupted
BATCH = 400  # examples between two looks at the time

# Values that often break code that expects other ones, written as JSON.
HOSTILE = (
    b"null", b"true", b"false", b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity", b"1e308", b"5e-324",
    b"1" + b"0" * 30, b"9" * 400, b"9" * 5_000, b"9223372036854775808", b"-9223372036854775809",
    b"253402300800", b"-62135596801", b"0.1", b'""', b'" a "', b'"\\ud800"', b'"\\u0000"', b'"\\u2028"',
    b'"\\r\\n"', b'"\xff"', b'"0001-01-01T00:00:00+14:00"', b'"9999-12-31T23:59:59.999999-14:00"',
    b'"2026-13-45T99:99:99Z"', b'"1"', b'"a.*.>"', b'"\xe2\x98\x83"', b'"<a href=x>"', b'"${HOME}"',
    b'"{{ 7 * 7 }}"', b"[]", b"{}", b"[[]]", b"[null]", b'{"false": 2}', b'{"a": {"b": 1}, "a.b": 2}',
    b"[" * 200 + b"]" * 200, b"[" * 5_000, b'{"a":' * 2_000,
)  # fmt: skip
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|\b(?:true|false|null)\b|[^\s:,\[\]{}"]+')

_POSITION = st.integers(0, 65_535)
_EDITS = st.one_of(
    st.tuples(st.just("token"), _POSITION, st.sampled_from(HOSTILE)),
    st.tuples(st.just("insert"), _POSITION, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("insert"), _POSITION, st.text(min_size=1, max_size=4).map(lambda t: t.encode("utf-8"))),
    st.tuples(st.just("delete"), _POSITION, st.integers(1, 40)),
    st.tuples(st.just("repeat"), _POSITION, st.tuples(st.integers(1, 24), st.integers(2, 4_000))),
)


@dataclass(frozen=True)
class Target:
    """Something that parses bytes from outside.

    Args:
        name: the name, and that of its folder in the corpus.
        run: the function; it raises only if a promise is broken.
        words: what inputs are often made of.
        memory: bytes that each byte of an input may take.
        seconds: of CPU that an input may take.
    """

    name: str
    run: Callable[[bytes], None]
    words: tuple[bytes, ...] = ()
    memory: int = 400
    seconds: float = MAX_SECONDS

    def corpus(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]


class Targets(dict[str, Target]):
    """All targets by name."""

    def add(
        self, *words: bytes, memory: int = 400, seconds: float = MAX_SECONDS
    ) -> Callable[[Callable[[bytes], None]], Target]:
        """Register a function as a target, under its own name."""

        def register(run: Callable[[bytes], None]) -> Target:
            target = self[run.__name__] = Target(run.__name__, run, words, memory, seconds)
            return target

        return register


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return a strategy for inputs: edited examples, sequences of words, and many repetitions of a few."""
    word = st.sampled_from([*target.words, *HOSTILE]) if target.words else st.sampled_from(HOSTILE)
    piece = word | st.binary(max_size=6) | st.text(max_size=4).map(lambda text: text.encode("utf-8"))
    pieces = st.lists(piece, max_size=20).map(b"".join)
    edits = st.lists(_EDITS | st.tuples(st.just("insert"), _POSITION, word), min_size=1, max_size=6)
    edited = st.builds(_edit, st.sampled_from(target.corpus() or [b""]), edits)
    repeated = st.builds(lambda begin, middle, count, end: begin + middle * count + end,
                         pieces, piece, st.integers(100, 40_000), pieces)  # fmt: skip
    kinds = [edited, edited, edited, edited, edited, edited, pieces, pieces, pieces, pieces, repeated]
    return st.one_of(kinds).map(lambda data: data[:MAX_SIZE])


def _edit(data: bytes, edits: list[tuple[str, int, object]]) -> bytes:
    for kind, position, value in edits:
        at = position % (len(data) + 1)
        if kind == "token":
            tokens = list(_TOKEN.finditer(data))
            if tokens:
                begin, end = tokens[position % len(tokens)].span()
                data = data[:begin] + value + data[end:]  # type: ignore[operator]
        elif kind == "insert":
            data = data[:at] + value + data[at:]  # type: ignore[operator]
        elif kind == "delete":
            data = data[:at] + data[at + value :]  # type: ignore[operator]
        else:
            length, count = value  # type: ignore[misc]
            data = data[:at] + data[at : at + length] * count + data[at + length :]
    return data


def check(target: Target, data: bytes) -> None:
    """Run a target on an input, and fail if that takes too much time or memory."""
    measured = len(data) >= MIN_MEASURED and not tracemalloc.is_tracing()
    seconds = _time(target, data)
    if seconds > target.seconds:  # perhaps for another reason than the input
        seconds = min(seconds, _time(target, data))
    assert seconds <= target.seconds, f"{len(data)} bytes took {seconds:.1f} s of CPU"
    if not measured:
        return
    tracemalloc.start()
    try:
        with _interrupted_when_hanging():
            target.run(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    limit = BASE_MEMORY + target.memory * len(data)
    assert peak <= limit, f"{len(data)} bytes took {peak:,} bytes of memory, more than {limit:,}"


def _time(target: Target, data: bytes) -> float:
    """Return the CPU time of an input in seconds."""
    began = time.thread_time()
    with _interrupted_when_hanging():
        target.run(data)
    return time.thread_time() - began


@contextmanager
def _interrupted_when_hanging() -> Iterator[None]:
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise AssertionError(f"still running after {HANGING:g} s of CPU")

    previous = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGING, 1.0)  # again if it is swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def fuzz(target: Target, seconds: float) -> int:
    """Fuzz a target for some time; return the number of inputs, or raise with the smallest that fails."""
    deadline = time.monotonic() + seconds
    fixed = os.environ.get("FUZZ_SEED")
    seeds = random.Random(f"{fixed} {target.name}") if fixed else random.SystemRandom()
    count = 0
    failed = False  # what has failed once is made smaller, however long that takes
    while time.monotonic() < deadline:

        @seed(seeds.randrange(2**32))
        @settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs(target))
        def batch(data: bytes) -> None:
            nonlocal count, failed
            if time.monotonic() < deadline or failed:
                count += 1
                try:
                    check(target, data)
                except BaseException:
                    failed = True
                    raise

        try:
            batch()
        except BaseException as error:
            if not failed:
                raise
            # As text, because pytest cannot show frames without a line, as those of an interrupted input.
            raise AssertionError("".join(traceback.format_exception(error))) from None
    return count
