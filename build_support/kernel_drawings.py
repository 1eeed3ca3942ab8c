"""Draws docs/pictures/kernels/*.svg: the tiles in which the kernels work.

    python build_support/kernel_drawings.py

The numbers are those of csrc: Gemm (cpu/gemm.h), winograd.h, MmaTile (cuda/conv2d_tile.cuh),
WgmmaTile (cuda/conv2d_wgmma.cuh) and Tiles (cuda/tiles.cuh).
"""

from pathlib import Path

from svg import BLUE, GREEN, ORANGE, PURPLE, RED, Drawing

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "pictures" / "kernels"


def grid(drawing, x, y, rows, columns, cell, fills=(), stroke="currentColor"):
    """Cells, of which `fills` says which are coloured: (row, column, colour)."""
    for row, column, colour in fills:
        drawing.rect(x + column * cell, y + row * cell, cell, cell, colour, "none", opacity=0.6)
    lines = {"opacity": 0.5, "width": 0.7}
    for row in range(rows + 1):
        drawing.line(x, y + row * cell, x + columns * cell, y + row * cell, stroke, **lines)
    for column in range(columns + 1):
        drawing.line(x + column * cell, y, x + column * cell, y + rows * cell, stroke, **lines)


def block(rows, columns, colour):
    return [(row, column, colour) for row in rows for column in columns]


def gather():
    """Pooling forward, and the element that looks back."""
    d, cell = Drawing(476, 222), 24
    d.text(98, 16, "forward")
    grid(d, 14, 30, 7, 7, cell, block(range(2, 5), range(2, 5), BLUE))
    d.add("circle", None, cx=14 + 3.5 * cell, cy=30 + 2.5 * cell, r=6, fill=ORANGE)
    d.text(98, 216, "input, windows 3x3, 2 apart", 11)
    d.arrow(186, 114, 206, 114)
    d.text(386, 16, "backward")
    grid(d, 214, 66, 3, 3, cell, [(1, 1, BLUE)])
    d.text(250, 152, "output and", 11)
    d.text(250, 166, "switch 1", 11)
    left = 302
    grid(d, left, 30, 7, 7, cell)
    at = (left + 4.5 * cell, 30 + 2.5 * cell)
    d.add("circle", None, cx=at[0], cy=at[1], r=6, fill=ORANGE)
    for row, column, colour in ((0, 1, PURPLE), (0, 2, GREEN), (1, 1, BLUE), (1, 2, RED)):
        inset = 1.5 + 2 * (row * 2 + column - 1)
        d.rect(
            left + 2 * column * cell + inset,
            30 + 2 * row * cell + inset,
            3 * cell - 2 * inset,
            3 * cell - 2 * inset,
            "none",
            colour,
            stroke_width=2,
        )
    d.text(386, 216, "four windows to ask", 11)
    d.save(OUTPUT / "gather.svg")


def product():
    """Convolution as a product whose matrices are never built."""
    d, cell = Drawing(430, 180), 14
    d.text(75, 16, "image, a window")
    grid(d, 12, 26, 9, 9, cell, block(range(2, 5), range(3, 6), BLUE))
    d.text(75, 170, "3x3 taps x channels", 11)
    d.arrow(146, 80, 178, 80, BLUE)
    d.text(252, 16, "rows: pixels")
    grid(d, 186, 26, 9, 9, cell, block([3], range(9), BLUE))
    d.text(250, 170, "columns: terms (tap, channel)", 11)
    d.text(330, 95, "·", 24)
    d.text(375, 16, "filters")
    grid(d, 350, 26, 9, 4, cell, block(range(9), [2], ORANGE))
    d.text(375, 170, "outputs", 11)
    d.save(OUTPUT / "product.svg")


