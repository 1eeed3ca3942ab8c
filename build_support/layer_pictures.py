"""Draws docs/pictures/layers/*.svg: what each layer makes of a picture, by the layer itself.

    python build_support/layer_pictures.py

The photographs are scikit-image's chelsea (Stéfan van der Walt, CC0) and camera (Lav Varshney,
CC0); the digits are scikit-learn's.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from skimage import data  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from svg import BLUE, GREEN, ORANGE, PURPLE, Drawing  # noqa: E402

import fastconv  # noqa: E402

OUTPUT = ROOT / "docs" / "pictures" / "layers"
SIDE, GAP, HEAD = 144, 12, 22  # of a panel, in units; room for its title
EDGES = torch.tensor([[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]]) / 8


def cat(side=180):
    """The cat's face, (1, 1, side, side) in [0, 1]."""
    grey = torch.from_numpy(data.chelsea()[20:260, 90:330].mean(2) / 255).float()
    return torch.nn.functional.interpolate(grey[None, None], (side, side), mode="area")


def digit():
    """A three, (1, 1, 8, 8) in [0, 1]."""
    return torch.from_numpy(load_digits().images[3] / 16).float()[None, None]


def edges():
    """Filters of vertical, horizontal and two diagonal edges, (4, 1, 3, 3)."""
    vertical = EDGES
    diagonal = torch.tensor([[[-2.0, -1, 0], [-1, 0, 1], [0, 1, 2]]]) / 8
    return torch.stack([vertical, vertical.mT, diagonal, diagonal.flip(2)])


def grey(values, low=0.0, high=1.0):
    """Values of `low` to `high` as grey pixels."""
    values = values.detach().squeeze().numpy()
    return (255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)


def signed(values):
    """Values around 0 as grey pixels: 0 is the middle."""
    most = float(values.abs().quantile(0.995))
    return grey(values, -most, most)


def panels(name, pictures, *, photo=False, rows=1):
    """Pictures beside one another, each with its title above; a title of two lines has a |."""
    columns = len(pictures) // rows
    drawing = Drawing(columns * (SIDE + GAP) - GAP, rows * (SIDE + HEAD + 18))
    for at, (title, pixels) in enumerate(pictures):
        x, y = at % columns * (SIDE + GAP), at // columns * (SIDE + HEAD + 18) + HEAD + 10
        for line, text in enumerate(reversed(title.split("|"))):
            drawing.text(x + SIDE / 2, y - 6 - 14 * line, text)
        drawing.image(pixels, x, y, SIDE, SIDE, photo=photo)
        drawing.rect(x, y, SIDE, SIDE, opacity=0.4)
    drawing.save(OUTPUT / f"{name}.svg")
    return drawing


def conv2d():
    x, filters = cat(), edges()
    maps = fastconv.conv2d(x, filters, padding=1)
    titles = [("photograph", grey(x))]
    titles += [("vertical edges", signed(maps[:, 0])), ("horizontal edges", signed(maps[:, 1]))]
    drawing = panels("conv2d", titles, photo=True)
    for at in (0, 1):
        left = (at + 1) * (SIDE + GAP) + SIDE - 34
        drawing.image(signed(filters[at]), left, HEAD + 14, 30, 30)
        drawing.rect(left, HEAD + 14, 30, 30, stroke="#888")
    drawing.save(OUTPUT / "conv2d.svg")


def tiled_conv2d():
    """Not from values: which tile computes which output."""
    drawing, cell = Drawing(3 * (SIDE + GAP) - GAP, SIDE + HEAD + 18), SIDE / 8
    titles = ["period 1: convolution", "period 2: four tiles", "period 8: untied"]
    for at, (title, period) in enumerate(zip(titles, (1, 2, 8), strict=True)):
        x, y = at * (SIDE + GAP), HEAD + 10
        drawing.text(x + SIDE / 2, y - 6, title, 11)
        for row in range(8):
            for column in range(8):
                tile = row % period * period + column % period
                fill = [BLUE, ORANGE, GREEN, PURPLE][tile] if period < 8 else None
                fill = fill or f"hsl({45 * column},{35 + 8 * row}%,{62 - 3 * row}%)"
                drawing.rect(
                    x + column * cell, y + row * cell, cell, cell, fill, "#888", stroke_width=0.5
                )
    drawing.save(OUTPUT / "tiled_conv2d.svg")


