"""Seeing inside: the pictures that show what a trained network has learned.

```python
from fastconv import Run, visualize

run = Run.open("runs/pets")
projection = visualize.Deconvnet(run.model)(run.preprocess("cat.jpg"), "relu5")
visualize.save(visualize.signed_picture(projection.pixels[0]), "cat-relu5.png")
```

Functions take a model and tensors, and give arrays; results with a ``figure()`` draw themselves
with matplotlib. ``fastconv visualize RUN`` puts them together as pages.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Deconvnet": "deconvnet",
    "Projection": "deconvnet",
    "features": "_layers",
    "main_layers": "_layers",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # On demand, as in fastconv.training.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
