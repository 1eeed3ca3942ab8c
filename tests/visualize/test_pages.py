"""``fastconv visualize``: the pages, their pictures and numbers, in a browser and as files."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import fastconv
from fastconv import visualize
from fastconv.cli import main
from fastconv.cli.visualize import PAGES
from fastconv.visualize.report import Options, Report

NAMES = [name for name, _, _ in PAGES]


@pytest.fixture(scope="module")
def pages(digits_run):
    """All pages of the run; the run with another one beside it."""
    flags = ["--maps", "4", "--limit", "100", "--compare", str(digits_run)]
    assert main(["visualize", str(digits_run), *flags]) == 0
    return digits_run / "visualize"


def rows_of(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


class Tags(HTMLParser):
    """The tags of a page, and whether they close as they opened."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", ["index", *NAMES])
def test_page_is_whole_html_and_needs_nothing_from_outside(pages, name):
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == []
    kinds = [tag for tag, _ in tags.found]
    assert "script" not in kinds and kinds.count("h1") == 1
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        tags.found
    )
    for tag, attributes in tags.found:
        link = attributes.get("src") or attributes.get("href") or ""
        assert not re.match(r"[a-z]+://|//|/", link), link
        if link and not link.startswith("data:"):
            assert (pages / link).is_file(), link
        if tag == "img":
            assert len(attributes["alt"]) > 10
            with Image.open(pages / link) as image:
                assert image.size == (int(attributes["width"]), int(attributes["height"]))
    assert name == "index" or "img" in kinds


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["index", *NAMES])
def test_page_in_a_browser(pages, browse, name, width):
    found = browse(pages / f"{name}.html", width)
    assert found["broken"] == [] and found["errors"] == [] and found["console"] == []
    assert found["nameless"] == [] and (found["images"] > 0) == (name != "index")
    assert found["width"] == width
    assert found["needed"] <= width, "the page can be moved sideways"


def test_the_browser_test_can_fail(tmp_path, browse):
    Image.new("L", (900, 5)).save(tmp_path / "wide.png")
    (tmp_path / "bad.html").write_text(
        '<!DOCTYPE html><html><head></head><body><img src="absent.png" alt="">'
        '<img src="wide.png" alt="a wide picture"><script>undefined_name()</script></body></html>'
    )
    found = browse(tmp_path / "bad.html", 360)
    assert len(found["broken"]) == 1 and found["broken"][0].endswith("absent.png")
    assert len(found["nameless"]) == 1 and found["needed"] > 360
    assert any("undefined_name" in e for e in found["errors"]) and found["console"]


def test_numbers_of_the_patches_are_the_data_sets(pages, digits_run):
    run = fastconv.Run.open(digits_run)
    dataset = fastconv.data.open_dataset(None, "val", transform=run.transform)
    whole = np.load(pages / "patches" / "relu2.npz")
    assert whole["values"].shape == (64, 9)
    rows = rows_of(pages / "patches" / "relu2.csv")
    row = next(r for r in rows if float(r["activation"]) > 0)
    image, target = dataset[int(row["index"])]
    (maps,) = visualize.features(run.model, image[None], ["relu2"]).values()
    value = maps[0, int(row["map"]), int(row["row"]), int(row["column"])].item()
    assert value == pytest.approx(float(row["activation"]), rel=1e-4)
    assert row["class"] == run.classes[target]


def test_numbers_of_the_other_pages(pages, digits_run):
    run = fastconv.Run.open(digits_run)
    filters = rows_of(pages / "filters" / "filters-0.csv")
    weight = run.model.conv1.weight.detach()
    assert float(filters[3]["rms"]) == pytest.approx(weight[3].square().mean().sqrt().item(), 1e-4)
    costs = rows_of(pages / "diagnostics" / "costs.csv")
    assert sum(int(r["parameters"]) for r in costs) == 50_866
    maps = np.load(pages / "maps" / "maps.npz")
    assert maps["relu1"].shape == (32, 8, 8) and maps["fc4"].shape == (10,)
    square = np.load(pages / "occlusion" / "0.npz")
    assert square["probability"].shape == square["best"].shape == (7, 7)
    curves = rows_of(pages / "invariance" / "rotation.csv")
    start = [r for r in curves if float(r["rotation"]) == 0]
    assert len(start) == 5
    assert all(float(r["distance_relu3"]) == pytest.approx(0, abs=1e-4) for r in start)


def test_evolution_is_each_snapshots_top_activation(pages, digits_run):
    rows = rows_of(pages / "evolution" / "relu1.csv")
    assert {r["epoch"] for r in rows} == {"1", "3"}
    run = fastconv.Run.open(digits_run)
    dataset = fastconv.data.open_dataset(None, "val", transform=run.transform)
    for row in rows:
        run.load_weights(int(row["epoch"]))
        top = visualize.top_activations(run.model, dataset, ["relu1"], top=1, limit=100)["relu1"]
        assert top.indices[int(row["map"]), 0] == int(row["index"])
        assert top.values[int(row["map"]), 0] == pytest.approx(float(row["activation"]), rel=1e-4)


