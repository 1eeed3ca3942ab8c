"""A few hundred cases of every op; the large campaign is ``python -m tests.fuzz``."""

import json
import pathlib

import hypothesis
import pytest

from fuzz.cases import OPS, cases
from fuzz.oracle import failure_of

CORPUS = json.loads((pathlib.Path(__file__).parent / "corpus.json").read_text())
FEW = {"conv2d": 200, "tiled_conv2d": 120, "local_contrast_norm": 150}


@pytest.mark.parametrize("op", OPS)
def test_any_arguments(op):
    @hypothesis.settings(
        max_examples=FEW.get(op, 250),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases(op))
    def run(case):
        failure = failure_of(case)
        assert failure is None, f"{failure}\n{json.dumps(case)}"

    run()


@pytest.mark.parametrize("entry", CORPUS, ids=lambda entry: entry["what"])
def test_what_was_found_before(entry):
    assert failure_of(entry["case"]) is None
