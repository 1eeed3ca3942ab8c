"""Kills commands at random moments, lets them go on, and compares with the undisturbed ones.

    python tests/faults/campaign.py [train] [pack] [transfer] [search] [--kills 50] [--seed 0]

Each command runs once to its end, and then again and again in another folder, each time killed
(SIGKILL, with its workers) at a moment drawn uniformly over the time that the first one took.
After each kill every file under its final name must be whole; at last the command runs to its end,
and its results must be the undisturbed ones: weights bit for bit, shards byte for byte, every
score, every trial. Results are printed as the rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from fastconv._files import read_tensors

ROOT = Path(__file__).resolve().parents[2]


class Train:
    """The digits, saving every seven steps."""

    def __init__(self, root: Path):
        pass

    def command(self, folder: Path) -> list[str]:
        if (folder / "state.pt").exists():
            return ["train", "--resume", str(folder)]
        settings = ["--epochs", "12", "--batch-size", "32", "--save-every", "7"]
        return ["train", "--threads", "1", *settings, "--output", str(folder)]

    def results(self, folder: Path) -> dict[str, object]:
        state = torch.load(folder / "state.pt", weights_only=True)
        found = {name: digest(state[name]) for name in ("model", "optimizer")}
        for name in ("last", "best"):
            found[name] = digest(read_tensors(folder / f"{name}.safetensors")[0])
        with open(folder / "log.csv", newline="") as f:  # without the columns that hold times
            found["log"] = [(row["epoch"], row["val_top1"], row["train_loss"]) for row in rows(f)]
        return found

    def progress(self, folder: Path) -> int:
        """Optimisation steps that are safe."""
        if not (folder / "state.pt").exists():
            return 0
        state = torch.load(folder / "state.pt", weights_only=True)
        return state["epoch"] * 44 + state["step"]


class Pack:
    """400 pictures into shards of 20."""

    def __init__(self, root: Path):
        self.data = root / "pictures"
        noise = np.random.default_rng(0)
        for split, count in (("train", 180), ("val", 20)):
            for name in ("bright", "dark"):
                folder = self.data / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = noise.integers(0, 256, (30, 40, 3), np.uint8)
                    picture = Image.fromarray(pixels).resize((600, 450), Image.Resampling.BICUBIC)
                    picture.save(folder / f"{i}.jpg", quality=90)

    def command(self, folder: Path) -> list[str]:
        options = ["--size", "256", "--shard-images", "20", "--workers", "1"]
        return ["pack", str(self.data), str(folder), *options]

    def results(self, folder: Path) -> dict[str, object]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def progress(self, folder: Path) -> int:
        """Whole shards."""
        return len(list(folder.rglob("*.tar")))


class Transfer:
    """Features of two layers of a run and of the untrained net, and their scores."""

    def __init__(self, root: Path):
        self.run = root / "run"
        finish(["train", "--epochs", "2", "--threads", "1", "--output", str(self.run)])

    def command(self, folder: Path) -> list[str]:
        options = ["--layers", "1-2", "--per-class", "10", "--splits", "3", "--threads", "1"]
        places = ["--output", str(folder), "--cache", str(folder / "features")]
        return ["transfer", str(self.run), *options, *places]

    def results(self, folder: Path) -> dict[str, object]:
        return {"scores": (folder / "scores.csv").read_text()}

    def progress(self, folder: Path) -> int:
        """Whole feature files."""
        return len(list((folder / "features").rglob("*.npy")))


class Search:
    """Twelve random trials."""

    TRIALS = 12

    def __init__(self, root: Path):
        self.space = root / "space.yaml"
        self.space.write_text("lr: {low: 0.001, high: 0.3, log: true}\nbatch_size: [32, 64]\n")

    def command(self, folder: Path) -> list[str]:
        options = ["--trials", str(self.TRIALS), "--epochs", "2", "--threads", "1", "--no-prune"]
        return ["search", "--space", str(self.space), "--output", str(folder), *options]

    def results(self, folder: Path) -> dict[str, object]:
        with open(folder / "trials.csv", newline="") as f:
            done = [row for row in rows(f) if row["state"] == "complete"]
        return {"trials": len(done), "best": max(float(row["top1"]) for row in done) > 0.5}

    def progress(self, folder: Path) -> int:
        """Finished trials in the database."""
        if not (folder / "search.db").exists():
            return 0
        with sqlite3.connect(folder / "search.db") as database:
            try:
                count = "select count(*) from trials where state = 'COMPLETE'"
                return database.execute(count).fetchone()[0]
            except sqlite3.OperationalError:  # no table yet
                return 0


TASKS = {"train": Train, "pack": Pack, "transfer": Transfer, "search": Search}


def rows(file) -> list[dict[str, str]]:
    return list(csv.DictReader(file))


def digest(value: object) -> str:
    """Of tensors in dictionaries and lists, bit for bit."""
    total = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            total.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                total.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for part in value:
                add(part)
        else:
            total.update(repr(value).encode())

    add(value)
    return total.hexdigest()


def check_whole(folder: Path) -> int:
    """Every file under its final name must be readable to its end; how many there are."""
    count = 0
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.parts[-3:]):
            continue  # a name that starts with a dot is of a file that is being written
        count += 1
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".yaml", ".yml"):
            yaml.safe_load(path.read_text())
        elif path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".npy":
            np.load(path, mmap_mode="r").sum(dtype=np.float64)
        elif path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".csv":
            with open(path, newline="") as f:
                assert len({len(row) for row in csv.reader(f)}) == 1, path
        elif path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    shard.extractfile(member).read()
        elif path.suffix == ".db":
            with sqlite3.connect(path) as database:
                assert database.execute("pragma integrity_check").fetchone() == ("ok",), path
    return count


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fastconv", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=os.setpgrp,  # a group of its own, to be killed with its workers
        text=True,
    )


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    said = process.communicate()[1]
    assert process.returncode == 0, said


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def disturb(name: str, kills: int, seed: int, root: Path) -> dict[str, object]:
    """One row of the table; AssertionError where anything was lost."""
    draw = random.Random(f"{name} {seed}")
    task = TASKS[name](root)
    undisturbed, folder = root / "undisturbed", root / "disturbed"
    began = time.monotonic()
    finish(task.command(undisturbed))
    seconds = time.monotonic() - began
    wanted = task.results(undisturbed)
    safe, lost, checked, rounds = 0, 0, 0, 1
    done = 0
    while done < kills:
        process = start(task.command(folder))
        try:
            said = process.communicate(timeout=draw.uniform(0, seconds))[1]
            assert process.returncode == 0, said
            assert task.results(folder) == wanted, f"{name}: not the undisturbed results"
            rounds += 1
            shutil.rmtree(folder)  # done before its kill: from the start again
            safe = 0
            continue
        except subprocess.TimeoutExpired:
            kill(process)
            done += 1
        checked += check_whole(folder) if folder.exists() else 0
        now = task.progress(folder)
        lost += now < safe
        safe = now
    finish(task.command(folder))
    assert task.results(folder) == wanted, f"{name}: not the undisturbed results"
    assert lost == 0, f"{name}: {lost} times there was less than before"
    return {
        "command": name,
        "kills": done,
        "to the end": rounds,
        "files checked": checked,
        "undisturbed, s": f"{seconds:.1f}",
        "went back": lost,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=", ".join(TASKS))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for i, name in enumerate(args.tasks):
        with tempfile.TemporaryDirectory() as root:
            row = disturb(name, args.kills, args.seed, Path(root))
        if i == 0:
            print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
