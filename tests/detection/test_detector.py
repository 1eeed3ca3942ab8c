"""Detectors as a whole, on pictures with bright discs; and their parts."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import fastconv
from fastconv import data, detection
from fastconv.cli import main
from fastconv.detection.boxes import as_boxes
from fastconv.detection.candidates import PixelUnits
from fastconv.detection.heads import Samples, train_head
from fastconv.detection.proposals import recall


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A network with random weights: enough to tell a disc from noise."""
    torch.manual_seed(0)
    kwargs = {"regulariser": None}
    size = (3, 32, 32)
    statistics = {
        "mean_image": torch.full((3, 32, 32), 0.3),
        "mean_color": torch.full((3,), 0.3),
        "std": torch.tensor([0.25]),
    }
    pipeline = data.transforms.to_config(data.recipe("plain", size, statistics))
    run = fastconv.Run.create(
        tmp_path_factory.mktemp("detect") / "run",
        model="cifar_dropconnect",
        model_kwargs=kwargs,
        classes=["a", "b"],
        input_size=size,
        transforms={"train": pipeline, "eval": pipeline},
        statistics=statistics,
        settings={"data": None},
    )
    fastconv._files.write_tensors(run.weights_path("best"), run.model.state_dict())
    return fastconv.Run.open(run.path)


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """A VOC-like folder of 24 noisy pictures, each with one orange disc of 24 to 44 pixels."""
    folder = tmp_path_factory.mktemp("discs")
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        noise = rng.integers(0, 110, (80, 96, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        side = int(rng.integers(24, 45))
        left, top = int(rng.integers(0, 96 - side)), int(rng.integers(0, 80 - side))
        pen = ImageDraw.Draw(picture)
        pen.ellipse((left, top, left + side - 1, top + side - 1), fill=(250, 160, 40))
        picture.save(folder / "images" / f"{number}.png")
        corners = (left + 1, top + 1, left + side, top + side)
        names = ("xmin", "ymin", "xmax", "ymax")
        box = "".join(f"<{n}>{v}</{n}>" for n, v in zip(names, corners, strict=True))
        (folder / "annotations" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.png</filename><size><width>96</width>"
            f"<height>80</height></size><object><name>disc</name><bndbox>{box}</bndbox></object>"
            "</annotation>"
        )
    return folder


@pytest.mark.parametrize("method", ["rcnn", "dense"])
def test_discs_are_found(a_run, discs, tmp_path, capsys, method):
    output = tmp_path / "detector"
    flags = ["--train", str(discs), "--method", method, "--output", str(output), "--json"]
    flags += ["--proposals", "grid", "--most", "400", "--sizes", "48,72,96"]
    flags += ["--layer", "relu3" if method == "rcnn" else "relu4"]
    assert main(["detect", str(a_run.path), *flags]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["pictures"] == summary["objects"] == 5
    assert summary["AP"] > 0.8, summary
    assert (output / "test" / "precision-recall.png").stat().st_size > 3000
    assert len(list((output / "test" / "pictures").iterdir())) == 5
    # What was saved finds the same, and draws it.
    pictures = detection.read_annotations(discs)
    path = str(pictures[0].path)
    assert main(["detect", str(output), path, "--json", "--draw", str(tmp_path / "drawn")]) == 0
    found = json.loads(capsys.readouterr().out)[0]["found"][0]
    assert found["label"] == "disc"
    assert detection.iou(as_boxes([found["box"]]), pictures[0].boxes).item() > 0.5
    again = detection.Detector.open(output).detect(path)[0]
    assert again.box == pytest.approx(found["box"]) and again.score == pytest.approx(found["score"])
    assert (tmp_path / "drawn" / "0.png").is_file()
    assert main(["detect", str(output), "--test", str(discs)]) == 0
    assert "AP " in capsys.readouterr().out


def test_selective_search_finds_the_discs(discs):
    pytest.importorskip("cv2")
    for picture in detection.read_annotations(discs)[:6]:
        image = np.asarray(data.open_image(picture.path))
        boxes = detection.selective_search(image, most=300)
        assert len(boxes) <= 300
        assert recall(boxes, picture.boxes, 0.7) == 1
        assert torch.equal(boxes, detection.selective_search(image, most=300))


def test_grid_boxes_cover_what_is_large(discs):
    boxes = detection.grid_boxes(np.zeros((80, 96, 3), np.uint8))
    assert boxes[0].tolist() == [0, 0, 96, 80]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 80).all()
    found = [recall(boxes, p.boxes) for p in detection.read_annotations(discs)]
    assert np.mean(found) > 0.9
    assert recall(as_boxes([]), as_boxes([[0, 0, 2, 2]])) == 0


def test_a_region_is_warped_with_its_context(a_run):
    regions = detection.Regions(a_run, "relu3", proposals="grid", context=4)
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[20:44, 30:78] = 200
    warped = np.asarray(regions.warp(Image.fromarray(picture), (30, 20, 78, 44)))
    # 24 of the 32 pixels are the region's, as wide as high.
    inside = warped[:, :, 0] > 100
    assert inside.shape == (32, 32)
    assert np.flatnonzero(inside.any(0)).tolist() == list(range(4, 28))
    assert np.flatnonzero(inside.any(1)).tolist() == list(range(4, 28))
    # Beyond the picture there is the mean colour, which the network sees as 0.
    corner = regions.warp(Image.fromarray(picture), (0, 0, 24, 24))
    assert np.asarray(corner)[0, 0].tolist() == [76, 76, 76]
    assert regions.prepare(corner)[:, 0, 0].abs().max() < 0.02
    with pytest.raises(ValueError, match="context must leave something of 32x32 pixels"):
        detection.Regions(a_run, "relu3", proposals="grid", context=16)


def test_windows_are_the_networks_view_of_the_picture(a_run):
    windows = detection.Windows(a_run, "relu4", sizes=[32], fine=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    boxes, features = windows(picture)
    assert boxes.tolist() == [[0, 0, 32, 32]] and features.shape == (1, 64)
    with torch.no_grad():
        expected = a_run.model[:13](PixelUnits(a_run)(picture)[None])
    torch.testing.assert_close(features.float(), expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="layer must be behind the flattening"):
        detection.Windows(a_run, "relu3")
    with pytest.raises(ValueError, match="sizes must be at least the input's 32 pixels"):
        detection.Windows(a_run, "relu4", sizes=[16])


def made_samples(seed, count=60, d=12):
    """Candidates whose features say both whether they are on an object and how it lies."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, d))
    positive = features[:, 0] > 0.8
    boxes = as_boxes(np.tile([10.0, 10, 30, 50], (count, 1)))
    moves = torch.from_numpy(0.1 * features[:, 1:5]).float()
    nearest = detection.decode(boxes, moves)[:, None]
    overlaps = torch.from_numpy(np.where(positive, 0.8, 0.1)).float()[:, None]
    none = torch.zeros(count, dtype=torch.bool)
    return Samples(torch.from_numpy(features).half(), boxes, overlaps, nearest, none)


def test_the_head_learns_classes_and_boxes():
    samples = [made_samples(seed) for seed in range(8)]
    head = train_head(samples, ["thing"], detection.Training())
    new = made_samples(99, 300)
    scores = head.scores(new.features)[:, 0]
    assert ((scores > 0) == (new.overlaps[:, 0] > 0.5)).float().mean() > 0.95
    moved = detection.decode(new.boxes, head.moves(new.features, 0))
    before = detection.iou(new.boxes, new.nearest[:, 0]).diagonal().mean()
    after = detection.iou(moved, new.nearest[:, 0]).diagonal().mean()
    assert after > 0.97 > before
    with pytest.raises(ValueError, match="class thing has no candidate"):
        train_head(samples, ["thing"], detection.Training(positive=0.9))


def test_difficult_candidates_are_not_learned_from():
    samples = [made_samples(seed) for seed in range(4)]
    flipped = [
        Samples(s.features, s.boxes, 0.9 - s.overlaps, s.nearest, torch.ones(60) > 0)
        for s in samples
    ]
    head = train_head(samples, ["thing"], detection.Training())
    other = train_head([*samples, *flipped], ["thing"], detection.Training())
    torch.testing.assert_close(
        head.scores(samples[0].features) > 0, other.scores(samples[0].features) > 0
    )


def test_pictures_are_held_out_once_each(discs):
    pictures = detection.read_annotations(discs)
    train, test = detection.hold_out(pictures, 0.25)
    assert len(train) == 18 and len(test) == 6
    assert {p.path for p in train} | {p.path for p in test} == {p.path for p in pictures}
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        detection.hold_out(pictures, 1.5)


def test_wrong_uses_get_one_line(a_run, discs, tmp_path, capsys):
    cases = [
        ([str(a_run.path)], "give --train DATA, --test DATA or pictures"),
        ([str(a_run.path), "x.png"], "not a detector of fastconv"),
        ([str(tmp_path / "no"), "x.png"], "no such detector"),
        ([str(a_run.path), "--train", str(discs), "--layer", "relu9"], "has no 'relu9'"),
        ([str(a_run.path), "--train", str(tmp_path)], "no annotations"),
    ]
    for arguments, message in cases:
        assert main(["detect", *arguments]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and message in lines[0], lines
