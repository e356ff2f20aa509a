"""Everything that parses bytes from outside, with hostile ones.

`make test` runs the corpus only. `FUZZ_SECONDS` is the time for new inputs, for all targets together.
"""

from __future__ import annotations

import os

import pytest
from fuzz.fuzzing import check, fuzz
from fuzz.targets import TARGETS

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_corpus_breaks_no_promise(target):
    corpus = target.corpus()
    assert corpus, f"tests/fuzz/corpus/{target.name} is empty"
    for data in corpus:
        check(target, data)


if SECONDS > 0:

    @pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of long inputs
    @pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
    def test_hostile_input_breaks_no_promise(target, record_property):
        record_property("inputs", fuzz(target, SECONDS / len(TARGETS)))
