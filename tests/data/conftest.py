"""Small images made on the spot, and the photographs that FASTCONV_DATA points to."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(height=40, width=60, seed=0, channels=3):
    """A smooth random uint8 image: noise would not survive JPEG, and flat colour hides errors."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, channels), dtype=np.uint8)
    image = Image.fromarray(coarse[:, :, 0] if channels == 1 else coarse)
    return image.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def make_picture():
    return picture


@pytest.fixture
def make_folder(tmp_path):
    """Write `images` pictures for each class into tmp_path/root/split/class and return the root."""

    def make(splits=("train", "val"), classes=("ant", "bee", "cat"), images=4, root="set"):
        seed = 0
        for split in splits:
            for name in classes:
                folder = tmp_path / root / split / name
                folder.mkdir(parents=True)
                for number in range(images):
                    picture(seed=seed).save(folder / f"{number}.jpg", quality=95)
                    seed += 1
        return tmp_path / root

    return make


@pytest.fixture
def photographs():
    """The folder that holds imagenette/."""
    root = os.environ.get("FASTCONV_DATA")
    if not root:
        pytest.skip("FASTCONV_DATA is not set: no photographs to try")
    if not (Path(root) / "imagenette" / "train").is_dir():
        pytest.skip(f"FASTCONV_DATA={root} holds no imagenette/train")
    return Path(root)