def winners(drawing, column, switches, kernel, stride):
    """Marks the elements of an 8x8 panel that switches point to."""
    cell, (height, width) = SIDE / 8, switches.shape[-2:]
    for row in range(height):
        for at in range(width):
            r, s = divmod(int(switches[0, 0, row, at]), kernel)
            x = column * (SIDE + GAP) + (at * stride + s + 0.5) * cell
            drawing.add(
                "circle",
                None,
                cx=x,
                cy=HEAD + 10 + (row * stride + r + 0.5) * cell,
                r=4.5,
                fill=ORANGE,
                stroke="white",
                stroke_width=1,
            )
    for line in range(0, 9, stride):
        at, left, top = line * cell, column * (SIDE + GAP), HEAD + 10
        drawing.line(left + at, top, left + at, top + SIDE, ORANGE)
        drawing.line(left, top + at, left + SIDE, top + at, ORANGE)


def max_pool2d():
    x = digit()
    pooled, switches = fastconv.max_pool2d_with_switches(x, 2)
    pictures = [("digit, its switches", grey(x)), ("maxima of 2x2", grey(pooled))]
    drawing = panels("max_pool2d", pictures)
    winners(drawing, 0, switches, 2, 2)
    drawing.save(OUTPUT / "max_pool2d.svg")


def max_unpool2d():
    x = digit()
    pooled, switches = fastconv.max_pool2d_with_switches(x, 2)
    back = fastconv.max_unpool2d(pooled, switches, 2, output_size=(8, 8))
    panels(
        "max_unpool2d",
        [("digit", grey(x)), ("maxima of 2x2", grey(pooled)), ("put back", grey(back))],
    )


def avg_pool2d():
    x = digit()
    panels("avg_pool2d", [("digit", grey(x)), ("means of 2x2", grey(fastconv.avg_pool2d(x, 2)))])


def stochastic_pool2d():
    x = digit()
    torch.manual_seed(3)
    draws = [fastconv.stochastic_pool2d(x, 2) for _ in range(2)]
    mean = fastconv.stochastic_pool2d(x, 2, training=False)
    panels(
        "stochastic_pool2d",
        [
            ("digit", grey(x)),
            ("a draw", grey(draws[0])),
            ("another draw", grey(draws[1])),
            ("test: the mean", grey(mean)),
        ],
        rows=2,
    )


def maxout():
    maps = fastconv.conv2d(cat(), edges()[:2], padding=1)
    scale = float(maps.abs().quantile(0.995))
    largest = fastconv.maxout(maps, 2)
    panels(
        "maxout",
        [
            ("a map", grey(maps[:, 0], -scale, scale)),
            ("its neighbour", grey(maps[:, 1], -scale, scale)),
            ("the larger of both", grey(largest, -scale, scale)),
        ],
        photo=True,
    )


def local_response_norm():
    maps = fastconv.conv2d(cat(120), edges()[[0, 2, 1]], padding=1, activation="relu")
    maps = maps / maps.quantile(0.995)
    after = fastconv.local_response_norm(maps, 3, alpha=30.0, beta=0.75)
    names = ["vertical", "diagonal", "horizontal"]
    pictures = [(f"{name} edges", grey(maps[:, i])) for i, name in enumerate(names)]
    top = float(after.quantile(0.995))
    pictures += [("normalised", grey(after[:, i], 0, top)) for i in range(3)]
    panels("local_response_norm", pictures, photo=True, rows=2)


def local_contrast_norm():
    x = torch.from_numpy(data.camera()[20:420, 60:460] / 255).float()[None, None]
    x = torch.nn.functional.interpolate(x, (200, 200), mode="area")
    y = fastconv.local_contrast_norm(x, 9)
    panels(
        "local_contrast_norm",
        [("photograph", grey(x)), ("its local contrast", grey(y, -2.5, 2.5))],
        photo=True,
    )


def drop_connect():
    torch.manual_seed(1)
    weight = torch.randn(12, 12)
    seed = torch.randint(2**62, (1,))
    kept = torch.ops.fastconv.drop_connect_mask(seed, 3, 12, 0, 12, 0.5)
    names = ["first", "second", "third"]
    pictures = [
        (f"{name} example", grey((weight * kept[i].to(weight.dtype)), -2.5, 2.5))
        for i, name in enumerate(names)
    ]
    panels("drop_connect", pictures)


def dropout():
    torch.manual_seed(0)
    x = digit() / 2
    train, test = fastconv.nn.Dropout(0.5)(x), fastconv.nn.Dropout(0.5, scale="test")(x)
    panels(
        "dropout",
        [("activations", grey(x)), ('scale="train"', grey(train)), ('scale="test"', grey(test))],
    )


def main():
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for draw in (
        conv2d,
        tiled_conv2d,
        max_pool2d,
        max_unpool2d,
        avg_pool2d,
        stochastic_pool2d,
        maxout,
        local_response_norm,
        local_contrast_norm,
        drop_connect,
        dropout,
    ):
        draw()
        file = OUTPUT / f"{draw.__name__}.svg"
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
