"""A run on disk: what is read back, and what damage gets."""

import json
import shutil

import pytest
import torch

import fastconv
from fastconv.cli import main
from fastconv.run import RunError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "digits"
    assert main(["train", "--epochs", "1", "--output", str(path)]) == 0
    return path


@pytest.fixture
def run_folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def test_open_gives_all_that_is_needed(run_folder):
    run = fastconv.Run.open(run_folder)
    assert run.classes == [str(d) for d in range(10)]
    assert not run.model.training and run.weights == "best"
    assert [row["epoch"] for row in run.history] == [1]
    (guesses,) = run.predict([run.transform and _digit()], top=10)
    assert sum(g.probability for g in guesses) == pytest.approx(1, abs=1e-5)
    assert guesses == sorted(guesses, key=lambda g: -g.probability)


def _digit():
    from PIL import Image

    return Image.linear_gradient("L").resize((8, 8))


def test_best_and_last_weights(run_folder):
    best, last = (fastconv.Run.open(run_folder, weights=w).model for w in ("best", "last"))
    for a, b in zip(best.parameters(), last.parameters(), strict=True):
        assert torch.equal(a, b)  # one epoch: the last is the best
    with pytest.raises(ValueError, match="weights: must be 'best' or 'last'"):
        fastconv.Run.open(run_folder, weights="newest")


@pytest.mark.parametrize("name", ["best.safetensors", "statistics.safetensors"])
def test_truncated_weights_are_named(run_folder, name):
    whole = (run_folder / name).read_bytes()
    (run_folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=rf"{name}: not a whole safetensors file"):
        fastconv.Run.open(run_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_damaged_run_json_is_named(run_folder, text):
    (run_folder / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json: damaged"):
        fastconv.Run.open(run_folder)


def test_a_later_format_is_refused(run_folder):
    config = json.loads((run_folder / "run.json").read_text())
    config["format"] = 99
    (run_folder / "run.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"format 99, this fastconv \(.*\) reads format 1"):
        fastconv.Run.open(run_folder)


def test_weights_of_another_model_are_refused(run_folder):
    config = json.loads((run_folder / "run.json").read_text())
    config["classes"].append("10")
    (run_folder / "run.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"fc4\.(bias|weight) has shape"):
        fastconv.Run.open(run_folder)


def test_pickled_code_in_the_state_is_never_run(run_folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save(Evil(), run_folder / "state.pt")
    assert main(["train", "--resume", str(run_folder)]) == 2
    assert not (tmp_path / "pwned").exists()


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run"):
        fastconv.Run.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"not a run of fastconv \(it has no run\.json\)"):
        fastconv.Run.open(tmp_path)
