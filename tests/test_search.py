"""Hyper-parameter search: spaces, strategies, folds, pruning, going on."""

import csv
import json

import numpy as np
import pytest

from fastconv.cli import main

optuna = pytest.importorskip("optuna")

from fastconv.search import Range, Search, describe, grid_size, read_space  # noqa: E402
from fastconv.training import SettingsError  # noqa: E402

SPACE = {"lr": Range(0.001, 0.3, log=True), "batch_size": [32, 64]}
FIXED = {"epochs": 1}


def write(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_a_space_is_read(tmp_path):
    text = "lr: {low: 1e-3, high: 0.1, log: true, points: 5}\nbatch-size: [16, 32]\n"
    text += "epochs: {low: 2, high: 9}\nmodel_kwargs.dropout: {low: 0, high: 0.5}\n"
    space = read_space(write(tmp_path, text))
    assert list(space) == ["lr", "batch_size", "epochs", "model_kwargs.dropout"]
    assert space["lr"].grid() == pytest.approx([1e-3, 10**-2.5, 1e-2, 10**-1.5, 0.1], rel=1e-4)
    assert space["epochs"].whole
    assert space["epochs"].grid() == [2, 6, 9]
    assert not space["model_kwargs.dropout"].whole
    assert grid_size(space) == 5 * 2 * 3 * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: [1]\n", "unknown setting 'learning_rate'"),
        ("lr: 0.1\n", r"lr: must be choices \[a, b\] or"),
        ("lr: {low: 1, high: 0.5}\n", "lr: must have low < high"),
        ("lr: {low: 0, high: 0.5, log: true}\n", "low above 0 where log"),
        (
            "lr: {low: 0.1, high: 0.5, step: 1}\n",
            r"a range has low, high",
        ),
        ("lr: [fast]\n", r"lr: expected a number \(got 'fast'\)"),
        ("[]\n", "must hold lines"),
    ],
)
def test_wrong_spaces_are_named(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        read_space(write(tmp_path, text))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="strategy must be one of grid, random, bayes"):
        Search("x", SPACE, strategy="luck")
    with pytest.raises(ValueError, match=r"folds must be 0 or at least 2 \(got folds=1\)"):
        Search("x", SPACE, folds=1)
    with pytest.raises(SettingsError, match="lr: is in the space and fixed"):
        Search("x", SPACE, {"lr": 0.1})
    with pytest.raises(SettingsError, match="unknown setting 'epoch'"):
        Search("x", SPACE, {"epoch": 1})


@pytest.mark.parametrize("strategy", ["random", "bayes"])
def test_a_search_goes_on_where_it_was(tmp_path, strategy):
    search = Search(tmp_path / "s", SPACE, FIXED, strategy=strategy)
    search.run(2)
    first = [t.params for t in search.trials]
    again = Search(tmp_path / "s", SPACE, FIXED, strategy=strategy)
    again.run(3)
    assert [t.params for t in again.trials][:2] == first and len(again.trials) == 3
    assert again.trials[2].params["lr"] not in [p["lr"] for p in first]  # no draw comes twice
    again.run(3)
    assert len(again.trials) == 3
    rows = list(csv.DictReader((tmp_path / "s" / "trials.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    values = [float(row["top1"]) for row in rows]
    assert max(values) == pytest.approx(again.open().best_value, abs=1e-4)
    for trial in again.trials:
        assert 0.001 <= trial.params["lr"] <= 0.3 and trial.params["batch_size"] in (32, 64)
    assert not list((tmp_path / "s" / "trials").rglob("*.safetensors"))
    with pytest.raises(ValueError, match="holds a search of another space"):
        Search(tmp_path / "s", {"lr": Range(0.1, 0.2)}, FIXED).open()


def test_a_trial_is_the_training_run_it_says(tmp_path):
    search = Search(tmp_path / "s", {"lr": [0.02]}, FIXED, keep=True)
    search.run(1)
    assert main(["train", "--lr", "0.02", "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert search.trials[0].value == pytest.approx(float(rows[-1]["val_top1"]), abs=1e-6)
    assert (tmp_path / "s" / "trials" / "0000" / "best.safetensors").is_file()


def test_a_grid_is_gone_through_once(tmp_path):
    space = {"lr": Range(0.01, 0.1, log=True, points=2), "batch_size": [32, 64]}
    search = Search(tmp_path / "s", space, FIXED, strategy="grid", prune=False)
    search.run(30)
    found = {tuple(t.params.values()) for t in search.trials}
    assert found == {(0.01, 32), (0.01, 64), (0.1, 32), (0.1, 64)} and len(search.trials) == 4


def test_folds_share_out_the_training_images(tmp_path):
    search = Search(tmp_path / "s", {"lr": [0.02]}, FIXED, folds=3)
    targets = np.random.default_rng(0).integers(0, 4, 100)
    judged = []
    for fold in range(3):
        seen, unseen = search._fold(targets, fold)
        assert sorted([*seen, *unseen]) == list(range(100))
        counts = np.bincount(targets[unseen], minlength=4)
        assert np.abs(counts - np.bincount(targets) / 3).max() < 1
        judged += unseen.tolist()
    assert sorted(judged) == list(range(100))
    search.run(1)
    logs = sorted((tmp_path / "s" / "trials" / "0000").glob("fold-*/log.csv"))
    rows = [list(csv.DictReader(log.read_text().splitlines()))[-1] for log in logs]
    assert len(rows) == 3
    mean = np.mean([float(row["val_top1"]) for row in rows])
    assert search.trials[0].value == pytest.approx(mean, abs=1e-6)


def test_hopeless_trials_are_pruned(tmp_path):
    space = {"lr": [0.05, 1e-7]}
    search = Search(tmp_path / "s", space, {"epochs": 3}, seed=1)
    study = search.open()
    for _ in range(5):
        study.enqueue_trial({"lr": 0.05})
    study.enqueue_trial({"lr": 1e-7})
    lines = []
    search.run(6, say=lines.append)
    last = search.trials[-1]
    assert last.state.name == "PRUNED" and len(last.intermediate_values) == 2
    assert "pruned in epoch 2" in lines[-1] and "pruned" in describe(last, study)
    assert all(t.state.name == "COMPLETE" for t in search.trials[:5])


def test_the_command_with_two_workers(tmp_path, capsys):
    space = write(tmp_path, "lr: {low: 0.001, high: 0.1, log: true}\nnesterov: [true, false]\n")
    output = tmp_path / "found"
    flags = ["--space", str(space), "--epochs", "1", "--trials", "5", "--jobs", "2"]
    assert main(["search", *flags, "--output", str(output), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["trials"] >= 5 and result["top1"] > 0.3
    for name in ("trials.csv", "best.yaml", "history.png", "importance.png"):
        assert (output / name).stat().st_size > 50
    assert sum(result["importance"].values()) == pytest.approx(1)
    # What was found is a configuration of train.
    flags = ["--config", str(output / "best.yaml"), "--output", str(tmp_path / "run")]
    assert main(["train", *flags]) == 0