def test_evolution_gives_the_model_back(digits_run):
    run = fastconv.Run.open(digits_run)
    before = {name: t.clone() for name, t in run.model.state_dict().items()}
    dataset = fastconv.data.open_dataset(None, "val", transform=run.transform)
    (found,) = visualize.evolution(run, dataset, ["relu1"], [[0, 5]], limit=20)
    assert found.epochs == [1, 3] and found.projections.shape == (2, 2, 1, 3, 3)
    assert run.weights == "best"
    assert all(torch.equal(before[k], v) for k, v in run.model.state_dict().items())


def test_some_pages_of_a_picture_as_json(digits_run, tmp_path, capsys):
    picture = tmp_path / "7" / "mine.png"  # its folder says that it shows a 7
    picture.parent.mkdir()
    Image.linear_gradient("L").resize((20, 30)).save(picture)
    flags = ["--pages", "maps,occlusion", "--output", str(tmp_path / "out"), "--json"]
    assert main(["visualize", str(digits_run), "--images", str(picture), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["seconds"]) == ["maps", "occlusion"]
    index = (tmp_path / "out" / "index.html").read_text()
    assert "maps.html" in index and "filters.html" not in index
    text = (tmp_path / "out" / "occlusion.html").read_text()
    assert "7: mine.png" in text and "the true one is not known" not in text
    other = tmp_path / "mine.png"
    shutil.copy(picture, other)
    assert main(["visualize", str(digits_run), "--images", str(other), *flags]) == 0
    text = (tmp_path / "out" / "occlusion.html").read_text()
    assert "the true one is not known" in text


def test_photographs_with_a_mean_image(tmp_path):
    """A run on pictures: what is shown are the pixels that the model sees, without the mean."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for number, name in enumerate(("<b>ant</b>".replace("/", "-"), "bee")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for k in range(3):
                pixels = random.integers(0, 256, (80, 90, 3), dtype=np.uint8) // (1 + number)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{k}.png")
    (tmp_path / "data" / "val" / "bee" / "broken.png").write_bytes(b"no picture")
    path = tmp_path / "run"
    flags = ["--model", "zfnet", "--image-size", "64", "--epochs", "1", "--batch-size", "3"]
    flags += ["--workers", "0", "--output", str(path)]
    assert main(["train", str(tmp_path / "data"), *flags]) == 0
    report = Report(fastconv.Run.open(path), tmp_path / "see", options=Options(maps=2, top=2))
    assert report.grey == 0 and report.is_centred
    shown = report.pixels([0])[0]
    statistics = report.run.statistics
    mean = statistics["mean_image"]
    edge = (mean.shape[1] - 64) // 2
    crop = mean[:, edge : edge + 64, edge : edge + 64]
    assert report.run.config["settings"]["units"] is None and report.model.input_units == "pixels"
    torch.testing.assert_close(report.inputs([0])[0], 255 * (shown - crop), atol=1e-2, rtol=1e-3)
    for page in ("patches", "invariance", "maps"):
        flags = ["--pages", page, "--maps", "2", "--top", "3", "--layers", "relu1,relu6"]
        assert main(["visualize", str(path), *flags]) == 0
    text = (path / "visualize" / "patches.html").read_text()
    assert "<b>ant" not in text and "&lt;b&gt;ant" in text
    rows = rows_of(path / "visualize" / "patches" / "relu1.csv")
    assert {r["image"] for r in rows} <= {
        f"{name}/{k}.png" for name in ("<b>ant<-b>", "bee") for k in range(3)
    }


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--layers", "relu9"], "the model has no 'relu9'; closest: relu"),
        (["--workers", "-1"], "--workers: must be at least 0 (got -1)"),
        (["--images", "absent.png"], "absent.png"),
        (["--data", "absent"], "absent: no such folder"),
        (["--compare", "absent"], "no such run: absent"),
    ],
)
def test_wrong_uses_get_one_line(digits_run, tmp_path, capsys, flags, text):
    assert main(["visualize", str(digits_run), "--output", str(tmp_path / "out"), *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fastconv visualize: ") and text in lines[0]


def test_wrong_flags_are_argparses(digits_run, capsys):
    for flags, text in (
        (["--pages", "filters,dreams"], "no page 'dreams'; there are filters, maps"),
        (["--maps", "0"], "must be a whole number of at least 1 (got 0)"),
        (["--layers", "a,,b"], "must be names with commas between them"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["visualize", str(digits_run), *flags])
        assert caught.value.code == 2 and text in capsys.readouterr().err


def test_without_snapshots_evolution_says_how_to_get_some(tmp_path, digits_run, capsys):
    path = shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("snap*"))
    assert main(["visualize", str(path), "--pages", "evolution"]) == 2
    assert "has no snapshots; train with --snapshots 1,2,5,10" in capsys.readouterr().err


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"maps: must be at least 1 \(got 0\)"):
        Options(maps=0)
