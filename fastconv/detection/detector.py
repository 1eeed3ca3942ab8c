"""A detector: candidates, a head, and what is made of their answers; on disk, too."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fastconv import data
from fastconv._files import atomic_open, read_tensors, write_tensors
from fastconv._layers import find_layer
from fastconv.detection.annotations import Annotated
from fastconv.detection.boxes import clip, decode, iou, merge, nms
from fastconv.detection.candidates import Regions, Windows
from fastconv.detection.heads import Head, Samples, Training, train_head
from fastconv.run import Run

FORMAT = 1
CONFIG, WEIGHTS = "detector.json", "detector.safetensors"
METHODS = ("rcnn", "dense")


class Found(NamedTuple):
    """Something found: class name, score (an SVM's, or for "dense" a sum of shares), box."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass
class Options:
    """How a detector looks; each name is a flag of ``fastconv detect``.

    Attributes:
        method: "rcnn": proposals, warped; non-maximum suppression. "dense": sliding windows;
            merging.
        layer: whose outputs are the features.
        proposals, most: of "rcnn", see `Regions`.
        sizes, fine: of "dense", see `Windows`.
        suppress: IoU from which on two boxes are about the same thing.
        least: lowest SVM score of a candidate that counts.
        regress: whether boxes are moved by the regression.
    """

    method: str = "rcnn"
    layer: str = "relu7"
    proposals: str = "selective"
    most: int = 2000
    sizes: list[int] = field(default_factory=lambda: [224, 320, 448])
    fine: bool = True
    suppress: float = 0.3
    least: float = -1.0
    regress: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: must be one of {', '.join(METHODS)} (got {self.method!r})")
        if self.most < 1:
            raise ValueError(f"most: must be at least 1 (got {self.most})")
        if not 0 < self.suppress < 1:
            raise ValueError(f"suppress: must be between 0 and 1 (got {self.suppress})")


class DetectorError(ValueError):
    """A folder that is not a detector, or a damaged one; the message names the file."""


class Detector:
    """Finds things in pictures with the features of a run; made by `train_detector` or `open`.

    Attributes:
        run, classes, head, options: what it consists of.
    """

    def __init__(self, run: Run, classes: Sequence[str], head: Head, options: Options):
        self.run, self.classes, self.head, self.options = run, list(classes), head, options
        self.candidates = make_candidates(run, options)

    def detect(self, picture: str | os.PathLike | Image.Image) -> list[Found]:
        """What is in a picture, best first.

        Args:
            picture: a file, or an RGB Pillow image.

        Raises:
            fastconv.data.ImageError: no readable image.
        """
        picture = picture if isinstance(picture, Image.Image) else data.open_image(picture)
        boxes, features = self.candidates(picture)
        found: list[Found] = []
        if not len(boxes):
            return found
        scores = self.head.scores(features)
        for k, label in enumerate(self.classes):
            chosen = scores[:, k] > self.options.least
            moved, values = boxes[chosen], scores[chosen, k]
            if self.options.regress:
                moved = decode(moved, self.head.moves(features[chosen], k))
            moved = clip(moved, (picture.height, picture.width))
            inside = (moved[:, 2:] > moved[:, :2]).all(1)
            found += self._suppressed(label, moved[inside], values[inside])
        return sorted(found, key=lambda f: -f.score)

    def _suppressed(self, label: str, boxes: Tensor, scores: Tensor) -> list[Found]:
        if self.options.method == "dense":
            boxes, scores = merge(boxes, scores.sigmoid(), self.options.suppress)
        else:
            kept = nms(boxes, scores, self.options.suppress)
            boxes, scores = boxes[kept], scores[kept]
        pairs = zip(boxes.tolist(), scores.tolist(), strict=True)
        return [Found(label, score, tuple(box)) for box, score in pairs]

    def save(self, path: str | os.PathLike) -> None:
        """Write ``detector.json`` and ``detector.safetensors`` into a folder.

        The run is named, not copied: by its path from the folder, and in full.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / WEIGHTS, {name: t for name, t in vars(self.head).items()})
        run = self.run.path.resolve()
        try:
            relative = os.path.relpath(run, path.resolve())
        except ValueError:  # another drive
            relative = str(run)
        config = {
            "format": FORMAT,
            "run": {"relative": relative, "absolute": str(run), "weights": self.run.weights},
            "classes": self.classes,
            "options": asdict(self.options),
        }
        with atomic_open(path / CONFIG) as f:
            f.write(json.dumps(config, indent=2, ensure_ascii=False).encode())

    @classmethod
    def open(cls, path: str | os.PathLike, run: Run | None = None) -> Detector:
        """The detector in a folder.

        Args:
            run: whose features it takes, where the run is no longer where it was.

        Raises:
            FileNotFoundError: no such folder, or the run is gone.
            DetectorError: not a detector, or a damaged one.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"no such detector: {path}")
        if not (path / CONFIG).is_file():
            raise DetectorError(f"{path}: not a detector of fastconv (it has no {CONFIG})")
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            if config["format"] != FORMAT:
                raise DetectorError(f"{path / CONFIG}: format {config['format']}, not {FORMAT}")
            place, options = config["run"], Options(**config["options"])
            head = Head(**read_tensors(path / WEIGHTS)[0])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise DetectorError(f"{path / CONFIG}: damaged ({error})") from None
        if run is None:
            near = path.resolve() / place["relative"]
            run = Run.open(near if near.is_dir() else place["absolute"], weights=place["weights"])
        return cls(run, config["classes"], head, options)


