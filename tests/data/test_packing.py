"""Packs: the same pictures as the folder's, resumable, verified, and read by other programs."""

import io
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastconv import data
from fastconv.cli import main
from fastconv.data import DatasetError, PackedImages, PackOptions, pack, packing
from fastconv.data.transforms import CenterCrop, Compose, RandomCrop, Resize, ToTensor


@pytest.fixture
def folder(make_folder):
    root = make_folder(images=5)
    (root / "classes.tsv").write_text("ant\tan ant\n")
    return root


def by_name(dataset):
    """Samples by the name of the file that they come from."""
    return {
        "/".join(dataset.path(i).parts[-2:]): dataset[i]
        for i in range(len(dataset))
        if dataset[i] is not None
    }


@pytest.mark.parametrize("square", [False, True])
def test_raw_pictures_are_the_folders_resized(folder, tmp_path, square):
    pack(folder, tmp_path / "out", PackOptions(32, square, "raw", shard_images=4))
    steps = [Resize(32), *([CenterCrop(32)] if square else []), ToTensor()]
    for split in ("train", "val"):
        packed = data.open_dataset(tmp_path / "out", split, transform=ToTensor())
        assert isinstance(packed, PackedImages)
        assert packed.classes == ["ant", "bee", "cat"]
        expected = by_name(data.open_dataset(folder, split, transform=Compose(steps)))
        got = by_name(packed)
        assert got.keys() == expected.keys() and len(got) == 15
        for name, (pixels, target) in expected.items():
            assert torch.equal(got[name][0], pixels) and got[name][1] == target
        assert sorted(packed.targets) == [0] * 5 + [1] * 5 + [2] * 5


def test_jpegs_are_close_and_smaller(folder, tmp_path):
    pack(folder, tmp_path / "jpeg", PackOptions(32, shard_images=100))
    pack(folder, tmp_path / "raw", PackOptions(32, encoding="raw", shard_images=100))
    jpeg, raw = (
        by_name(data.open_dataset(tmp_path / name, "train", transform=ToTensor()))
        for name in ("jpeg", "raw")
    )
    for name, (pixels, target) in raw.items():
        assert jpeg[name][1] == target
        assert (jpeg[name][0] - pixels).abs().mean() < 0.02
    shards = [tmp_path / name / "train" / "train-000000.tar" for name in ("jpeg", "raw")]
    assert shards[0].stat().st_size < shards[1].stat().st_size


def test_training_samples_do_not_depend_on_process_or_order(folder, tmp_path):
    pack(folder, tmp_path / "out", PackOptions(32, encoding="raw", shard_images=4), workers=2)
    dataset = data.open_dataset(
        tmp_path / "out", "train", transform=Compose([Resize(32), RandomCrop(24), ToTensor()])
    )
    batches = [
        list(
            data.build_loader(
                dataset, data.EpochSampler(15, seed=3), 4, workers=workers, drop_last=False
            )
        )
        for workers in (0, 2)
    ]
    for (images, targets, _), (again, same, _) in zip(*batches, strict=True):
        assert torch.equal(images, again) and torch.equal(targets, same)


def test_shards_are_webdatasets(folder, tmp_path):
    """Read with tarfile and Pillow alone, as WebDataset groups members: by name up to the dot."""
    pack(folder, tmp_path / "out", PackOptions(32, shard_images=4))
    seen, shards = [], sorted((tmp_path / "out" / "train").glob("*.tar"))
    assert [s.name for s in shards] == [f"train-{n:06}.tar" for n in range(4)]
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = tar.getmembers()
            for picture, label in zip(members[::2], members[1::2], strict=True):
                assert picture.name.endswith(".jpg")
                assert label.name == picture.name.replace(".jpg", ".cls")
                image = Image.open(tar.extractfile(picture))
                assert min(image.size) == 32
                seen.append(int(tar.extractfile(label).read()))
    assert sorted(seen) == [0] * 5 + [1] * 5 + [2] * 5
    assert seen != sorted(seen), "shards mix the classes"
    assert (tmp_path / "out" / "classes.tsv").read_text() == "ant\tan ant\n"


def test_raw_members_are_numpy_files(folder, tmp_path):
    pack(folder, tmp_path / "out", PackOptions(32, True, "raw", shard_images=100))
    with tarfile.open(tmp_path / "out" / "val" / "val-000000.tar") as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith(".npy"))
        pixels = np.load(io.BytesIO(tar.extractfile(member).read()))
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8


