r"""Time and memory of each page of ``fastconv visualize``, every page in a process of its own.

    python bench/visualize_pages.py RUN [RUN...] --output FOLDER --csv FILE [--pages NAME...] \
        [-- FLAGS...]

Seconds are wall clock with start-up, memory is the process's largest resident set. FLAGS go to
``fastconv visualize`` as they are.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fastconv.cli.visualize import PAGES  # noqa: E402


def measure(run: str, page: str, folder: Path, flags: list[str]) -> tuple[float, float]:
    """Seconds and MiB of making one page."""
    command = [sys.executable, "-m", "fastconv", "visualize", run, "--pages", page]
    began = time.perf_counter()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [*command, "--output", str(folder), *flags], env={**os.environ, "PYTHONPATH": path}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{run}, {page}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--csv", type=Path, required=True, metavar="FILE")
    names = [name for name, *_ in PAGES]
    parser.add_argument("--pages", nargs="+", choices=names, default=names, metavar="NAME")
    own = sys.argv[1:]
    flags = own[own.index("--") + 1 :] if "--" in own else []
    args = parser.parse_args(own[: own.index("--")] if "--" in own else own)
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with open(args.csv, "w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["run", "page", "seconds", "peak_mib"])
        for run in args.runs:
            for page in args.pages:
                if page == "evolution" and not (Path(run) / "snapshots").is_dir():
                    continue
                name = Path(run).name
                seconds, memory = measure(run, page, args.output / name, flags)
                writer.writerow([name, page, f"{seconds:.1f}", f"{memory:.0f}"])
                f.flush()


if __name__ == "__main__":
    main()
