"""What a run's network says of a data set: views of a picture, ensembles, errors class by class.

```python
run = fastconv.Run.open("runs/pets")
scores = evaluation.evaluate_run(run, views="ten")
scores.metrics().top1, scores.per_class(), scores.confusion()
```
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastconv import _figures, data
from fastconv._files import atomic_open
from fastconv._layers import looking
from fastconv.data import transforms
from fastconv.detection import dense_scores, to_dense
from fastconv.run import Run
from fastconv.training.evaluate import Metrics, autocast

VIEWS = ("center", "ten", "dense")
_NAMED_CLASSES = 40  # up to here a plot has room for names


# -- views -----------------------------------------------------------------------------------------


class TenViews(transforms.Compose):
    """Ten crops of what a pipeline's centre crop is cut from: corners and centre, and mirrored.

    Krizhevsky, Sutskever & Hinton (NIPS 2012), section 4.1, average the network's softmax outputs
    over them. A call gives (10, C, H, W): the corners and the centre, then their mirror images.
    """

    def __init__(self, transform: transforms.Compose):
        super().__init__([transform])
        self.before, self.crop, self.after = _parts(transform, "ten")

    def __call__(self, image: Any, generator: torch.Generator | None = None) -> Tensor:
        whole = self.before(image)
        height, width = self.crop.size
        rows, columns = whole.shape[1:]
        views = [
            whole[:, top : top + height, left : left + width]
            for top, left in transforms.five_places(rows, columns, self.crop.size)
        ]
        views += [view.flip(2) for view in views]
        return torch.stack([self.after(view) for view in views])


def whole_picture(transform: transforms.Compose) -> transforms.Compose:
    """A pipeline without its centre crop: all that the network is to be slid over."""
    before, _, after = _parts(transform, "dense")
    return transforms.Compose([before, after])


def _parts(transform: Any, views: str) -> tuple:
    """A pipeline's steps before its last crop of tensors, that crop, and the steps after it."""
    steps = getattr(transform, "transforms", [transform])
    floats = [i for i, step in enumerate(steps) if isinstance(step, transforms.ToTensor)]
    crops = [i for i, step in enumerate(steps) if isinstance(step, transforms.CenterCrop)]
    if not floats or not crops or crops[-1] < floats[0]:
        raise ValueError(
            f"views: {views} needs pictures larger than the network's input, and the run's "
            "pipeline resizes them to it; what there is is views=center"
        )
    at = crops[-1]
    return transforms.Compose(steps[:at]), steps[at], transforms.Compose(steps[at + 1 :])


