"""Detection: where in a picture something is.

```python
from fastconv import Run, detection

run = Run.open("runs/pets")
dense = detection.to_dense(run.model)  # class scores for every window of a larger image

pictures = detection.read_annotations("raccoon")  # VOC's XML or COCO's JSON
detector = detection.train_detector(run, pictures)  # R-CNN
detector.detect("garden.jpg")  # [Found(label="raccoon", score=1.7, box=(...)), ...]
```
"""

from fastconv.detection.annotations import (
    Annotated,
    AnnotationError,
    read_annotations,
    read_coco,
    read_voc,
)
from fastconv.detection.average_precision import (
    Detection,
    PrecisionRecall,
    coco_average_precision,
    precision_recall,
)
from fastconv.detection.boxes import decode, encode, iou, merge, nms
from fastconv.detection.candidates import Regions, Windows
from fastconv.detection.dense import DenseNet, dense_scores, resize_shortest, to_dense
from fastconv.detection.detector import Detector, DetectorError, Found, Options, train_detector
from fastconv.detection.heads import Head, Training
from fastconv.detection.proposals import grid_boxes, selective_search
from fastconv.detection.study import Evaluation, draw, evaluate_detector, hold_out

__all__ = [
    "Annotated",
    "AnnotationError",
    "DenseNet",
    "Detection",
    "Detector",
    "DetectorError",
    "Evaluation",
    "Found",
    "Head",
    "Options",
    "PrecisionRecall",
    "Regions",
    "Training",
    "Windows",
    "coco_average_precision",
    "decode",
    "dense_scores",
    "draw",
    "encode",
    "evaluate_detector",
    "grid_boxes",
    "hold_out",
    "iou",
    "merge",
    "nms",
    "precision_recall",
    "read_annotations",
    "read_coco",
    "read_voc",
    "resize_shortest",
    "selective_search",
    "to_dense",
    "train_detector",
]