def registers():
    """12 rows and two vectors of columns, in the registers of one core."""
    d, cell = Drawing(370, 262), 13
    left, top = 130, 58
    d.text(left + 104, 16, "2 vectors of 16 columns", 12)
    for v, colour in enumerate((ORANGE, GREEN)):
        d.rect(left + v * 8 * cell, 26, 8 * cell - 3, 18, colour, "none", opacity=0.6)
        d.text(left + v * 8 * cell + 50, 40, "b[k]", 11)
        for row in range(12):
            d.rect(
                left + v * 8 * cell,
                top + row * cell,
                8 * cell - 3,
                cell - 2,
                colour,
                "none",
                opacity=0.25,
            )
    d.text(60, 52, "12 rows", 12)
    for row in range(12):
        d.rect(48, top + row * cell, 24, cell - 2, BLUE, "none", opacity=0.6)
        d.arrow(78, top + row * cell + 5, left - 6, top + row * cell + 5)
    d.text(60, top + 12 * cell + 14, "a[k], each", 11)
    d.text(60, top + 12 * cell + 28, "to all lanes", 11)
    d.text(left + 104, top + 12 * cell + 14, "24 registers of sums", 11)
    d.text(left + 104, top + 12 * cell + 28, "sum += a·b, 24 multiply-adds a step", 11)
    d.save(OUTPUT / "registers.svg")


def winograd():
    """Four outputs from a tile of 4x4 inputs by 16 products."""
    d, cell = Drawing(470, 232), 20
    fills = block(range(4), range(4), BLUE)
    d.text(52, 16, "4x4 inputs")
    grid(d, 12, 26, 4, 4, cell, fills)
    d.text(52, 122, "d", 12, font_style="italic")
    d.arrow(98, 66, 132, 66)
    d.text(115, 58, "BᵀdB", 11)
    d.text(178, 16, "transformed")
    grid(d, 138, 26, 4, 4, cell, block(range(4), range(4), PURPLE))
    d.text(242, 72, "⊙", 22)
    d.text(306, 16, "3x3 filter: GgGᵀ")
    grid(d, 266, 26, 4, 4, cell, block(range(4), range(4), ORANGE))
    d.arrow(352, 66, 392, 66)
    d.text(372, 58, "AᵀmA", 11)
    d.text(422, 36, "2x2 outputs")
    grid(d, 402, 46, 2, 2, cell, block(range(2), range(2), GREEN))
    d.text(242, 122, "16 products; 36 without", 11)
    d.line(12, 136, 458, 136, opacity=0.4)
    d.text(
        12, 156, "Over all channels, each of the 16 places is a product of matrices:", 11, "start"
    )
    for place in range(16):
        x = 14 + place * 28
        d.rect(x, 168, 18, 28, PURPLE, "none", opacity=0.6)
        d.rect(x + 4, 172, 18, 28, ORANGE, "none", opacity=0.6)
    d.text(235, 222, "tiles x channels  ·  channels x maps", 11)
    d.save(OUTPUT / "winograd.svg")


def folding():
    """A stride becomes channels."""
    d, cell = Drawing(470, 178), 18
    colours = {(0, 0): BLUE, (0, 1): ORANGE, (1, 0): GREEN, (1, 1): PURPLE}
    d.text(84, 16, "one map, windows 2 apart")
    fills = [(y, x, colours[y % 2, x % 2]) for y in range(8) for x in range(8)]
    grid(d, 12, 26, 8, 8, cell, fills)
    d.arrow(170, 96, 214, 96)
    d.text(340, 16, "four maps, windows 1 apart")
    for i, colour in enumerate(colours.values()):
        x, y = 236 + i % 2 * 112, 26 + i // 2 * 76
        grid(d, x, y, 4, 4, 17, block(range(4), range(4), colour))
    d.save(OUTPUT / "folding.svg")