# -- scores ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Class probabilities of a data set.

    Attributes:
        classes: labels, in the order of the columns.
        probabilities: (N, classes), float32.
        targets: (N,), the true classes.
        skipped: images that could not be read.
    """

    classes: list[str]
    probabilities: Tensor
    targets: Tensor
    skipped: int = 0

    def metrics(self) -> Metrics:
        """Loss, top-1 and top-5. A probability that is 0 counts as the smallest positive one."""
        n = len(self.targets)
        if not n:
            return Metrics(math.nan, math.nan, math.nan, 0, self.skipped)
        true = self.probabilities.gather(1, self.targets[:, None]).double()
        loss = -true.clamp_min(torch.finfo(torch.float32).tiny).log().mean().item()
        hits = self._hits(5)
        top1, top5 = hits[:, 0].double().mean().item(), hits.any(1).double().mean().item()
        return Metrics(loss, top1, top5, n, self.skipped)

    def confusion(self) -> Tensor:
        """(classes, classes) counts: row the true class, column the one that was guessed."""
        count = len(self.classes)
        pairs = self.targets * count + self.probabilities.argmax(1)
        return torch.bincount(pairs, minlength=count * count).view(count, count)

    def per_class(self) -> list[dict[str, Any]]:
        """For each class: images, accuracies (None without images) and what it is taken for most.

        Keys: class, images, top1, top5, mistaken_for, mistaken (how many).
        """
        hits, confusion = self._hits(5), self.confusion()
        rows = []
        for index, label in enumerate(self.classes):
            own = hits[self.targets == index]
            wrong = confusion[index].clone()
            wrong[index] = 0
            most = int(wrong.argmax())
            rows.append(
                {
                    "class": label,
                    "images": len(own),
                    "top1": own[:, 0].double().mean().item() if len(own) else None,
                    "top5": own.any(1).double().mean().item() if len(own) else None,
                    "mistaken_for": self.classes[most] if wrong[most] else "",
                    "mistaken": int(wrong[most]),
                }
            )
        return rows

    def _hits(self, guesses: int) -> Tensor:
        """(N, guesses): which of the likeliest classes is the true one."""
        guesses = min(guesses, len(self.classes))
        return self.probabilities.topk(guesses, dim=1).indices == self.targets[:, None]


def ensemble(members: Sequence[Scores]) -> Scores:
    """The mean of several networks' probabilities for the same images.

    Raises:
        ValueError: no members, other classes or other images.
    """
    if not members:
        raise ValueError("ensemble: needs at least one member")
    first = members[0]
    total = torch.zeros_like(first.probabilities)
    for member in members:
        if set(member.classes) != set(first.classes):
            raise ValueError("ensemble: the members must have the same classes")
        order = [member.classes.index(label) for label in first.classes]
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        if not torch.equal(place[member.targets], first.targets):
            raise ValueError("ensemble: the members must have seen the same images")
        total += member.probabilities[:, order]
    return Scores(first.classes, total / len(members), first.targets, first.skipped)


# -- evaluating ------------------------------------------------------------------------------------


def evaluate_run(
    run: Run,
    source: str | None = None,
    *,
    views: str = "center",
    batch_size: int = 128,
    workers: int = 0,
    amp: bool = False,
    channels_last: bool = False,
    strict: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Scores:
    """The scores of a run's network, wherever it is, on the validation images.

    Args:
        source: the data folder; None: the run's own.
        views: "center": the centre crop. "ten": `TenViews`, averaged. "dense": all windows of the
            picture and of its mirror image, by convolution, averaged (`fastconv.detection`).
        batch_size: images at once; of ten views there are ten times as many.
        workers: processes that read.
        amp: mixed precision, as in training.
        channels_last: NHWC memory.
        strict: raise at an unreadable image.
        on_batch: called with the number of batches done and of all.

    Raises:
        ValueError: unknown views, or views that the run's pipeline leaves no room for.
    """
    if views not in VIEWS:
        raise ValueError(f"views: must be one of {', '.join(VIEWS)} (got {views!r})")
    settings = run.config["settings"]
    ways: dict[str, Any] = {"center": lambda t: t, "ten": TenViews, "dense": whole_picture}
    dataset = data.open_dataset(
        source or settings.get("data"),
        "val",
        transform=ways[views](run.transform),
        strict=strict,
        classes=run.classes,
    )
    device = next(run.model.parameters()).device
    loader = data.build_loader(dataset, None, batch_size, workers=workers, device=device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model: Any = run.model
    model = model.to(memory_format=layout)
    dtype = getattr(torch, settings.get("amp_dtype", "bfloat16")) if amp else None
    with torch.inference_mode(), autocast(device, dtype):
        probabilities = _judge(model, views, run.config["input_size"])
        found, targets, skipped = [torch.empty(0, len(run.classes))], [], 0
        for done, (images, labels, unread) in enumerate(loader, 1):
            skipped += int(unread)
            targets.append(labels)
            if len(images):
                images = images.to(device, non_blocking=True)
                found.append(probabilities(images, layout).cpu())
            if on_batch is not None:
                on_batch(done, len(loader))
    return Scores(run.classes, torch.cat(found), torch.cat(targets), skipped)


def _judge(
    model: nn.Module, views: str, input_size: Sequence[int]
) -> Callable[[Tensor, torch.memory_format], Tensor]:
    """From a batch of the views' images to class probabilities (N, classes), float32."""
    if views == "dense":
        with looking(model):  # DropConnect by its mean, which has a dense form
            channels, height, width = input_size
            dense = to_dense(model, (channels, height, width))
        return lambda images, layout: dense_scores(
            dense, images.contiguous(memory_format=layout), flip=True
        )

    def judge(images: Tensor, layout: torch.memory_format) -> Tensor:
        count = images.shape[1] if images.dim() == 5 else 1
        images = images.flatten(0, -4).contiguous(memory_format=layout)
        logits = model(images).float()
        return logits.softmax(1).unflatten(0, (-1, count)).mean(1)

    return judge