def make_candidates(run: Run, options: Options) -> Regions | Windows:
    """What looks for candidates, as ``options`` say."""
    find_layer(run.model, options.layer)
    if options.method == "dense":
        return Windows(run, options.layer, sizes=options.sizes, fine=options.fine)
    return Regions(run, options.layer, proposals=options.proposals, most=options.most)


def train_detector(
    run: Run,
    pictures: Sequence[Annotated],
    options: Options | None = None,
    training: Training | None = None,
    *,
    progress: Callable[[int, int], Any] | None = None,
) -> Detector:
    """A detector of the classes that are marked in ``pictures``.

    The features of all candidates of all pictures are kept in memory, in float16: 8 KB each with
    4,096 features.

    Args:
        run: whose features; its network is not trained further.
        pictures: with boxes.
        progress: called with pictures done and in all.

    Raises:
        ValueError: nothing is marked, or an option is out of range.
        fastconv.data.ImageError: a picture cannot be read.
    """
    options = options or Options()
    # Windows rarely fit an object as closely as one of thousands of proposals does.
    default = Training() if options.method == "rcnn" else Training(positive=0.5, regress=0.5)
    training = training or default
    classes = sorted({label for picture in pictures for label in picture.labels})
    if not classes:
        raise ValueError("train_detector: no picture has a box")
    candidates = make_candidates(run, options)
    samples = []
    for number, picture in enumerate(pictures, 1):
        samples.append(sample(candidates, picture, classes))
        if progress is not None:
            progress(number, len(pictures))
    return Detector(run, classes, train_head(samples, classes, training), options)


def sample(candidates: Any, picture: Annotated, classes: Sequence[str]) -> Samples:
    """The candidates of an annotated picture, its objects among them where that is possible."""
    boxes, features = candidates(data.open_image(picture.path), picture.boxes)
    overlaps = torch.zeros(len(boxes), len(classes))
    nearest = torch.zeros(len(boxes), len(classes), 4)
    on_difficult = torch.zeros(len(boxes), dtype=torch.bool)
    for k, name in enumerate(classes):
        wanted = torch.tensor([label == name for label in picture.labels], dtype=torch.bool)
        objects = picture.boxes[wanted & ~picture.difficult]
        if len(objects):
            overlaps[:, k], best = iou(boxes, objects).max(1)
            nearest[:, k] = objects[best]
        if (wanted & picture.difficult).any():
            on_difficult |= iou(boxes, picture.boxes[wanted & picture.difficult]).amax(1) >= 0.3
    return Samples(features, boxes, overlaps, nearest, on_difficult)
