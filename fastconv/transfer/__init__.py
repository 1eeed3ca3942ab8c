"""Transfer: what a trained network's features are worth on other data.

```python
from fastconv import Run, transfer

run = Run.open("runs/pets")
images = transfer.open_images("caltech101", run.transform)
taps = transfer.extract(run.model, images, ["pool5", "relu7"], cache="features")
scores = transfer.linear_accuracy(taps["relu7"], images.targets, per_class=30, splits=5)
```
"""

from fastconv.transfer.features import (
    AllImages,
    extract,
    numbered_layers,
    open_images,
    parse_layers,
    pixels,
)
from fastconv.transfer.fine_tuning import fine_tune
from fastconv.transfer.linear import CLASSIFIERS, Score, draw_splits, linear_accuracy

__all__ = [
    "CLASSIFIERS",
    "AllImages",
    "Score",
    "draw_splits",
    "extract",
    "fine_tune",
    "linear_accuracy",
    "numbered_layers",
    "open_images",
    "parse_layers",
    "pixels",
]
