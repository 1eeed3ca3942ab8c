"""The large campaign: python -m tests.fuzz --op conv2d --cases 20000 (from the repository's root).

Each op's cases run in a child process of limited memory that writes down every case before it tries
it. A child that dies or hangs so names its case; the next one goes on with other cases.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

ROOM = 3 << 30  # bytes of memory that a child may take beyond what importing torch takes
SECONDS = 60  # of processor time for one case
PATIENCE = 3600  # seconds for one case, however busy the machine is


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--op", action="append", help="default: every op")
    parser.add_argument("--cases", type=int, default=2000, help="for each op (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="one case to run, as the campaign prints it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.op[0], options.cases, options.seed, pathlib.Path(options.child))
    if options.json:
        from .oracle import failure_of

        limit_memory()
        failure = failure_of(json.loads(options.json))
        print(failure or "as it should be")
        return 1 if failure else 0
    from .cases import OPS

    return max(campaign(op, options.cases, options.seed) for op in options.op or OPS)


def limit_memory():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


def child(op, cases, seed, folder):
    import hypothesis
    import torch

    from . import cases as strategies
    from .oracle import failure_of

    torch.set_num_threads(1)
    limit_memory()
    count = {"cases": 0, "computed": 0}
    kinds = set()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategies.cases(op))
    def run(case):
        text = json.dumps(case)
        (folder / "case").write_text(text)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        try:
            failure = failure_of(case)
        except MemoryError:
            failure = "MemoryError"
        except Exception as error:
            failure = f"reference or gradient failed: {type(error).__name__}: {str(error)[:200]}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        count["cases"] += 1
        count["computed"] += case["valid"]
        (folder / "count").write_text(json.dumps(count))
        if failure:
            kind = re.sub(r"[-\d.e+]+", "#", failure)[:70]
            if kind not in kinds:
                kinds.add(kind)
                with (folder / "failures").open("a") as out:
                    out.write(json.dumps({"failure": failure, "case": case}) + "\n")

    run()
    return 0


def campaign(op, cases, seed):
    start = time.monotonic()
    done = computed = 0
    failures, deaths = {}, []
    while done < cases and len(deaths) < 20:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            command = [sys.executable, "-m", "tests.fuzz", "--op", op, "--child", name]
            command += ["--cases", str(cases - done), "--seed", str(seed + len(deaths))]
            status = subprocess.run(command).returncode
            count = json.loads((folder / "count").read_text())
            done, computed = done + count["cases"], computed + count["computed"]
            if (folder / "failures").exists():
                for line in (folder / "failures").read_text().splitlines():
                    found = json.loads(line)
                    failures.setdefault(re.sub(r"[-\d.e+]+", "#", found["failure"])[:70], found)
            if status == 0:
                break
            died = signal.Signals(-status).name if status < 0 else f"status {status}"
            deaths.append({"failure": died, "case": json.loads((folder / "case").read_text())})
            done += 1
    for found in (*failures.values(), *deaths):
        print(f"{op}: {found['failure']}\n    {json.dumps(found['case'])}", flush=True)
    seconds = time.monotonic() - start
    print(
        f"{op}: {done} cases ({computed} that must be computed), {len(failures)} kinds of "
        f"failures, {len(deaths)} deaths, {seconds:.0f} s",
        flush=True,
    )
    return 1 if failures or deaths else 0


if __name__ == "__main__":
    sys.exit(main())
