"""``--snapshots``: weights that were kept after some epochs."""

import pytest
import torch
from safetensors.torch import load_file

import fastconv
from fastconv import training
from fastconv.run import RunError
from fastconv.training.settings import SettingsError, resolve


def settings(path, **given):
    return training.Settings(
        model="digits_convnet", epochs=3, batch_size=64, output=str(path), **given
    )


@pytest.fixture(scope="module")
def snapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("snapshots") / "run"
    assert training.start(settings(path, snapshots=[1, 3])).fit()
    return path


def test_snapshots_are_the_weights_of_their_epochs(snapped, tmp_path):
    assert sorted(p.name for p in (snapped / "snapshots").iterdir()) == [
        "0001.safetensors",
        "0003.safetensors",
    ]
    run = fastconv.Run.open(snapped, weights=1)
    assert run.snapshots == [1, 3] and run.weights == 1
    last = load_file(snapped / "last.safetensors")
    assert all(torch.equal(last[k], v) for k, v in load_file(run.weights_path(3)).items())
    assert not torch.equal(run.model.conv1.weight, last["conv1.weight"])

    # The same training, stopped after its first epoch, stands where the snapshot was taken.
    short = training.start(settings(tmp_path / "short"))
    short._train_epoch()
    assert all(
        torch.equal(v, short.model.state_dict()[k]) for k, v in run.model.state_dict().items()
    )


def test_a_snapshot_that_a_kill_left_out_is_written_on_resuming(tmp_path):
    trainer = training.start(settings(tmp_path / "run", snapshots=[1]))
    # Killed between the state and what follows from it.
    trainer.record.epoch_end = lambda trainer: None
    trainer._train_epoch()
    trainer._end_epoch(trainer._validate())
    assert not (tmp_path / "run" / "snapshots").exists()
    training.resume(tmp_path / "run")
    kept = load_file(tmp_path / "run" / "snapshots" / "0001.safetensors")
    assert all(torch.equal(kept[k], v) for k, v in trainer.model.state_dict().items())


def test_more_snapshots_may_be_asked_for_on_resuming(tmp_path):
    trainer = training.start(settings(tmp_path / "run"))
    trainer._train_epoch()
    trainer._end_epoch(trainer._validate())
    resumed = training.resume(tmp_path / "run", {"snapshots": [2]})
    assert resumed.fit()
    assert fastconv.Run.open(tmp_path / "run").snapshots == [2]


def test_wrong_snapshots_are_named(snapped):
    with pytest.raises(FileNotFoundError, match=r"0002.*no such snapshot; there are: 1, 3"):
        fastconv.Run.open(snapped, weights=2)
    with pytest.raises(ValueError, match="must be 'best' or 'last', or the epoch of a snapshot"):
        fastconv.Run.open(snapped, weights=True)
    (snapped / "snapshots" / "0004.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunError, match=r"0004\.safetensors: not a whole safetensors file"):
        fastconv.Run.open(snapped, weights=4)
    for wrong in ("2,1", "0,1", "one"):
        with pytest.raises(SettingsError, match="snapshots: expected rising whole numbers"):
            resolve({"snapshots": wrong})
