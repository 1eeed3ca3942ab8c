"""Training steps and inference of whole models: ``pytest bench/bench_models.py``."""

import pytest
import torch
from models import WORK, Setting, implementations

CASES = [("training step", 8), ("inference", 1), ("inference", 16)]


@pytest.mark.parametrize("implementation", implementations(compiled=False, graphs=False))
@pytest.mark.parametrize(("work", "batch"), CASES, ids=[f"{w} of {b}" for w, b in CASES])
@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_model(benchmark, name, work, batch, implementation):
    benchmark.group = f"{name} {work}, batch {batch}"
    function = WORK[work](implementation, Setting(name, batch, "cpu", torch.float32))
    assert function().isfinite().all()
    benchmark.pedantic(function, warmup_rounds=1, rounds=3)
    if benchmark.stats is not None:  # there are none with --benchmark-disable
        benchmark.extra_info["images/s"] = round(batch / benchmark.stats.stats.median, 1)
