"""Patch denoising: a small convnet learns to take noise off a photograph.

    python examples/denoise.py [--output FOLDER] [--steps 1000]

After Jain & Seung, "Natural image denoising with convolutional networks", NIPS 2008. It learns from
patches of one photograph of scikit-learn's (china.jpg) and is measured on the other (flower.jpg).
White noise of a standard deviation of 25 of 255 levels is added. The baseline is the Gaussian blur
whose width gives the best PSNR on the test photograph itself, so a blur cannot do better; where
scikit-image is installed, non-local means (Buades et al. 2005) with the true noise level is the
second one.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import fastconv

NOISE = 25 / 255
PATCH = 48


def photograph(name: str) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float() / 255


class Denoiser(nn.Sequential):
    """Four convolutions that give the noise, which is taken off the input. Any size goes."""

    def __init__(self, maps: int = 32):
        super().__init__(
            fastconv.nn.Conv2d(3, maps, 5, padding=2, activation="relu"),
            fastconv.nn.Conv2d(maps, maps, 3, padding=1, activation="relu"),
            fastconv.nn.Conv2d(maps, maps, 3, padding=1, activation="relu"),
            fastconv.nn.Conv2d(maps, 3, 3, padding=1),
        )

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy - super().forward(noisy)


def train(picture: Tensor, steps: int, batch: int = 16) -> Denoiser:
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    height, width = picture.shape[1:]
    for step in range(1, steps + 1):
        tops = torch.randint(height - PATCH + 1, (batch,)).tolist()
        lefts = torch.randint(width - PATCH + 1, (batch,)).tolist()
        corners = zip(tops, lefts, strict=True)
        clean = torch.stack([picture[:, t : t + PATCH, x : x + PATCH] for t, x in corners])
        # One noise level, but turned and mirrored patches and both signs of contrast.
        clean = clean.rot90(int(torch.randint(4, ())), (2, 3))
        if torch.rand(()) < 0.5:
            clean = 1 - clean
        loss = F.mse_loss(model(clean + NOISE * torch.randn_like(clean)), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{steps}  patches' PSNR {-10 * math.log10(loss.item()):.2f} dB")
    return model.eval()


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, the border repeated."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(picture[None], [radius] * 4, mode="replicate")
    weight = kernel.expand(3, 1, *kernel.shape).contiguous()
    return fastconv.conv2d(padded, weight, groups=3)[0]


def psnr(picture: Tensor, truth: Tensor) -> float:
    """Peak signal to noise ratio in dB, of pixels cut to [0, 1]."""
    return -10 * math.log10(F.mse_loss(picture.clamp(0, 1), truth).item())


def best_blur(noisy: Tensor, truth: Tensor) -> Tensor:
    return max((blur(noisy, s / 10) for s in range(4, 25)), key=lambda p: psnr(p, truth))


def non_local_means(noisy: Tensor) -> Tensor | None:
    try:
        from skimage.restoration import denoise_nl_means
    except ImportError:
        return None
    options = {"h": 0.6 * NOISE, "sigma": NOISE, "patch_size": 5, "patch_distance": 6}
    found = denoise_nl_means(noisy.permute(1, 2, 0).numpy(), channel_axis=2, **options)
    return torch.from_numpy(found).permute(2, 0, 1).float()


def save(pictures: list[Tensor], path: Path) -> None:
    """Cut-outs side by side."""
    row = torch.cat([p[:, 120:340, 200:420] for p in pictures], 2).clamp(0, 1)
    Image.fromarray((255 * row).round().byte().permute(1, 2, 0).numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("denoise"))
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = train(photograph("china.jpg"), args.steps)
    truth = photograph("flower.jpg")
    noisy = truth + NOISE * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        denoised = model(noisy[None])[0]
    results = {"noisy": noisy, "Gaussian blur, best": best_blur(noisy, truth)}
    if (found := non_local_means(noisy)) is not None:
        results["non-local means"] = found
    results["convnet"] = denoised
    lines = ["| picture | PSNR, dB |", "|---|---|"]
    lines += [f"| {name} | {psnr(picture, truth):.2f} |" for name, picture in results.items()]
    (args.output / "psnr.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    save([noisy, *list(results.values())[1:], truth], args.output / "before-after.png")


if __name__ == "__main__":
    main()
