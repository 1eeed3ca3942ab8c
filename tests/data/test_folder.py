"""Image folders: what is found, in what order, and what is said when it is not there."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from fastconv.data import DatasetError, ImageError, ImageFolder, open_dataset
from fastconv.data.transforms import Compose, Resize, ToTensor


def test_classes_are_sorted_and_every_image_has_its_class(make_folder):
    dataset = open_dataset(make_folder(classes=("cat", "ant", "bee")), "train")
    assert dataset.classes == ["ant", "bee", "cat"]
    assert len(dataset) == 12
    assert dataset.targets == [0] * 4 + [1] * 4 + [2] * 4
    for index in range(len(dataset)):
        image, target = dataset[index]
        assert target == dataset.targets[index]
        assert dataset.path(index).parent.name == dataset.classes[target]
        with Image.open(dataset.path(index)) as expected:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert dataset[-1][1] == 2
    assert "12 images, 3 classes" in repr(dataset)


def test_the_order_of_the_run_wins_over_that_of_the_folders(make_folder):
    root = make_folder()
    order = ["cat", "ant", "bee"]
    dataset = open_dataset(root, "val", classes=order)
    assert dataset.classes == order
    for index, target in enumerate(dataset.targets):
        assert dataset.path(index).parent.name == order[target]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
def test_the_names_a_validation_split_may_have(make_folder, name):
    root = make_folder(splits=("train", name))
    assert open_dataset(root, "val").root.name == name
    assert open_dataset(str(root), "train").root.name == "train"


def test_val_is_preferred_to_test(make_folder):
    assert open_dataset(make_folder(splits=("train", "test", "val")), "val").root.name == "val"


def test_subfolders_are_searched_and_other_files_passed_over(make_folder):
    folder = make_folder(splits=("train",), classes=("ant",), images=1) / "train" / "ant"
    (folder / "deep" / "er").mkdir(parents=True)
    shutil.copy(folder / "0.jpg", folder / "deep" / "er" / "UPPER.JPEG")
    (folder / "notes.txt").write_text("no image")
    (folder / "._0.jpg").write_text("left by another system")
    (folder / ".cache").mkdir()
    shutil.copy(folder / "0.jpg", folder / ".cache" / "1.jpg")
    (folder.parent / ".ipynb_checkpoints").mkdir()
    (folder.parent / "README").write_text("no class")
    dataset = ImageFolder(folder.parent)
    assert dataset.classes == ["ant"]
    assert [str(dataset.path(i).relative_to(folder)) for i in range(len(dataset))] == [
        "0.jpg",
        "deep/er/UPPER.JPEG",
    ]


def test_names_that_are_not_ascii(make_folder):
    root = make_folder(classes=("Großmütterchen", "猫"), images=1)
    dataset = open_dataset(root, "train")
    assert dataset.classes == ["Großmütterchen", "猫"]
    assert dataset[1][0].size == (60, 40)


def test_an_unreadable_image_is_skipped_logged_once_and_counted(make_folder, caplog):
    root = make_folder()
    bad = root / "train" / "bee" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    dataset = open_dataset(root, "train", transform=ToTensor())
    assert dataset.unreadable == []
    with caplog.at_level(logging.WARNING, "fastconv.data"):
        samples = [dataset[index] for index in range(12)] + [dataset[5], dataset[5, 3]]
    assert [i for i, sample in enumerate(samples) if sample is None] == [5, 12, 13]
    assert dataset.unreadable == [bad]
    assert len(caplog.records) == 1
    assert str(bad) in caplog.text


def test_strict_raises_instead(make_folder):
    root = make_folder()
    (root / "train" / "bee" / "1.jpg").write_bytes(b"")
    dataset = open_dataset(root, "train", strict=True)
    with pytest.raises(ImageError, match=r"1\.jpg: the file is empty"):
        dataset[5]


def test_a_plain_function_may_be_the_transform(make_folder):
    dataset = open_dataset(make_folder(), "train", transform=lambda image: image.size)
    assert dataset[0] == ((60, 40), 0)
    assert dataset[0, 7] == ((60, 40), 0)


def test_large_jpegs_are_decoded_reduced_where_a_resize_follows(tmp_path, make_picture):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    make_picture(400, 500).save(folder / "0.jpg")
    seen = []
    dataset = open_dataset(tmp_path, "train")
    dataset.transform = Compose([lambda image: seen.append(image.size) or image, Resize(50)])
    assert dataset[0][0].size == (62, 50)
    dataset.transform = Compose([Resize(50)])
    assert dataset[0][0].size == (62, 50)
    assert seen == [(500, 400)], "with another step first the image comes whole"


def test_index_out_of_range(make_folder):
    dataset = open_dataset(make_folder(), "train")
    for key in (12, -13, (12, 0)):
        with pytest.raises(IndexError, match="out of range for 12 samples"):
            dataset[key]
    assert len(list(dataset)) == 12


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("nothing", {"root": "nowhere"}, "nowhere: no such folder"),
        ("nothing", {"root": "set/train/ant/0.jpg"}, "0.jpg: not a folder"),
        ("nothing", {"root": "set/train"}, r"train/ looks like a split itself: give the folder"),
        (
            "nothing",
            {"root": "set/train/ant"},
            "no train split, .* folder train/.*found no folders",
        ),
        ("remove val", {"split": "val"}, "no val split.*val/ or validation/.*test/.*; found train"),
        ("remove classes", {}, "set/train: no class folders"),
        ("remove images", {}, "set/train: no images in its class folders ant, bee, cat"),
        ("empty bee", {}, "set/train: no images in class folders bee"),
        (
            "nothing",
            {"classes": ["ant", "bee", "dog"]},
            "set/train: the class folders are not the run's: missing dog; unknown cat",
        ),
        ("nothing", {"classes": ["ant", "bee"]}, "not the run's: unknown cat$"),
        ("nothing", {"classes": ["ant", "bee", "cat", "dog"]}, "not the run's: missing dog$"),
        ("nothing", {"classes": ["ant", "bee", "cat", "ant"]}, "distinct .got twice: ant."),
        (
            "nothing",
            {"classes": [f"{i:02}" for i in range(20)]},
            "missing 00, 01, 02, 03, 04, 05, 06, 07 and 12 more; unknown ant, bee, cat",
        ),
    ],
)
def test_errors_say_what_is_missing(make_folder, tmp_path, change, arguments, message):
    root = make_folder()
    if change == "remove val":
        shutil.rmtree(root / "val")
    elif change == "remove classes":
        shutil.rmtree(root / "train")
        (root / "train").mkdir()
    elif change == "remove images":
        for image in root.glob("train/*/*"):
            image.unlink()
    elif change == "empty bee":
        for image in root.glob("train/bee/*"):
            image.unlink()
    options = {"root": "set", "split": "train", **arguments}
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path / options.pop("root"), options.pop("split"), **options)


def test_an_unknown_split_is_refused(make_folder):
    for path in (make_folder(), None):
        with pytest.raises(ValueError, match=r"split must be train or val \(got 'dev'\)"):
            open_dataset(path, "dev")
