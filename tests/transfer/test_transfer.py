"""Tapping, linear classifiers on features, and training further."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

import fastconv
from fastconv import data, transfer
from fastconv.cli import main
from fastconv.transfer import linear


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("transfer") / "digits"
    assert main(["train", "--epochs", "2", "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def digits(digits_run):
    return transfer.open_images(None, fastconv.Run.open(digits_run).transform)


# -- layers and features --------------------------------------------------------------------------


def test_layers_are_numbered_as_in_the_papers():
    alexnet = fastconv.create_model("alexnet", num_classes=3)
    expected = ["pool1", "pool2", "relu3", "relu4", "pool5", "relu6", "relu7", "fc8"]
    assert transfer.numbered_layers(alexnet) == expected
    zfnet = fastconv.create_model("zfnet", num_classes=3)
    assert transfer.numbered_layers(zfnet)[:2] == ["norm1", "norm2"]
    assert transfer.parse_layers(alexnet, "1, 3-5,fc7") == {
        "1": "pool1",
        "3": "relu3",
        "4": "relu4",
        "5": "pool5",
        "fc7": "fc7",
    }
    with pytest.raises(ValueError, match=r"layers: the model has layers 1 to 8 \(got '7-9'\)"):
        transfer.parse_layers(alexnet, "7-9")
    with pytest.raises(ValueError, match="layer: the model has no 'poool5'; closest: pool5"):
        transfer.parse_layers(alexnet, "poool5")


def test_features_are_what_the_layers_give(digits_run, digits):
    run = fastconv.Run.open(digits_run)
    taps = transfer.extract(run.model, digits, ["pool1", "fc4"], batch_size=100, dtype="float32")
    assert taps["pool1"].shape == (1797, 32 * 4 * 4) and taps["fc4"].shape == (1797, 10)
    images = torch.stack([digits[i][0] for i in (0, 99, 1500)])
    with torch.no_grad():
        expected = run.model(images)
        pooled = run.model[:4](images).flatten(1)
    np.testing.assert_allclose(taps["fc4"][[0, 99, 1500]], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(taps["pool1"][[0, 99, 1500]], pooled, rtol=1e-5, atol=1e-5)


def test_all_images_of_both_splits_are_there(digits):
    assert len(digits) == 1797
    counts = np.bincount(load_digits().target)
    assert np.array_equal(np.bincount(digits.targets), counts)
    assert [digits[i][1] for i in (0, 1432, 1433, 1796)] == digits.targets[
        [0, 1432, 1433, 1796]
    ].tolist()


def test_the_cache_is_found_again_and_knows_its_weights(digits_run, digits, tmp_path):
    run = fastconv.Run.open(digits_run)
    calls = []
    options = {"cache": tmp_path, "progress": lambda done, total: calls.append(done)}
    first = transfer.extract(run.model, digits, ["relu3"], **options)
    assert calls[-1] == 1797 and isinstance(first["relu3"], np.memmap)
    calls.clear()
    again = transfer.extract(run.model, digits, ["relu3"], **options)
    assert not calls and np.array_equal(first["relu3"], again["relu3"])
    transfer.extract(run.model, digits, ["relu3", "fc4"], **options)
    assert calls  # one layer more is computed, into the same folder
    assert len(list(tmp_path.iterdir())) == 1
    with torch.no_grad():
        run.model.conv1.bias += 1
    other = transfer.extract(run.model, digits, ["relu3"], **options)
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.array_equal(first["relu3"], other["relu3"])
    assert not list(tmp_path.rglob("*.partial"))


def test_what_half_precision_cannot_hold_is_refused(digits_run, digits):
    model = fastconv.Run.open(digits_run).model
    with torch.no_grad():
        model.fc4.weight *= 1e6
    with pytest.raises(ValueError, match="fc4 has activations beyond float16's range"):
        transfer.extract(model, digits, ["fc4"])


# -- linear classifiers ---------------------------------------------------------------------------


def test_splits_have_what_they_should():
    targets = np.repeat([0, 1, 2], [7, 5, 9])
    found = list(transfer.draw_splits(targets, 4, 3, test_per_class=2))
    for train, test in found:
        assert np.bincount(targets[train]).tolist() == [4, 4, 4]
        assert np.bincount(targets[test]).tolist() == [2, 1, 2]
        assert not set(train) & set(test)
    assert not np.array_equal(found[0][0], found[1][0])
    again = list(transfer.draw_splits(targets, 4, 3, test_per_class=2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(found, again, strict=True))
    with pytest.raises(ValueError, match=r"class 1 has 5 images \(got per_class=5\)"):
        next(transfer.draw_splits(targets, 5, 1))


def test_coordinates_keep_the_inner_products():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (40, 500)).astype(np.float32)
    train, test = np.arange(30), np.arange(30, 40)
    direct = linear._coordinates(features, train, test)
    reduced = linear._coordinates_of(linear._inner_products(features), train, test)
    assert reduced[0].shape == (30, 30) and reduced[1].shape == (10, 30)
    np.testing.assert_allclose(np.mean((direct[0] ** 2).sum(1)), 1)
    np.testing.assert_allclose(reduced[0] @ reduced[0].T, direct[0] @ direct[0].T, atol=1e-5)
    np.testing.assert_allclose(reduced[1] @ reduced[0].T, direct[1] @ direct[0].T, atol=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_accuracy_is_that_of_scikit_learns_own_classifiers_on_the_features(wide):
    digits = load_digits()
    features, targets = digits.data, digits.target
    if wide:  # more dimensions than images
        lift = np.random.default_rng(1).normal(size=(64, 2500))
        features = features @ lift
    scores = transfer.linear_accuracy(
        features.astype(np.float32), targets, per_class=8, splits=2, test_per_class=40
    )
    splits = list(transfer.draw_splits(targets, 8, 2, test_per_class=40))
    assert [(s.classifier, s.split) for s in scores] == [
        ("svm", 0),
        ("softmax", 0),
        ("svm", 1),
        ("softmax", 1),
    ]
    for score in scores:
        train, test = splits[score.split]
        mean = features[train].mean(0)
        scale = np.sqrt(((features[train] - mean) ** 2).sum(1).mean())
        model = (
            SVC(C=score.c, kernel="linear")
            if score.classifier == "svm"
            else LogisticRegression(C=score.c, tol=1e-6, max_iter=2000)
        )
        model.fit((features[train] - mean) / scale, targets[train])
        right = model.predict((features[test] - mean) / scale) == targets[test]
        expected = np.mean([right[targets[test] == c].mean() for c in range(10)])
        assert score.accuracy == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize("dimensions", [300, 3000])
def test_both_classifiers_learn_where_each_dimension_says_little(dimensions):
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(20), 40)
    features = rng.normal(size=(20, dimensions))[targets] + 5 * rng.normal(size=(800, dimensions))
    scores = transfer.linear_accuracy(features, targets, per_class=30, splits=1)
    assert all(score.accuracy > 0.5 for score in scores), scores


def test_random_features_are_worth_nothing():
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(10), 40)
    scores = transfer.linear_accuracy(rng.normal(size=(400, 20)), targets, per_class=10, splits=2)
    assert all(score.accuracy < 0.2 for score in scores)


# -- training further -----------------------------------------------------------------------------


def chosen(digits, per_class=20):
    ((train, test),) = transfer.draw_splits(digits.targets, per_class, 1, test_per_class=30)
    return data.Subset(digits, train), data.Subset(digits, test)


def test_the_top_alone_learns_or_all_do(digits_run, digits):
    model = fastconv.Run.open(digits_run).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train, test = chosen(digits)
    tuned, accuracy = transfer.fine_tune(model, train, test, mode="top", epochs=6, lr=0.01)
    assert accuracy > 0.85
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("fc4")), name
    tuned, accuracy = transfer.fine_tune(model, train, test, mode="all", epochs=6, lr=0.01)
    assert accuracy > 0.85
    assert not torch.equal(tuned.conv1.weight, before["conv1.weight"])
    for name, tensor in model.state_dict().items():  # the given model is not touched
        assert torch.equal(tensor, before[name])


def test_the_new_top_has_the_other_datas_classes(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    train, test = chosen(digits, 2)
    tuned, _ = transfer.fine_tune(model, train, test, mode="top", epochs=1)
    assert tuned[3].out_features == 10 and model[3].out_features == 3
    with pytest.raises(ValueError, match="mode must be one of top, all, scratch"):
        transfer.fine_tune(model, train, test, mode="bottom")


# -- the command ----------------------------------------------------------------------------------


def test_the_command_writes_table_scores_and_plots(digits_run, tmp_path, capsys):
    output = tmp_path / "out"
    flags = ["--layers", "2,fc4", "--per-class", "3,6", "--splits", "2", "--test-per-class", "20"]
    flags += ["--output", str(output), "--fine-tune", "top", "--epochs", "1"]
    assert main(["transfer", str(digits_run), *flags]) == 0
    text = capsys.readouterr().out
    assert "| trained, layer 2 |" in text and "| untrained, layer fc4 |" in text
    rows = list(csv.DictReader((output / "scores.csv").read_text().splitlines()))
    # Two classifiers, two splits, two numbers of images: pixels and two nets of two layers.
    assert len(rows) == 8 * 5 + 2
    trained = [
        float(r["accuracy"]) for r in rows if (r["features"], r["layer"]) == ("trained", "2")
    ]
    untrained = [
        float(r["accuracy"]) for r in rows if (r["features"], r["layer"]) == ("untrained", "fc4")
    ]
    assert np.mean(trained) > np.mean(untrained) + 0.2
    for name in ("layers.png", "per-class.png"):
        assert (output / name).stat().st_size > 5000
    assert main(["transfer", str(digits_run), *flags, "--controls", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["scores"]) == 8 * 2 + 2


def test_wrong_numbers_are_known_before_anything_is_computed(digits_run, capsys):
    assert main(["transfer", str(digits_run), "--layers", "1-2", "--per-class", "1000"]) == 2
    assert "per_class must leave a test image in each class" in capsys.readouterr().err
    assert main(["transfer", str(digits_run), "/nowhere/at/all"]) == 2
    assert "no such folder" in capsys.readouterr().err
