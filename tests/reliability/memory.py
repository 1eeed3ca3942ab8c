"""Growth of resident memory over calls of every op, forward and backward.

From the repository's root:  PYTHONPATH=.:tests python tests/reliability/memory.py --calls 10000
"""

from __future__ import annotations

import argparse
import gc
import pathlib
import resource

from reliability.everything import calls


def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def growth(call, times, warm_up=100):
    """Bytes by which resident memory grows while ``call`` is called so often."""
    for _ in range(warm_up):
        call()
    gc.collect()
    before = resident()
    for _ in range(times):
        call()
    gc.collect()
    return resident() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    for name, call in calls().items():
        grown = growth(call, options.calls)
        print(f"{name:28} {grown / 1024:8.0f} KiB in {options.calls} calls", flush=True)


if __name__ == "__main__":
    main()
