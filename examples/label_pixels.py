"""Per-pixel labelling: a dense convnet says of every pixel which digit it belongs to.

    python examples/label_pixels.py [--output FOLDER] [--steps 600]

The scenes are made here: handwritten digits of scikit-learn, enlarged to 16x16, strewn over 64x64
pixels with uneven light and noise. Every pixel of a digit's ink has the digit as its label, the
others are ground. The digits of the test scenes were written by hands that training never saw
copies of: they are the validation part of the data set. The baselines are to call everything
ground, and logistic regression on the 9x9 pixels around each pixel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn

import fastconv
from fastconv import data

SIZE, DIGIT, GROUND = 64, 16, 10
INK = 0.35  # darker pixels of a digit's picture are not its ink


class Scenes:
    """Draws scenes of the digits of a split."""

    def __init__(self, split: str, seed: int):
        digits = data.Digits(split)
        images = torch.stack([digits[i][0] for i in range(len(digits))])
        self.images = F.interpolate(images, (DIGIT, DIGIT), mode="bilinear")[:, 0]
        self.targets = torch.tensor(digits.targets)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Scenes (count, 1, SIZE, SIZE) and labels (count, SIZE, SIZE)."""
        scenes = torch.zeros(count, SIZE, SIZE)
        labels = torch.full((count, SIZE, SIZE), GROUND)
        for scene, label in zip(scenes, labels, strict=True):
            for cell in self._numbers(16, 9).unique().tolist():  # so many digits at most
                which = int(self._numbers(len(self.images), 1))
                shift = self._numbers(5, 2).tolist()  # digits keep about their cells of 4x4
                top = min(max(cell // 4 * DIGIT + shift[0] - 2, 0), SIZE - DIGIT)
                left = min(max(cell % 4 * DIGIT + shift[1] - 2, 0), SIZE - DIGIT)
                place = np.s_[top : top + DIGIT, left : left + DIGIT]
                ink = self.images[which]
                scene[place] = torch.maximum(scene[place], ink)
                label[place] = torch.where(ink > INK, self.targets[which], label[place])
        light = torch.rand(count, 2, 2, 2, generator=self.generator)
        light = F.interpolate(light, (SIZE, SIZE), mode="bilinear", align_corners=True)
        noise = 0.15 * torch.randn(scenes.shape, generator=self.generator)
        scenes = 0.4 * light[:, 0] + (0.4 + 0.6 * light[:, 1]) * scenes + noise
        return scenes[:, None], labels

    def _numbers(self, high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator)


def network() -> nn.Sequential:
    """Local contrast normalisation takes the light out; each pixel then sees 37x37 pixels."""
    conv = fastconv.nn.Conv2d
    return nn.Sequential(
        fastconv.nn.LocalContrastNorm(9),
        conv(1, 24, 5, padding=2, activation="relu"),
        conv(24, 32, 5, padding=4, dilation=2, activation="relu"),
        conv(32, 48, 5, padding=8, dilation=4, activation="relu"),
        conv(48, 64, 3, padding=2, dilation=2, activation="relu"),
        nn.Dropout2d(0.1),
        conv(64, GROUND + 1, 1),
    )


def train(scenes: Scenes, steps: int, batch: int = 8) -> nn.Sequential:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        images, labels = scenes.draw(batch)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.3f}")
    return model.eval()


def patches(images: Tensor, size: int = 9) -> np.ndarray:
    """The pixels around every pixel, (pixels, size * size)."""
    return F.unfold(images, size, padding=size // 2).transpose(1, 2).flatten(0, 1).numpy()


def baseline(scenes: Scenes, images: Tensor) -> Tensor:
    """Labels by logistic regression on patches, learned from 10,000 pixels of ink and ground."""
    from sklearn.linear_model import LogisticRegression

    seen, labels = scenes.draw(16)
    labels = labels.flatten().numpy()
    chosen = np.random.default_rng(0).permutation(len(labels))[:10000]
    model = LogisticRegression(max_iter=200).fit(patches(seen)[chosen], labels[chosen])
    found = [torch.from_numpy(model.predict(patches(image[None]))) for image in images]
    return torch.stack(found).reshape(-1, SIZE, SIZE)


def accuracy(found: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of all pixels that are right, and of those of ink."""
    right, ink = found == labels, labels != GROUND
    return right.float().mean().item(), right[ink].float().mean().item()


def save(images: Tensor, maps: list[Tensor], path: Path) -> None:
    """A row for each scene: the scene, then labels in colours, ground white."""
    colours = torch.tensor((*colormaps["tab10"].colors, (1.0, 1.0, 1.0)))
    grey = ((images - images.amin()) / (images.amax() - images.amin())).expand(-1, 3, -1, -1)
    columns = [grey, *(colours[m].permute(0, 3, 1, 2) for m in maps)]
    rows = torch.cat([F.pad(c, (2, 2, 2, 2), value=1.0) for c in columns], 3)
    whole = torch.cat(list(rows), 1).repeat_interleave(3, 1).repeat_interleave(3, 2)
    Image.fromarray((255 * whole).byte().permute(1, 2, 0).numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("label-pixels"))
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = train(Scenes("train", 0), args.steps)
    images, labels = Scenes("val", 1).draw(50)
    with torch.no_grad():
        found = model(images).argmax(1)
    simple = baseline(Scenes("train", 2), images)
    results = {
        "everything is ground": torch.full_like(labels, GROUND),
        "logistic regression on 9x9 pixels": simple,
        "convnet": found,
    }
    lines = ["| labels | right, all pixels | right, pixels of ink |", "|---|---|---|"]
    for name, result in results.items():
        every, ink = accuracy(result, labels)
        lines.append(f"| {name} | {100 * every:.1f} % | {100 * ink:.1f} % |")
    (args.output / "accuracy.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    save(images[:3], [simple[:3], found[:3], labels[:3]], args.output / "before-after.png")


if __name__ == "__main__":
    main()
