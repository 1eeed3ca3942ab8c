"""What the CUDA kernels use, as ptxas reported it while they were built.

    python build_support/cuda_resources.py [BUILD_FOLDER]

Prints a table and fails where a kernel spills registers or has a stack frame that ACCEPTED does not
list. Where nvcc was not found there is nothing to report.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# (part of a kernel's name, architecture or "", bytes of stack): frames known and found harmless.
ACCEPTED: list[tuple[str, str, int]] = []

_KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


class Kernel(NamedTuple):
    name: str
    architecture: str
    registers: int
    shared: int  # bytes that are fixed; a launch may ask for more
    stack: int
    spills: int

    @property
    def is_fine(self) -> bool:
        if self.stack == 0 and self.spills == 0:
            return True
        return self.spills == 0 and any(
            part in self.name and arch in ("", self.architecture) and self.stack <= most
            for part, arch, most in ACCEPTED
        )


def kernels(folder: Path) -> list[Kernel]:
    """Every kernel in the reports below a build folder."""
    found = []
    for report in sorted(folder.rglob("*.ptxas")):
        name = architecture = None
        frame = (0, 0, 0)
        for line in report.read_text().splitlines():
            if match := _KERNEL.search(line):
                name, architecture = match.groups()
            elif match := _FRAME.search(line):
                frame = tuple(int(number) for number in match.groups())
            elif name and (match := _USED.search(line)):
                shared = _SHARED.search(line)
                bytes_shared = int(shared[1]) if shared else 0
                registers = int(match[1])
                found.append(
                    Kernel(name, architecture, registers, bytes_shared, frame[0], sum(frame[1:]))
                )
                name = None
    return found


def readable(names: list[str]) -> list[str]:
    """Names as the source writes them, without arguments and namespaces."""
    try:
        text = subprocess.run(
            ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return names
    plain = []
    for line in text.splitlines():
        line = line.removeprefix("void ").replace("fastconv::", "")
        depth, end = 0, len(line)
        for i, character in enumerate(line):
            depth += (character == "<") - (character == ">")
            if character == "(" and depth == 0:
                end = i
                break
        plain.append(line[:end])
    return plain


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    found = kernels(folder)
    if not found:
        print(f"no CUDA kernels were built below {folder}")
        return 0
    rows: dict[str, list[Kernel]] = {}
    for name, kernel in zip(readable([k.name for k in found]), found, strict=True):
        rows.setdefault(name, []).append(kernel)
    print("| kernel | registers | shared bytes | stack | spills |")
    print("|---|---|---|---|---|")
    for name, same in sorted(rows.items()):
        columns = [
            "-".join(str(n) for n in sorted({min(values), max(values)}))
            for values in zip(*(k[2:] for k in same), strict=True)
        ]
        print(f"| {name} | {' | '.join(columns)} |")
    architectures = sorted({k.architecture for k in found})
    bad = [k for k in found if not k.is_fine]
    for kernel in bad:
        print(f"not accepted: {kernel}", file=sys.stderr)
    verdict = f"{len(bad)} of them spill" if bad else "no spills, no stack frames but accepted ones"
    print(f"\n{len(found)} kernels for {', '.join(architectures)}: {verdict}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
