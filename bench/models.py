"""Whole models: a training step and inference, fastconv's layers beside torch's.

    python bench/models.py [--model alexnet zfnet] [--batch 32] [--compiled] [--output FOLDER]
    python bench/models.py --device cuda --dtype bfloat16 --batch 128 512 --compiled

All implementations start from the same weights and take turns, round by round, in one process.
Peak memory is that of a process of its own for each; on a GPU, what torch's allocator gave out.
There the training step also runs as a CUDA graph, ours and torch's.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
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
    fnn.Linear: nn.Linear,
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


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    model: str
    batch: int
    device: str
    dtype: torch.dtype

    def precision(self):
        """Autocast, where the dtype is not float32."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)


OURS = "fastconv channels_last"


def implementations(compiled: bool, graphs: bool) -> list[str]:
    """Names, ours first."""
    kinds = ["torch", "compiled"] if compiled else ["torch"]
    names = [OURS, *(f"{kind} {layout}" for kind in kinds for layout in FORMATS)]
    return [*names, f"{OURS} graph", "torch channels_last graph"] if graphs else names


def build(
    implementation: str, setting: Setting, frozen: bool = False
) -> tuple[nn.Module, torch.Tensor]:
    """The model, the same for every implementation, and images; ``frozen``: for inference."""
    kind, layout = implementation.split()[:2]
    torch.manual_seed(0)
    model = fastconv.create_model(setting.model, init="he")
    images = torch.randn(setting.batch, *model.input_size)
    images = images.to(setting.device).contiguous(memory_format=FORMATS[layout])
    model = fastconv.fuse(model) if kind == "fastconv" else torchs(model)
    model = model.to(setting.device, memory_format=FORMATS[layout])
    if frozen:
        model = model.eval()
        if kind == "fastconv":
            model = fastconv.freeze(model)
    if kind == "compiled" and setting.device == "cuda":
        return torch.compile(model, mode="max-autotune"), images
    if kind == "compiled":
        return torch.compile(model, options={"freezing": frozen}), images
    return model, images


def training_step(implementation: str, setting: Setting):
    """Forward, loss, backward and fused SGD, as a function without arguments."""
    model, images = build(implementation, setting)
    labels = torch.arange(len(images), device=setting.device) % 1000
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, fused=True
    )

    def step():
        optimizer.zero_grad(set_to_none=True)
        with setting.precision():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return as_graph(step) if implementation.endswith("graph") else step


def as_graph(step):
    """The same step, captured once and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warm up, as torch's documentation asks
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay():
        graph.replay()
        return loss

    return replay


def inference(implementation: str, setting: Setting):
    model, images = build(implementation, setting, frozen=True)

    def run():
        with torch.no_grad(), setting.precision():
            return model(images)

    return run


WORK = {"training step": training_step, "inference": inference}


def rows(setting: Setting, work: str, compiled: bool, rounds: int):
    """Median seconds by implementation, and the ratio to the best peer within each round."""
    gpu = setting.device == "cuda"
    torch._dynamo.reset()  # or a model's compiled variants reach the limit, and the rest run eager
    names = implementations(compiled, graphs=gpu and work == "training step")
    functions = {name: WORK[work](name, setting) for name in names}
    if work == "inference":  # dropout makes training losses differ
        first, *others = [function() for function in functions.values()]
        rough = 1e-3 if setting.dtype == torch.float32 else 2e-2
        for other in others:
            torch.testing.assert_close(first, other, rtol=rough, atol=rough * other.abs().max())
    for function in functions.values():
        function()
    times = {key: [] for key in functions}
    for _ in range(rounds):
        for key, function in functions.items():
            if gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if gpu:
                torch.cuda.synchronize()
            times[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(values) for key, values in times.items()}
    ours, *peers = medians
    result = {"model": setting.model, "batch": setting.batch, "work": work}
    result |= {"images/s": {}, "ratio": {}}
    for key, seconds in medians.items():
        result["images/s"][key] = round(setting.batch / seconds, 1)
    for key in peers:
        ratios = [b / a for a, b in zip(times[ours], times[key], strict=True)]
        result["ratio"][key] = round(statistics.median(ratios), 2)
    return result


def peak_megabytes(setting: Setting, implementation: str) -> int:
    """Of a process that takes three training steps (on a CPU: Linux)."""
    command = [sys.executable, __file__, "--model", setting.model, "--batch", str(setting.batch)]
    command += ["--device", setting.device, "--dtype", str(setting.dtype).removeprefix("torch.")]
    command += ["--peak", implementation]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(setting: Setting, implementation: str) -> None:
    step = training_step(implementation, setting)
    for _ in range(3):
        step()
    if setting.device == "cuda":
        print(torch.cuda.max_memory_allocated() >> 20)
    else:
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["alexnet", "zfnet"])
    parser.add_argument("--batch", nargs="*", type=int, default=[32], help="of training: 32")
    parser.add_argument("--inference", nargs="*", type=int, default=[1, 16], help="batches: 1 16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compiled", action="store_true", help="torch.compile's peers too")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="folder for models.json")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True

    def setting(name: str, batch: int) -> Setting:
        return Setting(name, batch, args.device, getattr(torch, args.dtype))

    if args.peak:
        print_peak(setting(args.model[0], args.batch[0]), args.peak)
        return
    works = [("training step", batch) for batch in args.batch]
    works += [("inference", batch) for batch in args.inference]
    found = []
    for name in args.model:
        for work, batch in works:
            row = rows(setting(name, batch), work, args.compiled, args.rounds)
            if work == "training step":
                row["peak MB"] = {
                    key: peak_megabytes(setting(name, batch), key) for key in row["images/s"]
                }
            found.append(row)
            print(json.dumps(row), flush=True)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if args.device == "cuda":
            facts["device"] = torch.cuda.get_device_name()
        text = json.dumps({"facts": facts, "rows": found}, indent=1)
        (args.output / "models.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
