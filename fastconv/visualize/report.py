"""A run's pages: what they share. What each shows is in `pages` and `training_pages`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastconv import _figures, data
from fastconv._files import atomic_open, atomic_path
from fastconv._layers import CONVOLUTIONS, device_of, features, main_layers
from fastconv.data import transforms
from fastconv.run import Run
from fastconv.visualize import pictures
from fastconv.visualize._html import Page

# Steps that change colours alone; what is left of a pipeline shows the pixels that the model sees.
_COLOUR_STEPS = (transforms.SubtractMean, transforms.Normalize, transforms.PCANoise)
_COLOUR_STEPS += (transforms.Whiten, transforms.LocalContrast)
_TRIES = 20  # images of a class that are looked at for one that the model gets right


@dataclass
class Options:
    """What the pages show; each name is a flag of ``fastconv visualize``.

    Raises:
        ValueError: a number below 1.
    """

    layers: list[str] | None = None
    maps: int = 12
    top: int = 9
    examples: int = 5
    limit: int | None = None
    batch_size: int = 32
    workers: int = 0
    backward: str = "deconvnet"

    def __post_init__(self) -> None:
        for name in ("maps", "top", "examples", "limit", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1 (got {value})")


class Example(NamedTuple):
    """An image for the studies: its ``name``, the model's ``input`` (C, H, W), what is shown of it
    (``picture``, (H, W, 3) uint8), its class, and whether that is the true one or a guess.
    """

    name: str
    input: Tensor
    picture: np.ndarray
    target: int
    is_true: bool


@dataclass
class Report:
    """The folder in which a run's pages are put together.

    Args:
        run: an open run.
        folder: where pages go; made if absent.
        source: the data folder; None: the run's own. See `fastconv.data.open_dataset`.
        images: picture files for the studies of single images; none: from the validation images,
            for each of some classes the first that the model gets right.
        other: a run to compare the first-layer filters with.
        progress: has ``start(label, total)``, ``update(done)`` and ``finish()``; None: silence.
    """

    run: Run
    folder: Path
    source: str | None = None
    images: Sequence[str] = ()
    options: Options = field(default_factory=Options)
    other: Run | None = None
    progress: Any = None

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.model = self.run.model
        self._examples: list[Example] | None = None
        self._data: Any = None
        if self.source is None:
            self.source = self.run.config["settings"].get("data")

    # -- what the pages read --------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The model's name and the run's."""
        return title_of(self.run)

    @property
    def dataset(self) -> Any:
        """The validation images as the model takes them."""
        if self._data is None:
            self._data = self._open(self.run.transform)
        return self._data

    def _open(self, transform: Callable) -> Any:
        return data.open_dataset(self.source, "val", transform=transform, classes=self.run.classes)

    @property
    def view(self) -> transforms.Compose:
        """The evaluation pipeline without its steps of colour: pixels in [0, 1]."""
        return transforms.Compose([s for s in self._steps() if not isinstance(s, _COLOUR_STEPS)])

    def _steps(self) -> list[Callable]:
        pipeline = self.run.transform
        return pipeline.transforms if isinstance(pipeline, transforms.Compose) else [pipeline]

    @property
    def is_centred(self) -> bool:
        """Whether 0 is the data's mean to the model; else it is black."""
        return any(isinstance(step, transforms.SubtractMean) for step in self._steps())

    @property
    def grey(self) -> float:
        """Grey in the model's units: 0 where a mean is subtracted, else the middle of the range."""
        if self.is_centred:
            return 0.0
        grey = 0.5
        for step in self._steps():
            if isinstance(step, transforms.Normalize):
                grey = (grey - step.mean[0]) / step.std[0]
        return grey

    def pixels(self, indices: Iterable[int]) -> Tensor:
        """What is shown of images of the data set, (N, C, H, W) in [0, 1]."""
        shown = self._open(self.view)
        return torch.stack([shown[int(index)][0] for index in indices])

    def inputs(self, indices: Iterable[int]) -> Tensor:
        """Images of the data set as the model takes them, (N, C, H, W), on its device."""
        images = torch.stack([self.dataset[int(index)][0] for index in indices])
        return images.to(device_of(self.model))

    def file_of(self, index: int) -> str:
        """The name of an image of the data set."""
        path = getattr(self.dataset, "path", None)
        if path is None:
            return f"image {index}"
        return path(int(index)).relative_to(self.dataset.root).as_posix()

    def class_name(self, index: int) -> str:
        """A class's name for people."""
        return self.run.name_of(self.run.classes[index])

    @property
    def class_names(self) -> list[str]:
        return [self.run.name_of(label) for label in self.run.classes]

    def conv_layers(self) -> list[str]:
        """The layers asked for, or the rectified outputs of the convolutions."""
        return self.options.layers or main_layers(self.model, CONVOLUTIONS)

    def examples(self, count: int | None = None) -> list[Example]:
        """The images of the studies, at most ``count``."""
        if self._examples is None:
            if self.images:
                self._examples = [self._example_of(path) for path in self.images]
            else:
                self._examples = self._examples_of_data()
        return self._examples[:count]

    def _example_of(self, path: str) -> Example:
        image = data.open_image(path)
        input = self.run.preprocess(image)
        label = Path(path).resolve().parent.name  # photos/val/cat/7.jpg says what it shows
        is_true = label in self.run.classes
        target = self.run.classes.index(label) if is_true else int(self._scores(input).argmax())
        shown = pictures.pixel_picture(self.view(image))
        return Example(Path(path).name, input, shown, target, is_true)

    def _examples_of_data(self) -> list[Example]:
        targets = np.asarray(self.dataset.targets)
        count = min(self.options.examples, len(self.run.classes))
        chosen = []
        for number in range(count):
            target = number * len(self.run.classes) // count
            indices = np.flatnonzero(targets == target)[:_TRIES]
            readable = [(int(i), s[0]) for i in indices if (s := self.dataset[int(i)]) is not None]
            if not readable:
                continue
            right = (pair for pair in readable if int(self._scores(pair[1]).argmax()) == target)
            index, input = next(right, readable[0])
            shown = pictures.pixel_picture(self.pixels([index])[0])
            chosen.append(Example(self.file_of(index), input, shown, target, True))
        return chosen

    def _scores(self, input: Tensor) -> Tensor:
        return features(self.model, input[None].to(device_of(self.model)), [""])[""][0]

    # -- what the pages write -------------------------------------------------------------------

    def place(self, *names: str) -> Path:
        """A file of that name in the folder, whose own folders are made."""
        path = self.folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def picture(self, picture: np.ndarray, *names: str) -> Path:
        """Save a picture."""
        path = self.place(*names)
        pictures.save(picture, path)
        return path

    def figure(self, figure: Any, *names: str) -> Path:
        """Save a matplotlib figure."""
        path = self.place(*names)
        _figures.save_figure(figure, path)
        return path

    def arrays(self, *names: str, **arrays: np.ndarray) -> None:
        """Save arrays as NPZ."""
        with atomic_path(self.place(*names)) as temporary, open(temporary, "wb") as f:
            named: dict[str, Any] = arrays
            np.savez_compressed(f, **named)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]], *names: str) -> None:
        """Save rows as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([[_cell(v) for v in row] for row in rows])
        with atomic_open(self.place(*names)) as f:
            f.write(text.getvalue().encode())

    def page(self, heading: str, intro: str) -> Page:
        """A new page; write it with `write`."""
        return Page(f"{heading}: {self.title}", intro)

    def write(self, page: Page, name: str) -> None:
        page.write(self.place(f"{name}.html"))

    def stretch(self, label: str) -> Callable[[int, int], None]:
        """A function (done, total) that shows how far something has come."""
        if self.progress is None:
            return lambda done, total: None
        started = False

        def update(done: int, total: int) -> None:
            nonlocal started
            if not started:
                self.progress.start(label, total)
                started = True
            self.progress.update(done)
            if done == total:
                self.progress.finish()

        return update


def title_of(run: Run) -> str:
    """The model's name and the run's, which often has the model's in it."""
    model, name = run.config["model"]["name"], run.path.resolve().name
    return name if name.startswith(model) else f"{model}, {name}"


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else value
