"""Views, ensembles and errors by class, against the same by hand."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import fastconv
from fastconv import data, detection, evaluation
from fastconv.cli import main
from fastconv.evaluation import Scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of two classes, of several sizes; one is damaged."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for shade, name in ((40, "ant"), (160, "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(5):
                size = (90 + 7 * number, 80 + 3 * number, 3)
                pixels = random.integers(shade, shade + 60, size, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    (root / "val" / "bee" / "9.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory):
    """Two small AlexNets that have learned a little, each with its own seed and preprocessing."""
    paths = []
    for seed in (0, 1):
        path = tmp_path_factory.mktemp("runs") / f"seed{seed}"
        flags = ["--image-size", "64", "--epochs", "1", "--batch-size", "5", "--lr", "0.001"]
        flags += ["--model-kwargs", "init=he", "drop_layers=(3,4,6,7)", "--seed", str(seed)]
        flags += ["--mean", ("image", "color")[seed], "--output", str(path)]
        assert main(["train", str(folder), "--model", "alexnet", *flags]) == 0
        paths.append(path)
    return paths


def probabilities_by_hand(path, folder, views):
    """Picture by picture, window by window."""
    run = fastconv.Run.open(path)
    steps = run.transform.transforms
    size, whole_size = 64, 73  # 64 * 256 / 224
    before = data.transforms.Compose(steps[:-2])
    after = steps[-1]
    rows = []
    for file in sorted(folder.glob("val/*/[0-4].png")):
        whole = before(data.open_image(file))
        assert whole.shape == (3, whole_size, whole_size)
        more = whole_size - size
        places = [(0, 0), (0, more), (more, 0), (more, more), (round(more / 2),) * 2]
        crops = [after(whole[:, y : y + size, x : x + size].clone()) for y, x in places]
        if views == "center":  # whose window is resized alone, which may round otherwise
            crops = [run.transform(data.open_image(file))]
        elif views == "ten":
            crops += [crop.flip(2) for crop in crops]
        with torch.no_grad():
            if views == "dense":
                dense = detection.to_dense(run.model, (3, size, size))
                image = after(whole.clone())[None]
                maps = torch.cat([dense(image), dense(image.flip(3))]).softmax(1)
                rows.append(maps.mean((0, 2, 3)))
            else:
                rows.append(run.model(torch.stack(crops)).softmax(1).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("views", ["center", "ten", "dense"])
@pytest.mark.parametrize("member", [0, 1])
def test_views_are_those_by_hand(runs, folder, views, member):
    scores = evaluation.evaluate_run(fastconv.Run.open(runs[member]), views=views, batch_size=3)
    expected = probabilities_by_hand(runs[member], folder, views)
    torch.testing.assert_close(scores.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert scores.targets.tolist() == [0] * 5 + [1] * 5 and scores.skipped == 1


def test_layouts_and_workers_change_nothing_but_rounding(runs):
    plain = evaluation.evaluate_run(fastconv.Run.open(runs[0]), views="ten")
    run = fastconv.Run.open(runs[0])
    other = evaluation.evaluate_run(run, views="ten", channels_last=True, workers=1, batch_size=4)
    torch.testing.assert_close(plain.probabilities, other.probabilities, rtol=1e-4, atol=1e-6)


def test_the_ensemble_is_the_mean_of_softmax_outputs(runs, folder, capsys):
    assert main(["eval", *map(str, runs), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    members = [probabilities_by_hand(path, folder, "center") for path in runs]
    targets = torch.tensor([0] * 5 + [1] * 5)
    for found, expected in zip(
        [*result["members"], result["ensemble"]], [*members, (members[0] + members[1]) / 2],
        strict=True,
    ):  # fmt: skip
        assert found["top1"] == pytest.approx((expected.argmax(1) == targets).double().mean())
        loss = torch.nn.functional.nll_loss(expected.log(), targets).item()
        assert found["loss"] == pytest.approx(loss, rel=1e-4)
        assert found["images"] == 10 and found["skipped"] == 1
    assert [m["run"] for m in result["members"]] == [str(path) for path in runs]


def test_the_command_prints_members_and_ensemble(runs, folder, capsys):
    assert main(["eval", *map(str, runs), str(folder), "--views", "ten"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith(f"{runs[0]}: top-1 ")
    assert lines[2].startswith("ensemble of 2: top-1 ") and "ten)" in lines[2]


def test_views_need_room(tmp_path, capsys):
    run = str(tmp_path / "digits")
    assert main(["train", "--epochs", "1", "--output", run]) == 0
    for views in ("ten", "dense"):
        assert main(["eval", run, "--views", views]) == 2
        assert f"views: {views} needs pictures larger than" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"views: must be one of .* \(got 'five'\)"):
        evaluation.evaluate_run(fastconv.Run.open(run), views="five")


# -- scores by hand --------------------------------------------------------------------------------

SCORES = Scores(
    ["ant", "bee", "cat"],
    torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.2, 0.7, 0.1]]),
    torch.tensor([0, 0, 2, 1]),
    skipped=2,
)


def test_metrics_by_hand():
    metrics = SCORES.metrics()
    assert metrics.top1 == 0.5 and metrics.top5 == 1 and metrics.images == 4
    expected = -np.log([0.7, 0.1, 0.3, 0.7]).mean()
    assert metrics.loss == pytest.approx(expected, rel=1e-6) and metrics.skipped == 2
    sure = Scores(["a", "b"], torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert 80 < sure.metrics().loss < 90  # not infinite: one image must not hide the others


def test_confusion_and_classes_by_hand():
    assert SCORES.confusion().tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    ant, bee, cat = SCORES.per_class()
    assert (ant["images"], ant["top1"], ant["mistaken_for"], ant["mistaken"]) == (2, 0.5, "bee", 1)
    assert (bee["top1"], bee["mistaken_for"], bee["mistaken"]) == (1.0, "", 0)
    assert (cat["top1"], cat["mistaken_for"]) == (0.0, "bee")


def test_top5_by_class_is_numpys():
    torch.manual_seed(0)
    probabilities = torch.rand(200, 12).softmax(1)
    targets = torch.randint(0, 12, (200,))
    scores = Scores([str(i) for i in range(12)], probabilities, targets)
    order = np.argsort(-probabilities.numpy(), axis=1)[:, :5]
    hits = (order == targets.numpy()[:, None]).any(1)
    assert scores.metrics().top5 == pytest.approx(hits.mean())
    for index, row in enumerate(scores.per_class()):
        assert row["top5"] == pytest.approx(hits[targets.numpy() == index].mean())
    assert scores.confusion().sum() == 200


def test_members_with_another_order_of_classes():
    order = [2, 0, 1]  # the columns of the second member: cat, ant, bee
    other = Scores(
        [SCORES.classes[i] for i in order],
        SCORES.probabilities[:, order],
        torch.tensor([order.index(t) for t in SCORES.targets.tolist()]),
    )
    both = evaluation.ensemble([SCORES, other])
    torch.testing.assert_close(both.probabilities, SCORES.probabilities)
    assert both.metrics().top1 == SCORES.metrics().top1


def test_ensembles_of_other_images_or_classes_are_refused():
    other = Scores(SCORES.classes, SCORES.probabilities, torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="must have seen the same images"):
        evaluation.ensemble([SCORES, other])
    with pytest.raises(ValueError, match="must have the same classes"):
        evaluation.ensemble([SCORES, dataclasses.replace(SCORES, classes=["a", "b", "c"])])
    with pytest.raises(ValueError, match="at least one member"):
        evaluation.ensemble([])


def test_the_report(runs, tmp_path):
    assert main(["eval", str(runs[0]), "--report", str(tmp_path / "report")]) == 0
    scores = evaluation.evaluate_run(fastconv.Run.open(runs[0]))
    with open(tmp_path / "report" / "confusion.csv", newline="") as f:
        header, *rows = csv.reader(f)
    assert header[1:] == [row[0] for row in rows] == ["ant", "bee"]
    assert [[int(n) for n in row[1:]] for row in rows] == scores.confusion().tolist()
    with open(tmp_path / "report" / "classes.csv", newline="") as f:
        table = list(csv.DictReader(f))
    assert [row["class"] for row in table] == ["ant", "bee"] and table[0]["images"] == "5"
    for name in ("confusion.png", "classes.png"):
        with Image.open(tmp_path / "report" / name) as picture:
            assert min(picture.size) > 100


def test_plots_have_readable_names_and_tables_labels(tmp_path):
    names = {"ant": "an ant", "cat": "a cat"}
    evaluation.write_report(tmp_path, SCORES, names=names)
    assert "an ant" not in (tmp_path / "classes.csv").read_text()
    shown = dataclasses.replace(SCORES, classes=["an ant", "bee", "a cat"])
    axes = evaluation.confusion_figure(shown).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["an ant", "bee", "a cat"]
    evaluation._figures.save_figure(evaluation.confusion_figure(shown), tmp_path / "again.png")
    same = [(tmp_path / name).read_bytes() for name in ("confusion.png", "again.png")]
    assert same[0] == same[1]


def test_reports_of_many_classes(tmp_path):
    torch.manual_seed(0)
    names = [f"class {i}" for i in range(300)]
    scores = Scores(names, torch.rand(900, 300).softmax(1), torch.arange(900) % 299)
    files = evaluation.write_report(tmp_path, scores)
    assert [file.name for file in files] == [
        "classes.csv", "confusion.csv", "confusion.png", "classes.png",
    ]  # fmt: skip
    last = (tmp_path / "classes.csv").read_text().splitlines()[-1]
    assert last.startswith("class 299,0,,,")  # a class without images has no accuracy
