"""Detection: where in a picture something is.

```python
from fastconv import Run, detection

run = Run.open("runs/pets")
dense = detection.to_dense(run.model)  # class scores for every window of a larger image
```
"""

from fastconv.detection.dense import DenseNet, dense_scores, resize_shortest, to_dense

__all__ = ["DenseNet", "dense_scores", "resize_shortest", "to_dense"]
