"""A small folder of pictures to train on."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture_folder(tmp_path):
    """root/{train,val}/{ant,bee}/0.jpg..3.jpg of random pictures; returns the root."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 256, (80, 90, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "pictures"
