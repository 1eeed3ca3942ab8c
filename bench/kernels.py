"""What each op has to move and to compute on a GPU, what bounds it, and what its kernels use.

    python bench/kernels.py BUILD_FOLDER [--report REPORT.json] [--output TABLE.md]

Bytes and operations are counted, on AlexNet's and ZFNet's shapes; the limit is the longer of what
the bytes and what the operations take at the rates given. Registers and fixed shared memory are
ptxas's; the warps are what the registers alone leave room for on a multiprocessor of 65,536. Times
come from a report of `bench/report.py --device cuda`; without one they are not measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "build_support")]

from cases import Case, cases  # noqa: E402
from cuda_resources import Kernel, kernels, readable  # noqa: E402

REGISTERS, MOST_WARPS = 65536, 64  # of a multiprocessor, compute capability 8.0 and 9.0

# Parts of the names of each op's kernels.
KERNELS = {
    "conv2d": "conv2d_(image|weight)_mma_kernel<MmaTile",
    "conv2d, fastconv_wgmma": "conv2d_(image|weight)_mma_kernel<WgmmaTile",
    "tiled_conv2d": "tiled_conv2d|conv2d_(image|weight)_mma_kernel<MmaTile",
    "max_pool2d": "max_pool2d|max_unpool2d_forward",
    "local_response_norm_max_pool2d": "norm_pool_",
    "local_response_norm": "response_norm",
    "local_contrast_norm": "contrast_",
    "stochastic_pool2d": "stochastic_pool2d_forward|max_unpool2d_forward",
}
# What to try next, by what the counts say; each is a prediction until a GPU has measured it.
NEXT = {
    "conv2d": "the warpgroup products below: mma.sync reaches about 60 % of Hopper's rate",
    "conv2d, fastconv_wgmma": "a measurement: no GPU has run them",
    "tiled_conv2d": "as conv2d",
    "max_pool2d": "nothing: behind a norm, local_response_norm_max_pool2d",
    "avg_pool2d": "nothing: one read, one write",
    "stochastic_pool2d": "a profile: Philox's rounds may outweigh the bytes",
    "stochastic_pool2d_mean": "a profile: two sums a window",
    "local_response_norm": "nothing where local_response_norm_max_pool2d takes its place",
    "local_response_norm_max_pool2d": "packs of 16 bytes; a profile of the divisions and roots",
    "local_contrast_norm": "the mean over the image in the first pass: x is read twice now",
    "maxout": "nothing: one read, one write",
    "drop_connect": "masks applied to fragments in registers before tensor-core products",
    "prepare_images": "nothing: each byte read once",
}


def used(op: str, found: list[tuple[str, Kernel]]) -> str:
    """Registers, fixed shared bytes and warps of an op's bfloat16 kernels for sm_90a."""
    pattern = re.compile(KERNELS.get(op, re.escape(op)))
    mine = [k for name, k in found if pattern.match(name) and "bfloat16" in name]
    if not mine:
        return "not built | |"
    registers = [k.registers for k in mine]
    shared = max(k.shared for k in mine)
    warps = min(MOST_WARPS, REGISTERS // (-(-max(registers) // 8) * 8 * 32))
    span = f"{min(registers)}-{max(registers)}" if len(set(registers)) > 1 else f"{registers[0]}"
    return f"{span} | {shared} | {warps}"


def rows(batch: int, args: argparse.Namespace) -> list[list[str]]:
    times = measured(args.report)
    table = []
    for case in cases(batch):
        for passes, moved, flops in counted(case):
            by_bytes = (moved * 2 + case.moved_bytes) / args.copy / 1e9
            by_flops = flops / args.product / 1e12
            limit = max(by_bytes, by_flops)
            seconds = times.get((case.op, case.shape, batch, passes))
            table.append(
                [
                    f"{case.op}, {case.shape}",
                    str(batch),
                    passes,
                    f"{(moved * 2 + case.moved_bytes) / 1e6:.1f}",
                    f"{flops / 1e9:.1f}" if flops else "",
                    f"{1e6 * limit:.0f}",
                    "arithmetic" if by_flops > by_bytes else "memory",
                    f"{1e6 * seconds:.0f}" if seconds else "not measured",
                    f"{limit / seconds:.0%}" if seconds else "",
                ]
            )
    return table


def counted(case: Case) -> list[tuple[str, int, int]]:
    """(pass, elements moved, operations) of the forward pass, and of both together."""
    both = case.moved + case.backward_moved, case.flops + case.backward_flops
    forward = [("forward", case.moved, case.flops)]
    return forward + ([("forward+backward", *both)] if case.learns else [])


def measured(report: Path | None) -> dict[tuple, float]:
    """Seconds by (op, shape, batch, pass)."""
    if report is None:
        return {}
    found = json.loads(report.read_text())
    if "cuda" not in found["facts"]["torch"] and "+cu" not in found["facts"]["torch"]:
        raise SystemExit(f"{report}: not a GPU's report (torch {found['facts']['torch']})")
    return {
        (row["op"], row["shape"], row["batch"], row["pass"]): row["ms"][row["ours"]] / 1000
        for row in found["rows"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="folder of a build with CUDA")
    parser.add_argument("--batch", type=int, nargs="+", default=[128])
    parser.add_argument("--copy", type=float, default=3.0, help="TB/s of a copy (H100: 3.0)")
    parser.add_argument("--product", type=float, default=800, help="TFLOP/s, bfloat16 (H100: 800)")
    parser.add_argument("--report", type=Path, help="report.json of a GPU")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.copy *= 1000  # GB/s
    chosen = [k for k in kernels(args.build) if k.architecture == "sm_90a"]
    found = list(zip(readable([k.name for k in chosen]), chosen, strict=True))
    header = ["op", "batch", "pass", "MB", "GFLOP", "limit, us", "bound by", "us", "of limit"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for batch in args.batch:
        lines += ["| " + " | ".join(row) + " |" for row in rows(batch, args)]
    lines += ["", "bfloat16 kernels for sm_90a:", ""]
    lines += ["| op | registers | static shared, bytes | warps | next |", "|---|---|---|---|---|"]
    ops = list(dict.fromkeys(case.op for case in cases(1)))
    ops.insert(1 + ops.index("conv2d"), "conv2d, fastconv_wgmma")
    lines += [f"| {op} | {used(op, found)} | {NEXT.get(op, '')} |" for op in ops]
    text = "\n".join(lines) + "\n"
    if args.output:
        args.output.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
