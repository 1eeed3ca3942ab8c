"""The commands as a user meets them: results, JSON, hints, errors in one line."""

import json

import pytest
import torch
from PIL import Image

import fastconv
from fastconv.cli import main


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "digits"
    assert main(["train", "--epochs", "2", "--output", str(path)]) == 0
    return path


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "seven.png"
    Image.linear_gradient("L").resize((40, 30)).save(path)
    return path


def failing(capsys, *arguments):
    """The one line that a wrong use gets, with exit status 2."""
    with pytest.raises(SystemExit) if "argparse" in arguments else _nothing():
        assert main([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def test_eval_json(digits_run, capsys):
    assert main(["eval", str(digits_run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 364 and result["weights"] == "best"
    history = fastconv.Run.open(digits_run).history
    best = max(history, key=lambda row: row["val_top1"])
    assert result["top1"] == pytest.approx(best["val_top1"], abs=1e-6)
    assert main(["eval", str(digits_run), "--weights", "last"]) == 0
    text = capsys.readouterr()
    assert f"top-1 {100 * history[-1]['val_top1']:.2f} %" in text.out
    assert "next: fastconv predict" in text.err


def test_eval_of_a_network_that_draws_is_the_same_again(tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--model", "mnist_dropconnect", "--model-kwargs", "p=0.25", "--epochs", "1"]
    assert main(["train", *options, "--output", run]) == 0
    assert fastconv.Run.open(run).model.fc3.p == 0.25
    capsys.readouterr()
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert main(["eval", run, "--json"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_predict_is_the_models_softmax(digits_run, picture, capsys):
    assert main(["predict", str(digits_run), str(picture), "--json", "--top", "3"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    run = fastconv.Run.open(digits_run)
    with torch.no_grad():
        image = run.transform(Image.open(picture).convert("RGB"))
        probabilities = run.model(image[None])[0].softmax(0)
    expected = probabilities.topk(3)
    assert [run.classes[i] for i in expected.indices] == [p["label"] for p in result["predictions"]]
    got = [p["probability"] for p in result["predictions"]]
    assert got == pytest.approx(expected.values.tolist(), rel=1e-5)


def test_predict_goes_on_after_an_unreadable_picture(digits_run, picture, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert main(["predict", str(digits_run), str(broken), str(picture)]) == 2
    text = capsys.readouterr()
    assert "broken.jpg" in text.err and str(picture) in text.out


def test_predict_with_readable_names(digits_run, picture, tmp_path, capsys):
    names = tmp_path / "names.tsv"
    names.write_text("".join(f"{d}\tdigit {d}\n" for d in range(10)))
    assert main(["predict", str(digits_run), str(picture), "--names", str(names)]) == 0
    assert "digit " in capsys.readouterr().out


def test_config_file_and_flags_over_it(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text("epochs: 1\nlr: 3e-2\nbatch-size: 48\nnesterov: true\n")
    run = tmp_path / "run"
    assert main(["train", "--config", str(config), "--lr", "0.04", "--output", str(run)]) == 0
    settings = fastconv.Run.open(run).config["settings"]
    assert settings["lr"] == 0.04 and settings["batch_size"] == 48
    assert settings["nesterov"] is True and settings["epochs"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1\n", "unknown setting 'learning_rate'"),
        ("epoch: 1\n", "unknown setting 'epoch'; did you mean epochs"),
        ("epochs: many\n", "epochs: expected a whole number (got 'many')"),
        ("- 1\n", "must hold lines of name: value"),
        ("a: [\n", "not YAML"),
    ],
)
def test_wrong_config_files_are_named(tmp_path, capsys, text, message):
    config = tmp_path / "my.yaml"
    config.write_text(text)
    line = failing(capsys, "train", "--config", config, "--output", tmp_path / "run")
    assert line.startswith("fastconv train: ") and message in line
    assert not (tmp_path / "run").exists()


def test_wrong_uses_get_one_line(tmp_path, capsys, digits_run):
    assert "no such folder" in failing(capsys, "train", tmp_path / "nothing")
    assert "unknown model 'alexnett'; closest: alexnet" in failing(
        capsys, "train", "--model", "alexnett", "--output", tmp_path / "run"
    )
    assert "already holds a run; --resume" in failing(capsys, "train", "--output", digits_run)
    assert "no such run" in failing(capsys, "eval", tmp_path / "nothing")
    assert "not a run of fastconv" in failing(capsys, "eval", tmp_path)
    assert "must be auto, cpu, cuda" in failing(capsys, "eval", digits_run, "--device", "tpu")
    (tmp_path / "folder").mkdir()
    assert "folder" in failing(capsys, "train", tmp_path / "folder")


def test_flags_of_the_wrong_kind_are_argparses(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--lr", "fast"])
    assert caught.value.code == 2
    assert "argument --lr: expected a number (got 'fast')" in capsys.readouterr().err


def test_info_and_help(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"fastconv            {fastconv.__version__}" in text and "cpu_capability" in text
    for command in ("info", "train", "eval", "predict"):
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
    assert "--weight-decay" in capsys.readouterr().out


def test_classes_follow_the_run(tmp_path, capsys, digits_run):
    """Another class order or another set of classes can not slip in between train and eval."""
    for name in ("0", "1"):
        folder = tmp_path / "data" / "val" / name
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "0.png")
    line = failing(capsys, "eval", digits_run, tmp_path / "data")
    assert "class" in line and "2" in line