# -- report ----------------------------------------------------------------------------------------


def write_report(
    folder: str | Path, scores: Scores, title: str = "", names: Mapping[str, str] | None = None
) -> list[Path]:
    """Write classes.csv, confusion.csv and their plots classes.png and confusion.png.

    Args:
        names: readable names for some or all of the classes, for the plots.

    Raises:
        ImportError: the plots need matplotlib; the tables are there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = scores.per_class()
    confusion = scores.confusion()
    header = ("true \\ guessed", *scores.classes)
    counts = zip(scores.classes, confusion.tolist(), strict=True)
    _write_csv(folder / "confusion.csv", [header, *((label, *row) for label, row in counts)])
    table = [[_cell(value) for value in row.values()] for row in rows]
    _write_csv(folder / "classes.csv", [list(rows[0]), *table])
    scores = replace(scores, classes=[(names or {}).get(c, c) for c in scores.classes])
    figures = {
        "confusion.png": confusion_figure(scores, title),
        "classes.png": classes_figure(scores, title),
    }
    for name, figure in figures.items():
        _figures.save_figure(figure, folder / name)
    return [folder / name for name in ("classes.csv", "confusion.csv", *figures)]


def confusion_figure(scores: Scores, title: str = "") -> Any:
    """The confusion matrix, each row in per cent of its class; numbers where there is room."""
    counts = scores.confusion().double()
    percent = (100 * counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy()
    classes = len(scores.classes)
    side = min(12, 3.2 + 0.42 * min(classes, _NAMED_CLASSES))
    figure = _figures.new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    shown = _figures.image(axes, percent, title=title, cmap=_figures.HEAT, vmin=0, vmax=100)
    figure.colorbar(shown, ax=axes, label="% of the class", shrink=0.8)
    axes.set_xlabel("guessed")
    axes.set_ylabel("true")
    if classes <= _NAMED_CLASSES:
        axes.set_xticks(range(classes), scores.classes, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), scores.classes, fontsize=8)
    if classes <= 20:
        for y, row in enumerate(percent):
            for x, value in enumerate(row):
                colour = "black" if value > 55 else "white"
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return figure


def classes_figure(scores: Scores, title: str = "") -> Any:
    """Top-1 accuracy of each class, the best above; beyond 40 classes as a curve."""
    rows = sorted(
        (row for row in scores.per_class() if row["images"]), key=lambda row: -row["top1"]
    )
    values = [100 * row["top1"] for row in rows]
    mean = 100 * scores.metrics().top1
    title = f"{title}  (line: all images, {mean:.1f} %)".lstrip()
    if len(rows) <= _NAMED_CLASSES:
        figure = _figures.new_figure(7, 1.2 + 0.26 * len(rows))
        axes = _figures.plain(figure.add_subplot(), title=title, x="top-1 accuracy, %")
        _figures.bars(axes, [row["class"] for row in rows], values)
        axes.axvline(mean, color=_figures.COLOURS[1], linewidth=1.2)
        axes.set_xlim(0, 100)
    else:
        figure = _figures.new_figure(7, 4)
        axes = _figures.plain(
            figure.add_subplot(), title=title, x="classes, from the best", y="top-1 accuracy, %"
        )
        axes.plot(values, color=_figures.COLOURS[0])
        axes.axhline(mean, color=_figures.COLOURS[1], linewidth=1.2)
        axes.set_ylim(0, 100)
    return figure


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with atomic_open(path) as f:
        f.write(text.getvalue().encode())
