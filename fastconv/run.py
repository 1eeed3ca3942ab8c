"""A run: the folder that training writes and every other command reads.

| file | holds |
|---|---|
| ``run.json`` | format, versions, model and its arguments, classes, transforms, settings |
| ``statistics.safetensors`` | what the transforms need of the training images: mean, PCA |
| ``last.safetensors`` | weights after the last finished epoch, or where training was stopped |
| ``best.safetensors`` | weights of the epoch with the highest validation top-1 |
| ``snapshots/0005.safetensors`` | weights after epoch 5, where snapshots were asked for |
| ``state.pt`` | all that is needed to go on; loads with ``weights_only=True`` |
| ``log.csv``, ``curves.png`` | one row an epoch; the same as a picture |
| ``unreadable.log`` | names of the images that were skipped, if any |
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from fastconv import data
from fastconv._files import FileFormatError, atomic_open, read_tensors, write_tensors
from fastconv._version import __version__
from fastconv.models import create_model

FORMAT = 1
CONFIG, STATISTICS, LOG = "run.json", "statistics.safetensors", "log.csv"
UNREADABLE, SNAPSHOTS = "unreadable.log", "snapshots"


class RunError(ValueError):
    """A folder that is not a run, or a run that is damaged; the message names the file."""


class Prediction(NamedTuple):
    """One guess: `label` as in ``run.classes``, `name` for people, `probability` in [0, 1]."""

    label: str
    name: str
    probability: float


class Run:
    """A trained (or training) model with all that is needed to use it.

    Attributes:
        path: the folder.
        config: the contents of run.json.
        model: the network in eval mode, with the weights asked for.
        weights: "best", "last" or the epoch of a snapshot; None where the run was opened or created
            without.
        classes: labels in the order of the model's outputs.
        statistics: tensors of the transforms.
        transform: the evaluation pipeline, PIL image -> float tensor (C, H, W).
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        statistics: dict[str, Tensor],
        network: nn.Module | None = None,
    ):
        self.path = Path(path)
        self.config = config
        self.statistics = statistics
        self.weights: str | int | None = None
        self.classes: list[str] = list(config["classes"])
        self.names: dict[str, str] = dict(config.get("names") or {})
        self.transform = data.transforms.from_config(config["transforms"]["eval"], statistics)
        spec = config["model"]
        self.model: nn.Module = network or create_model(
            spec["name"],
            num_classes=len(self.classes),
            in_chans=config["input_size"][0],
            **spec["kwargs"],
        )
        self.model.eval()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        model: str,
        model_kwargs: Mapping[str, Any],
        classes: Sequence[str],
        input_size: Sequence[int],
        transforms: Mapping[str, Any],
        statistics: Mapping[str, Tensor],
        settings: Mapping[str, Any],
        names: Mapping[str, str] | None = None,
        network: nn.Module | None = None,
    ) -> Run:
        """Start a run in the folder `path`, which must be absent or empty.

        Args:
            model, model_kwargs: as for `fastconv.create_model`.
            classes: labels in the order of the model's outputs.
            input_size: (C, H, W) of what the model gets.
            transforms: {"train": config, "eval": config}, each of `data.transforms.to_config`.
            statistics: the tensors those configs name.
            settings: what the run was told to do; plain values.
            names: readable names for some or all of the classes.
            network: the model itself, where the caller has built it already.

        Raises:
            RunError: the folder holds something already.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path}: not empty; a new run needs a folder of its own")
        config = {
            "format": FORMAT,
            "fastconv": __version__,
            "torch": torch.__version__,
            "model": {"name": model, "kwargs": dict(model_kwargs)},
            "num_classes": len(classes),
            "classes": list(classes),
            "names": dict(names or {}),
            "input_size": list(input_size),
            "transforms": dict(transforms),
            "settings": dict(settings),
        }
        text = json.dumps(config, indent=2, ensure_ascii=False)
        run = cls(path, json.loads(text), dict(statistics), network)
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / STATISTICS, statistics)
        with atomic_open(path / CONFIG) as f:  # last: a folder with run.json is a whole run
            f.write(text.encode())
        return run

    @classmethod
    def open(cls, path: str | Path, weights: str | int | None = "best") -> Run:
        """Open the run in the folder `path`.

        Args:
            path: the folder (or its run.json).
            weights: "best", "last", the epoch of a snapshot, or None to leave the model as
                initialised.

        Raises:
            FileNotFoundError: no such folder, or no such weights yet.
            RunError: not a run, or a damaged one.
        """
        path = Path(path)
        path = path.parent if path.name == CONFIG else path
        if not path.is_dir():
            raise FileNotFoundError(f"no such run: {path}")
        config, statistics = _read_config(path), _read_run_tensors(path / STATISTICS)[0]
        try:
            run = cls(path, config, statistics)
            run._try_transform()
        except Exception as error:  # anything may stand in a file that others have changed
            raise RunError(f"{path / CONFIG}: damaged ({brief(error)})") from error
        if weights is not None:
            run.load_weights(weights)
        return run

    def _try_transform(self) -> None:
        given, wanted = self.transform(Image.new("RGB", (32, 32))), self.config["input_size"]
        if not isinstance(given, Tensor) or list(given.shape) != list(wanted):
            shape = list(given.shape) if isinstance(given, Tensor) else "no tensor"
            raise ValueError(f"its transforms give {shape}, its network takes {wanted}")

    def load_weights(self, weights: str | int) -> None:
        """Load "best", "last" or a snapshot into ``self.model``; errors as in `open`."""
        if weights not in ("best", "last") and not _is_epoch(weights):
            raise ValueError(
                f"weights: must be 'best' or 'last', or the epoch of a snapshot (got {weights!r})"
            )
        path = self.weights_path(weights)
        if _is_epoch(weights) and not path.exists():
            kept = ", ".join(map(str, self.snapshots)) or "none"
            raise FileNotFoundError(f"{path}: no such snapshot; there are: {kept}")
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: not there yet; it is written when the run's first epoch ends"
            )
        tensors, _ = _read_run_tensors(path)
        load_tensors(self.model, tensors, path)
        self.weights = weights

    def weights_path(self, weights: str | int) -> Path:
        """The file of the "best" or "last" weights, or of the snapshot after an epoch."""
        if isinstance(weights, int):
            return self.path / SNAPSHOTS / f"{weights:04}.safetensors"
        return self.path / f"{weights}.safetensors"

    @property
    def snapshots(self) -> list[int]:
        """The epochs after which the weights were kept, rising."""
        found = (self.path / SNAPSHOTS).glob("*.safetensors")
        return sorted(int(file.stem) for file in found if file.stem.isdigit())

    @property
    def history(self) -> list[dict[str, float | None]]:
        """The rows of log.csv, oldest first; empty before the first epoch's end."""
        return read_log(self.path / LOG)

    def name_of(self, label: str) -> str:
        """A readable name for a class label; the label itself where none is known."""
        return self.names.get(label, label)

    def preprocess(self, image: Any) -> Tensor:
        """What the model gets for `image` (a path, a binary file or a PIL image): (C, H, W)."""
        return self.transform(image if hasattr(image, "getpixel") else data.open_image(image))

    @torch.inference_mode()
    def predict(self, images: Any, top: int = 5) -> list[list[Prediction]]:
        """The `top` most probable classes of each image, most probable first.

        Args:
            images: one image or a sequence of them (paths, binary files or PIL images).
            top: guesses an image; no more than there are classes.

        Returns:
            One list an image, also for a single image.

        Raises:
            fastconv.data.ImageError: a file is no readable image.
        """
        if top < 1:
            raise ValueError(f"predict: top must be at least 1 (got {top})")
        if not isinstance(images, (list, tuple)):
            images = [images]
        device = next(self.model.parameters()).device
        results = []
        for image in images:  # one by one: bounded memory for any number of them
            logits = self.model(self.preprocess(image).unsqueeze(0).to(device))
            probabilities = logits[0].float().softmax(0)
            values, indices = probabilities.topk(min(top, len(self.classes)))
            labels = [self.classes[i] for i in indices.tolist()]
            pairs = zip(labels, values.tolist(), strict=True)
            results.append([Prediction(label, self.name_of(label), p) for label, p in pairs])
        return results


