"""Every op beside its best peer, and beside the machine's limit, as one table.

    python bench/report.py [--device cuda] [--batch 16] [--dtype float32] [--op conv2d] [--compiled]
                           [--runs 3] [--output FOLDER]

Each row is checked before it is timed. Implementations take turns, round by round, and the ratio is
the median over rounds of (best peer's time / ours); above 1, fastconv is the faster one. Limits are
measured in the same run: a large copy (bytes read and written) and a large matrix product. Of
several runs each row is the one with the median ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from cases import cases  # noqa: E402

import fastconv  # noqa: E402

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class Clock:
    """Seconds of a call: by the device's own events on a GPU."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, function, calls: int) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                function()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000 / calls
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - begin) / calls


def measure(functions: dict, clock: Clock, seconds: float) -> dict[str, list[float]]:
    """Times of each function, in rounds: every round runs each of them in turn."""
    calls = {}
    for name, function in functions.items():
        function()
        calls[name] = max(1, int(0.01 / max(clock(function, 1), 1e-6)))
    longest = sum(clock(f, calls[n]) * calls[n] for n, f in functions.items())
    rounds = max(3, min(25, int(seconds / max(longest, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(clock(function, calls[name]))
    return times


def limits(device: torch.device, dtype: torch.dtype, clock: Clock) -> dict[str, float]:
    """Bytes per second of a copy, and operations per second of a matrix product."""
    large = 2**29 if device.type == "cuda" else 2**26
    a = torch.randn(large // 4, device=device)
    b = torch.empty_like(a)
    side = 8192 if device.type == "cuda" else 2048
    m = torch.randn(side, side, device=device, dtype=dtype)
    copy = min(measure({"copy": lambda: b.copy_(a)}, clock, 0.5)["copy"])
    product = min(measure({"product": lambda: m @ m}, clock, 0.5)["product"])
    return {"bytes": 2 * a.nbytes / copy, "flops": 2 * side**3 / product}


def both_ways(function, tensors, leaves, gradient):
    return torch.autograd.grad(function(*tensors), leaves, gradient)


def rows_of(case, batch, args, device, dtype, clock, limit):
    """One row for the forward pass and one for forward and backward."""
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(*shape, generator=generator) for shape in case.tensors]
    if case.positive:
        plain[0].relu_()
    for t in plain[1:]:
        t.div_(t[0].numel() ** 0.5)
    plain = [t.to(device, dtype) for t in plain]
    formats = FORMATS if plain[0].dim() == 4 else {"": torch.contiguous_format}
    ready = {}  # implementation: (function, tensors, leaves)
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    more = case.on_hopper if hopper and dtype.itemsize == 2 else {}
    for layout, memory_format in formats.items():
        tensors = [
            t.clone(memory_format=memory_format if t.dim() == 4 else torch.preserve_format)
            for t in plain
        ]
        leaves = [tensors[i].requires_grad_() for i in case.learns]
        ready[f"fastconv {layout}".strip()] = case.ours, tensors, leaves
        for name, function in more.items():
            ready[f"fastconv {name} {layout}"] = function, tensors, leaves
        ready[f"torch {layout}".strip()] = case.peer, tensors, leaves
        if args.compiled and case.compile_peer:
            torch._dynamo.reset()
            ready[f"compiled {layout}".strip()] = torch.compile(case.peer), tensors, leaves
    if case.compare:
        for ours in (n for n in ready if "fastconv" in n):
            layout = ours.split()[-1] if formats is FORMATS else ""
            peer = ready[f"torch {layout}".strip()]
            a, b = (first_of(function(*t)) for function, t, _ in (ready[ours], peer))
            scale = b.detach().abs().max().item()
            tolerance = case.tolerance * scale * (1 if dtype == torch.float32 else 8)
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=f"{case.op} {ours}")
    sizes = plain[0].element_size()
    for direction in ("forward", "forward+backward") if case.learns else ("forward",):
        functions = {}
        for name, (function, tensors, leaves) in ready.items():
            if direction == "forward":
                functions[name] = _without_gradient(function, tensors)
            else:
                gradient = torch.ones_like(function(*tensors).detach())
                functions[name] = _bound(both_ways, function, tensors, leaves, gradient)
        times = measure(functions, clock, args.seconds)
        moved, flops = case.moved, case.flops
        if direction != "forward":
            moved, flops = moved + case.backward_moved, flops + case.backward_flops
        moved = moved * sizes + case.moved_bytes
        least = max(moved / limit["bytes"], flops / limit["flops"])
        yield _row(case, batch, direction, times, least)


def first_of(result):
    return result[0] if isinstance(result, tuple) else result


def _without_gradient(function, tensors):
    def call():
        with torch.no_grad():
            return function(*tensors)

    return call


def _bound(function, *args):
    return lambda: function(*args)


def _row(case, batch, direction, times, least):
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = min((n for n in medians if "fastconv" in n), key=medians.get)
    peers = [n for n in medians if "fastconv" not in n]
    best = min(peers, key=medians.get)
    ratio = statistics.median(b / a for a, b in zip(times[ours], times[best], strict=True))
    return {
        "op": case.op,
        "shape": case.shape,
        "batch": batch,
        "pass": direction,
        "ms": {name: round(1000 * seconds, 4) for name, seconds in medians.items()},
        "ours": ours,
        "best peer": best,
        "ratio": round(ratio, 3),
        "of limit": round(least / medians[ours], 3),
    }


def median_rows(rows: list[dict]) -> list[dict]:
    """Of the rows that measure the same, each time the one with the median ratio."""
    same: dict[tuple, list[dict]] = {}
    for row in rows:
        same.setdefault((row["op"], row["shape"], row["batch"], row.get("pass")), []).append(row)
    return [sorted(of, key=lambda row: row.get("ratio", 0))[len(of) // 2] for of in same.values()]


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| op | shape | batch | pass | fastconv, ms | best peer, ms | ratio | of limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "refused" in row:
            reason = row["refused"]
            lines.append(f"| {row['op']} | {row['shape']} | {row['batch']} | {reason} | | | | |")
            continue
        ours, peer = row["ours"], row["best peer"]
        lines.append(
            f"| {row['op']} | {row['shape']} | {row['batch']} | {row['pass']} | "
            f"{row['ms'][ours]:.3g} ({ours.removeprefix('fastconv ')}) | "
            f"{row['ms'][peer]:.3g} ({peer}) | {row['ratio']:.2f} | {row['of limit']:.0%} |"
        )
    return "\n".join(lines)


def one_run(args, device, dtype, clock, limit) -> list[dict]:
    rows = []
    for batch in args.batch:
        for case in cases(batch, args.op):
            try:
                for row in rows_of(case, batch, args, device, dtype, clock, limit):
                    rows.append(row)
                    print(table([row]).splitlines()[-1], flush=True)
            except (RuntimeError, NotImplementedError, AssertionError) as error:
                # A row that fails must not take the others with it; it fails the run at the end.
                text = str(error).strip().splitlines()[0][:100]
                rows.append({"op": case.op, "shape": case.shape, "batch": batch, "refused": text})
                print(table([rows[-1]]).splitlines()[-1], flush=True)
    return rows


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    process = subprocess.run(command, capture_output=True, text=True)
    return process.stdout.strip() or "unknown"


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="element type (default: float32)")
    parser.add_argument("--batch", type=int, nargs="+", default=[16], help="default: 16")
    parser.add_argument("--op", default="", help="only ops whose name holds this")
    parser.add_argument("--compiled", action="store_true", help="torch.compile's peers too")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing a row (default: 1)")
    parser.add_argument("--runs", type=int, default=1, help="of the whole report (default: 1)")
    parser.add_argument("--output", type=Path, help="folder for report.json and report.md")
    args = parser.parse_args()

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    torch.backends.cudnn.benchmark = True
    clock = Clock(device)
    limit = limits(device, dtype, clock)
    facts = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "device": processor(device),
        **({"instructions": fastconv.info()["cpu_capability"]} if device.type == "cpu" else {}),
        "dtype": args.dtype,
        "torch": torch.__version__,
        "fastconv": fastconv.__version__,
        "copy GB/s": round(limit["bytes"] / 1e9, 1),
        "product GFLOP/s": round(limit["flops"] / 1e9, 1),
        "runs": args.runs,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    rows = []
    for _ in range(args.runs):
        rows += one_run(args, device, dtype, clock, limit)
    rows = median_rows(rows)
    text = table(rows)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "report.json").write_text(
            json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n"
        )
        head = "\n".join(f"- {key}: {value}" for key, value in facts.items())
        (args.output / "report.md").write_text(f"{head}\n\n{text}\n")
    print(f"\n{text}")
    return 1 if any("refused" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
