"""What a call costs where there is next to nothing to compute, beside torch's.

    python bench/calls.py [--output FILE]

Microseconds of pools of 8 maps of 5x5: forward, forward with a gradient to come, and with it. Each
is the least of five rounds, in which a thousand calls follow one another.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F

import fastconv

POOLS = {
    "avg_pool2d": (fastconv.avg_pool2d, F.avg_pool2d),
    "max_pool2d": (fastconv.max_pool2d, F.max_pool2d),
}


def microseconds(function, calls: int = 1000, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, time.perf_counter() - start)
    return round(best / calls * 1e6, 1)


def costs(pool) -> dict[str, float]:
    x = torch.randn(1, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    leaf = x.clone().requires_grad_()
    gradient = torch.ones_like(pool(x, 3, 2))
    return {
        "forward": microseconds(lambda: pool(x, 3, 2)),
        "recorded": microseconds(lambda: pool(leaf, 3, 2)),
        "forward+backward": microseconds(
            lambda: torch.autograd.grad(pool(leaf, 3, 2), leaf, gradient)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    found = {"torch": torch.__version__, "rows": {}}
    for name, (ours, theirs) in POOLS.items():
        found["rows"][name] = {"fastconv": costs(ours), "torch": costs(theirs)}
        print(name, json.dumps(found["rows"][name]), flush=True)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
