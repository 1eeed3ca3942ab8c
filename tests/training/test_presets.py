"""The presets: complete, sourced line by line, and what the papers print."""

import re

import pytest

import fastconv
from fastconv.cli import main
from fastconv.training import resolve
from fastconv.training.presets import FOLDER, preset_names, read_config
from fastconv.training.settings import MODEL_DEFAULTS, SettingsError

NAMES = ["alexnet2012", "caffenet", "zfnet2013"]


def test_the_presets_are_listed():
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_line_has_its_source(name):
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert "ource" in "".join(line for line in lines if line.startswith("#"))
    for line in lines:
        if re.match(r"\s*\w+: \S", line):
            assert re.search(r"#.{4,}", line), line
        assert len(line) <= 100, line


@pytest.mark.parametrize("name", NAMES)
def test_presets_name_every_choice_that_matters(name):
    """Nothing that changes the result is left to a default, which may change."""
    config = read_config(name)
    needed = {
        *("model", "model_kwargs", "recipe", "mean", "units", "crops", "pca_noise", "epochs"),
        *("batch_size", "momentum", "lr", "bias_lr", "weight_decay", "bias_decay", "sched"),
    }
    assert needed <= set(config)
    assert set(MODEL_DEFAULTS.get(config["model"], {})) <= set(config)
    settings = resolve({}, config)
    model = fastconv.create_model(settings.model, num_classes=2, **settings.model_kwargs)
    assert model.input_units == settings.units


def test_alexnets_figures():
    settings = resolve({}, read_config("alexnet2012"))
    assert (settings.lr, settings.bias_lr, settings.momentum) == (0.01, 2.0, 0.9)
    assert (settings.weight_decay, settings.batch_size, settings.epochs) == (5e-4, 128, 90)
    assert settings.decay_milestones == [25, 51, 79] and settings.pca_noise == 0.1
    assert settings.model_kwargs["dropout_scale"] == "test"


def test_zfnets_figures():
    settings = resolve({}, read_config("zfnet2013"))
    assert (settings.sched, settings.max_filter_rms, settings.crops) == ("plateau", 0.1, "ten")
    assert (settings.epochs, settings.batch_size, settings.lr) == (70, 128, 0.01)


def test_flags_add_to_a_presets_model_arguments():
    given = {"model_kwargs": {"init": "he"}, "lr": 0.02}
    settings = resolve(given, read_config("alexnet2012"))
    assert settings.model_kwargs["init"] == "he" and settings.model_kwargs["variant"] == "code"
    assert settings.lr == 0.02 and settings.bias_lr == 2.0


def test_a_file_of_a_presets_name_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "caffenet").write_text("epochs: 3\n")
    assert read_config("./caffenet") == {"epochs": 3}
    assert read_config("caffenet")["epochs"] == 90
    with pytest.raises(FileNotFoundError, match=r"no such preset \(alexnet2012, caffenet, zf"):
        read_config("alexnet")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(SettingsError, match="must hold lines of name: value"):
        read_config("list.yaml")


def test_a_preset_trains_a_folder(tmp_path, picture_folder):
    run = tmp_path / "run"
    flags = ["--config", "zfnet2013", "--epochs", "1", "--batch-size", "4", "--image-size", "64"]
    assert main(["train", str(picture_folder), *flags, "--output", str(run)]) == 0
    settings = fastconv.Run.open(run, weights="last").config["settings"]
    assert settings["crops"] == "ten" and settings["sched"] == "plateau"
    steps = [step["name"] for step in fastconv.Run.open(run).config["transforms"]["train"]]
    assert "RandomTenCrop" in steps and "PCANoise" not in steps


@pytest.mark.parametrize("preprocess", ["zca", "contrast"])
def test_preprocessed_data_train_and_predict(tmp_path, picture_folder, preprocess):
    run = tmp_path / "run"
    flags = ["--model", "cifar_dropconnect", "--recipe", "plain", "--preprocess", preprocess]
    flags += ["--epochs", "1", "--batch-size", "4", "--lr", "0.001"]
    assert main(["train", str(picture_folder), *flags, "--output", str(run)]) == 0
    opened = fastconv.Run.open(run)
    assert len(opened.predict([next(picture_folder.rglob("*.jpg"))])[0]) == 2


def test_zca_of_photographs_is_refused_before_anything_is_written(tmp_path, picture_folder, capsys):
    run = tmp_path / "run"
    flags = ["--preprocess", "zca", "--model-kwargs", "init=he", "--output", str(run)]
    assert main(["train", str(picture_folder), *flags]) == 2
    assert "zca whitening: an image must have at most 5,000 values" in capsys.readouterr().err
    assert not run.exists()