def test_a_stopped_pack_goes_on(folder, tmp_path, monkeypatch):
    options = PackOptions(32, shard_images=4)
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack(folder, whole, options)

    replace = os.replace

    def failing(source, target):
        if os.fspath(target).endswith("train-000002.tar"):
            raise OSError(28, os.strerror(28))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match=r"train-000002\.tar: not written: No space left on device"):
        pack(folder, out, options)
    monkeypatch.undo()
    with pytest.raises(DatasetError, match=r"train-000002\.tar: missing; the pack is not finished"):
        data.open_dataset(out, "train")
    (out / "train" / ".train-000002.tar.1.tmp").write_bytes(b"a killed process left this")
    first = (out / "train" / "train-000000.tar").stat().st_mtime_ns
    pack(folder, out, options)
    assert (out / "train" / "train-000000.tar").stat().st_mtime_ns == first, "not packed again"
    names = sorted(p.relative_to(whole) for p in whole.rglob("*"))
    assert sorted(p.relative_to(out) for p in out.rglob("*")) == names
    for name in names:
        if (whole / name).is_file():
            assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_verify_finds_a_changed_bit(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pack", str(folder), str(out), "--size", "32", "--workers", "0"]) == 0
    assert f"next: fastconv train {out}" in capsys.readouterr().err
    assert main(["pack", "--verify", str(out)]) == 0
    assert "all 2 shards are as they were packed" in capsys.readouterr().out
    shard = out / "train" / "train-000000.tar"
    contents = bytearray(shard.read_bytes())
    contents[3000] ^= 1
    shard.write_bytes(contents)
    assert main(["pack", "--verify", str(out)]) == 1
    assert f"{shard}: changed since it was packed" in capsys.readouterr().out
    shard.write_bytes(contents[:-512])
    with pytest.raises(DatasetError, match=r"has \d+ bytes, packed were \d+"):
        data.open_dataset(out, "train")


def test_unreadable_pictures_are_left_out_and_named(folder, tmp_path):
    (folder / "train" / "bee" / "1.jpg").write_bytes(b"no picture")
    packed = pack(folder, tmp_path / "out", PackOptions(32))
    assert packed["skipped"] == [os.path.join("bee", "1.jpg")]
    assert len(data.open_dataset(tmp_path / "out", "train")) == 14


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_damaged_picture_is_skipped_or_raises(folder, tmp_path, encoding):
    out = tmp_path / "out"
    pack(folder, out, PackOptions(32, encoding=encoding))
    shard = out / "train" / "train-000000.tar"
    index = json.loads(shard.with_suffix(".json").read_text())
    contents = bytearray(shard.read_bytes())
    contents[index["offsets"][3] : index["offsets"][3] + 64] = bytes(64)
    shard.write_bytes(contents)
    dataset = data.open_dataset(out, "train", transform=ToTensor())
    assert dataset[3] is None and dataset[4] is not None
    assert [p.name for p in dataset.unreadable] == [dataset.path(3).name]
    with pytest.raises(data.ImageError, match=r"train-000000\.tar"):
        data.open_dataset(out, "train", transform=ToTensor(), strict=True)[3]


def test_wrong_uses_are_named(folder, tmp_path, capsys):
    out = tmp_path / "out"
    pack(folder, out, PackOptions(32))
    with pytest.raises(DatasetError, match="holds a pack of other options"):
        pack(folder, out, PackOptions(48))
    with pytest.raises(DatasetError, match="not empty and not a pack"):
        pack(folder, folder)
    with pytest.raises(ValueError, match=r"quality must be from 1 to 100 \(got 200\)"):
        PackOptions(quality=200)
    with pytest.raises(DatasetError, match="missing dog"):
        data.open_dataset(out, "val", classes=["ant", "bee", "cat", "dog"])
    reordered = data.open_dataset(out, "val", classes=["cat", "bee", "ant"])
    straight = data.open_dataset(out, "val")
    assert [2 - t for t in reordered.targets] == straight.targets
    assert main(["pack", str(folder)]) == 2
    assert "fastconv pack DATA OUT" in capsys.readouterr().err
    (out / "pack.json").write_text('{"format": 9}')
    with pytest.raises(DatasetError, match="format 9, this fastconv reads 1"):
        packing.read_manifest(out)


def test_statistics_of_a_pack_are_the_folders(folder, tmp_path):
    pack(folder, tmp_path / "out", PackOptions(36, True, "raw"))
    folders, packs = (
        data.compute_statistics(data.open_dataset(root, "train"), 36)
        for root in (folder, tmp_path / "out")
    )
    for name, tensor in folders.items():
        assert torch.equal(packs[name], tensor), name


def test_training_takes_a_pack(folder, tmp_path):
    out, run = tmp_path / "out", tmp_path / "run"
    pack(folder, out, PackOptions(74, True, "raw"))
    options = ["--model", "alexnet", "--image-size", "65", "--batch-size", "5", "--epochs", "1"]
    assert main(["train", str(out), *options, "--workers", "0", "--output", str(run)]) == 0
    assert main(["eval", str(run), str(folder)]) == 0
