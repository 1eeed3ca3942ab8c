"""Small SVG drawings whose lines and letters take the colours of the page that they stand in."""

import base64
import io

# Colours that can be told apart, by the colour-blind too, on a white page and on a dark one.
BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82c4", "#e08a1e", "#2f9e77", "#d0484e", "#9a6fc0"

# For a browser of repositories, which shows the file alone; a page of the site leaves it out.
_ALONE = "<style>svg{color:#24292f}@media(prefers-color-scheme:dark){svg{color:#d5dae0}}</style>"


class Drawing:
    """Shapes on a sheet of `width` x `height` units."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.parts = []

    def add(self, element, content=None, **attributes):
        text = "".join(
            f' {name.rstrip("_").replace("_", "-")}="{_plain(value)}"'
            for name, value in attributes.items()
        )
        end = "/>" if content is None else f">{content}</{element}>"
        self.parts.append(f"<{element}{text}{end}")

    def rect(self, x, y, width, height, fill="none", stroke="currentColor", **attributes):
        attributes = {"stroke_width": 1, **attributes}
        self.add(
            "rect",
            None,
            x=x,
            y=y,
            width=width,
            height=height,
            fill=fill,
            stroke=stroke,
            **attributes,
        )

    def line(self, x0, y0, x1, y1, stroke="currentColor", width=1, **attributes):
        self.add(
            "line",
            None,
            x1=x0,
            y1=y0,
            x2=x1,
            y2=y1,
            stroke=stroke,
            stroke_width=width,
            **attributes,
        )

    def arrow(self, x0, y0, x1, y1, stroke="currentColor"):
        """A line with a head of 5 units at (x1, y1)."""
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        self.line(x0, y0, x1 - 4 * ux, y1 - 4 * uy, stroke, 1.3)
        corners = [(x1, y1)]
        corners += [(x1 - 6 * ux - 3 * s * uy, y1 - 6 * uy + 3 * s * ux) for s in (1, -1)]
        points = " ".join(f"{_plain(x)},{_plain(y)}" for x, y in corners)
        self.add("polygon", None, points=points, fill=stroke)

    def text(self, x, y, content, size=12, anchor="middle", **attributes):
        content = content.replace("&", "&amp;").replace("<", "&lt;")
        attributes = {"fill": "currentColor", **attributes}
        self.add("text", content, x=x, y=y, font_size=size, text_anchor=anchor, **attributes)

    def image(self, pixels, x, y, width, height, *, photo=False):
        """A (H, W) or (H, W, 3) array of uint8; cells stay sharp unless it is a photograph."""
        from PIL import Image

        data = io.BytesIO()
        options = {"format": "JPEG", "quality": 88} if photo else {"format": "PNG"}
        Image.fromarray(pixels).save(data, **options)
        kind = "jpeg" if photo else "png"
        href = f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
        style = {} if photo else {"style": "image-rendering:pixelated"}
        self.add(
            "image",
            None,
            href=href,
            x=x,
            y=y,
            width=width,
            height=height,
            preserveAspectRatio="none",
            **style,
        )

    def save(self, path):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" font-family="system-ui, sans-serif">'
        )
        path.write_text("\n".join([head, _ALONE, *self.parts, "</svg>\n"]), encoding="utf-8")


def _plain(value):
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
