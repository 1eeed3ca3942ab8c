"""Whole models: a training step and inference, fastconv's layers beside torch's.

    python bench/models.py [--model alexnet zfnet] [--batch 32] [--compiled] [--output FOLDER]

All implementations start from the same weights and take turns, round by round, in one process.
Peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import fastconv  # noqa: E402
from fastconv import nn as fnn  # noqa: E402

TORCHS = {
    fnn.Conv2d: nn.Conv2d,
    fnn.MaxPool2d: nn.MaxPool2d,
    fnn.LocalResponseNorm: nn.LocalResponseNorm,
}
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def torchs(model: nn.Module) -> nn.Module:
    """A copy with torch's layers in place of ours: the same parameters and the same function."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) in TORCHS:
            module.__class__ = TORCHS[type(module)]
    return model


OURS = "fastconv channels_last"


def implementations(compiled: bool) -> list[str]:
    """Names, ours first."""
    kinds = ["torch", "compiled"] if compiled else ["torch"]
    return [OURS, *(f"{kind} {layout}" for kind in kinds for layout in FORMATS)]


def build(implementation: str, name: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """The model, the same for every implementation, and images."""
    kind, layout = implementation.split()
    torch.manual_seed(0)
    model = fastconv.create_model(name, init="he")
    images = torch.randn(batch, *model.input_size).contiguous(memory_format=FORMATS[layout])
    model = fastconv.fuse(model) if kind == "fastconv" else torchs(model)
    model = model.to(memory_format=FORMATS[layout])
    return torch.compile(model) if kind == "compiled" else model, images


def training_step(model: nn.Module, images: torch.Tensor):
    """Forward, loss, backward and fused SGD, as a function without arguments."""
    labels = torch.arange(len(images)) % 1000
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True
    )

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def inference(model: nn.Module, images: torch.Tensor):
    model.eval()

    def run():
        with torch.inference_mode():
            return model(images)

    return run


WORK = {"training step": training_step, "inference": inference}


def rows(name: str, batch: int, work: str, compiled: bool, rounds: int):
    """Median seconds by implementation, and the ratio to the best peer within each round."""
    functions = {key: WORK[work](*build(key, name, batch)) for key in implementations(compiled)}
    if work == "inference":  # dropout makes training losses differ
        first, *others = [function() for function in functions.values()]
        for other in others:
            torch.testing.assert_close(first, other, rtol=1e-3, atol=1e-3 * other.abs().max())
    for function in functions.values():
        function()
    times = {key: [] for key in functions}
    for _ in range(rounds):
        for key, function in functions.items():
            start = time.perf_counter()
            function()
            times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    ours, *peers = medians
    result = {"model": name, "batch": batch, "work": work, "images/s": {}, "ratio": {}}
    for key, seconds in medians.items():
        result["images/s"][key] = round(batch / seconds, 1)
    for key in peers:
        ratios = [b / a for a, b in zip(times[ours], times[key], strict=True)]
        result["ratio"][key] = round(statistics.median(ratios), 2)
    return result


def peak_megabytes(name: str, batch: int, implementation: str) -> int:
    """Of a process that takes three training steps (Linux)."""
    command = [sys.executable, __file__, "--model", name, "--batch", str(batch)]
    command += ["--peak", implementation]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["alexnet", "zfnet"])
    parser.add_argument("--batch", type=int, default=32, help="of training (default: 32)")
    parser.add_argument("--compiled", action="store_true", help="torch.compile's peers too")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="folder for models.json")
    args = parser.parse_args()
    if args.peak:
        step = training_step(*build(args.peak, args.model[0], args.batch))
        for _ in range(3):
            step()
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
        return
    found = []
    for name in args.model:
        for work, batch in (("training step", args.batch), ("inference", 1), ("inference", 16)):
            row = rows(name, batch, work, args.compiled, args.rounds)
            if work == "training step":
                row["peak MB"] = {key: peak_megabytes(name, batch, key) for key in row["images/s"]}
            found.append(row)
            print(json.dumps(row), flush=True)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        text = json.dumps({"facts": facts, "rows": found}, indent=1)
        (args.output / "models.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
