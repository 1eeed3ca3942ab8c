"""Two builds of fastconv beside each other: what a change has gained.

    git worktree add ../before HEAD && (cd ../before && python setup.py build_ext --inplace)
    python bench/duel.py ../before . [--op conv2d] [--shape conv3] [--batch 16] [--threads 2]
                                     [--rounds 41] [--layout channels_last]
    python bench/duel.py ../before . --model alexnet --batch 32

Each build lives in a process of its own and runs the cases of its own bench/cases.py, or of its
bench/models.py a model's training step and inference. They take turns, a call or a few at a time,
so that whatever else the machine does meets both alike; the ratio is the median over rounds of
(first's time / second's): above 1, the second is the faster one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

FORMATS = ("channels_last", "nchw")


class Worker:
    """A build's process, which times one case when it is asked."""

    def __init__(self, root: Path, options: dict):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(options)]
        # The threads of the one whose turn it is not must not wait in a busy loop.
        self._process = subprocess.Popen(
            [*command, str(root.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        self.cases: list[str] = self.ask()

    def ask(self, request: object = None):
        if request is not None:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("duel.py: a build's process ended before it answered")
        return json.loads(answer)


def work(root: str, options: dict) -> None:
    """The worker: names its cases, then answers each (case, calls) with the seconds of a call."""
    sys.path[:0] = [root, f"{root}/bench"]
    import torch

    torch.set_num_threads(options["threads"])
    functions = model_functions(options) if options["model"] else op_functions(options)
    print(json.dumps(list(functions)), flush=True)
    for line in sys.stdin:
        name, calls = json.loads(line)
        start = time.perf_counter()
        for _ in range(calls):
            functions[name]()
        print(json.dumps((time.perf_counter() - start) / calls), flush=True)


def model_functions(options: dict) -> dict:
    import torch
    from models import OURS, Setting, inference, training_step

    setting = Setting(options["model"], options["batch"], "cpu", torch.float32)
    return {
        f"{setting.model}: training step": training_step(OURS, setting),
        f"{setting.model}: inference": inference(OURS, setting),
    }


def op_functions(options: dict) -> dict:
    import torch
    from cases import cases
    from report import FORMATS as MEMORY_FORMATS
    from report import both_ways

    functions = {}
    for case in cases(options["batch"], options["op"]):
        if options["shape"] not in case.shape:
            continue
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(*shape, generator=generator) for shape in case.tensors]
        if case.positive:
            tensors[0].relu_()
        for t in tensors[1:]:
            t.div_(t[0].numel() ** 0.5)
        layout = MEMORY_FORMATS[options["layout"]]
        tensors = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in tensors]
        leaves = [tensors[i].requires_grad_() for i in case.learns]
        result = case.ours(*tensors)
        gradient = torch.ones_like(result[0] if isinstance(result, tuple) else result)

        def forward(case=case, tensors=tensors):
            with torch.no_grad():
                return case.ours(*tensors)

        def both(case=case, tensors=tensors, leaves=leaves, gradient=gradient):
            return both_ways(case.ours, tensors, leaves, gradient)

        functions[f"{case.op} {case.shape}: forward"] = forward
        if case.learns:
            functions[f"{case.op} {case.shape}: forward+backward"] = both
    return functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="root of a built checkout")
    parser.add_argument("second", type=Path, help="root of another one")
    parser.add_argument("--op", default="", help="part of the op's name")
    parser.add_argument("--shape", default="", help="part of the shape's name")
    parser.add_argument("--model", default="", help="in place of ops, a whole model")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--layout", default="channels_last", choices=FORMATS)
    args = parser.parse_args()
    options = {k: v for k, v in vars(args).items() if k not in ("first", "second", "rounds")}
    first, second = (Worker(root, options) for root in (args.first, args.second))
    for name in (n for n in first.cases if n in second.cases):
        once = max(worker.ask((name, 1)) for worker in (first, second, first, second))
        calls = max(1, int(0.01 / once))
        times = [(first.ask((name, calls)), second.ask((name, calls))) for _ in range(args.rounds)]
        ratio = statistics.median(a / b for a, b in times)
        a, b = (statistics.median(side) * 1e3 for side in zip(*times, strict=True))
        print(f"{name}: {a:.4g} ms, {b:.4g} ms, ratio {ratio:.3f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[3], json.loads(sys.argv[2]))
    else:
        main()