def tensor_cores():
    """A block's tile: 8 warps, four stages of shared memory."""
    d = Drawing(470, 292)
    d.text(112, 16, "results of a block: 128 x 128")
    left, top, width, height = 22, 26, 180, 130
    for row in range(2):
        for column in range(4):
            x, y = left + column * width / 4, top + row * height / 2
            d.rect(
                x,
                y,
                width / 4,
                height / 2,
                BLUE if (row + column) % 2 else GREEN,
                "currentColor",
                fill_opacity=0.3,
            )
            d.text(x + width / 8, y + 30, f"warp {row * 4 + column}", 10)
            d.text(x + width / 8, y + 44, "64 x 32", 9)
    d.rect(left, top, 11.25, 65 / 4, ORANGE, "currentColor", fill_opacity=0.8)
    d.text(112, 174, "a warp: 4 x 4 fragments of 16 x 8", 11)
    d.text(112, 190, "m16n8k16 (tf32: m16n8k8)", 11)
    d.text(350, 16, "shared memory: 4 stages")
    for stage, (text, colour) in enumerate(
        (("multiplied now", GREEN), ("there", BLUE), ("on its way", ORANGE), ("asked for", ORANGE))
    ):
        y = 26 + stage * 34
        d.rect(240, y, 220, 28, colour, "currentColor", fill_opacity=0.35 if stage < 3 else 0.15)
        d.text(252, y + 18, f"rows, columns: {text}", 11, "start")
    d.text(350, 176, "cp.async, 16 bytes a thread", 11)
    d.line(12, 204, 458, 204, opacity=0.4)
    d.text(
        12,
        222,
        "A line is 4 chunks of 16 bytes; chunk j of line i lies at j XOR (i/2 mod 4)",
        11,
        "start",
    )
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    for line in range(8):
        for chunk in range(4):
            place = chunk ^ (line >> 1 & 3)
            x, y = 14 + line % 2 * 112 + line // 2 % 2 * 226 + place * 26, 232 + line // 4 * 22
            d.rect(x, y, 25, 16, colours[chunk], "none", opacity=0.6)
            d.text(x + 12.5, y + 12, str(chunk), 10)
    d.text(235, 286, "so the eight that ldmatrix reads at once lie in different banks", 11)
    d.save(OUTPUT / "tensor_cores.svg")


def warpgroups():
    """What a warpgroup's product reads: rows of eight permuted chunks."""
    d, cell = Drawing(476, 276), 24
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    sides = (
        (14, "along: a row is a line's 64 terms", "line", "8 lines: 1024 bytes"),
        (254, "across: a row is a term's 64 lines", "term", "8 terms: 1024 bytes"),
    )
    for left, title, name, below in sides:
        first = left + 36
        d.text(left + 110, 16, title, 12)
        for row in range(8):
            y = 28 + row * cell
            d.text(left + 32, y + 15, f"{name} {row}", 10, "end")
            for chunk in range(8):
                x = first + (chunk ^ row) * 22
                colour = colours[chunk // 2] if name == "line" else BLUE
                d.rect(x, y, 21, cell - 3, colour, "none", opacity=0.6)
                d.text(x + 10.5, y + 15, str(chunk), 10)
        d.text(first + 88, 38 + 8 * cell, below, 11)
    d.text(138, 250, "a product takes 16 terms:", 11)
    d.text(138, 266, "one colour, in every row", 11)
    d.text(378, 250, "a product takes 16 rows; the next", 11)
    d.text(378, 266, "64 lines are a panel further", 11)
    d.save(OUTPUT / "warpgroups.svg")


def halo():
    """A tile, and what windows reach around it."""
    d, cell = Drawing(470, 190), 15
    d.text(110, 16, "image, cut into tiles")
    inside = block(range(3, 8), range(4, 8), BLUE)
    places = {(row, column) for row, column, _ in inside}
    around = [c for c in block(range(1, 10), range(2, 10), ORANGE) if c[:2] not in places]
    grid(d, 20, 26, 10, 12, cell, inside + around)
    for column in (0, 4, 8, 12):
        d.line(20 + column * cell, 26, 20 + column * cell, 176, width=1.6)
    for row in (0, 3, 8, 10):
        d.line(20, 26 + row * cell, 200, 26 + row * cell, width=1.6)
    for line, (colour, text) in enumerate(
        (
            (BLUE, "what a block writes"),
            (ORANGE, "what its windows reach as well:"),
        )
    ):
        d.rect(228, 44 + 26 * line, 14, 14, colour, "none", opacity=0.6)
        d.text(250, 55 + 26 * line, text, 11, "start")
    d.text(250, 95, "loaded by the neighbour too, from", 11, "start")
    d.text(250, 109, "the second-level cache", 11, "start")
    d.text(228, 140, "1. load both into shared memory", 11, "start")
    d.text(228, 156, "2. sum over rows, then over columns", 11, "start")
    d.text(228, 172, "3. write the tile once", 11, "start")
    d.save(OUTPUT / "halo.svg")


def main():
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for draw in (gather, product, registers, winograd, folding, tensor_cores, warpgroups, halo):
        draw()


if __name__ == "__main__":
    main()