def read_names(path: str | Path) -> dict[str, str]:
    """Readable class names from a file of lines ``label<TAB>name``.

    Raises:
        ValueError: a line of another form; the message has its number.
    """
    names = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        label, tab, name = line.partition("\t")
        if line.strip() and not (tab and label.strip() and name.strip()):
            raise ValueError(f"{path}, line {number}: must be label<TAB>name (got {line!r})")
        if line.strip():
            names[label.strip()] = name.strip()
    return names


def read_log(path: Path) -> list[dict[str, float | None]]:
    """The rows of a log.csv; whole numbers as int, absent values as None, no file as no rows."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        try:
            return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(f)]
        except (ValueError, TypeError, AttributeError):
            raise RunError(f"{path}: damaged (line with something that is no number)") from None


def _number(text: str) -> float | int | None:
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load `tensors` into `model`, or say in one line what of `source` does not fit.

    Raises:
        RunError: a name is missing or unknown, or a shape differs.
    """
    own = model.state_dict()
    for problem, names in (
        ("lacks", own.keys() - tensors.keys()),
        ("has unknown", tensors.keys() - own.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RunError(f"{source}: {problem} {min(names)}{more}: not this model's weights")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise RunError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, "
                f"this model wants {tuple(tensor.shape)}"
            )
    model.load_state_dict(dict(tensors))


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise RunError(f"{path}: not a run of fastconv (it has no {CONFIG})")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        version = config["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{file}: damaged ({brief(error)})") from None
    if version != FORMAT:
        raise RunError(
            f"{file}: format {version}, this fastconv ({__version__}) reads format {FORMAT}"
        )
    return config


def _read_run_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return read_tensors(path)
    except FileFormatError as error:
        raise RunError(str(error)) from None
    except FileNotFoundError:
        raise RunError(f"{path.parent}: damaged run (it has no {path.name})") from None


def _is_epoch(weights: object) -> bool:
    return isinstance(weights, int) and not isinstance(weights, bool)


def brief(error: Exception) -> str:
    """What went wrong in a file, in one line."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return next(iter(str(error).splitlines()), type(error).__name__)
