"""From settings to a trainer: data, statistics, model, run folder; new or resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastconv import data
from fastconv._files import remove_leftovers
from fastconv.models import create_model
from fastconv.run import CONFIG, STATISTICS, Run, RunError, read_names
from fastconv.training import checkpoint
from fastconv.training.devices import pick_device
from fastconv.training.distributed import World
from fastconv.training.engine import Trainer
from fastconv.training.interrupt import StopRequest
from fastconv.training.progress import Progress
from fastconv.training.settings import Settings, SettingsError

# What may differ when a run is resumed: it changes where and how fast, not what is computed.
RUNTIME_SETTINGS = (
    "data",
    "device",
    "threads",
    "workers",
    "device_transforms",
    "compile",
    "grad_accum_steps",
    "save_every",
    "snapshots",
)
_NAMES = "classes.tsv"


def start(
    settings: Settings,
    *,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> Trainer:
    """A new run, saved and ready for ``.fit()``.

    Of several processes, the first makes the run and the others open it, so its folder has to be on
    a disk that all can read.

    Args:
        progress: where to report; plain lines by default.
        stop: what asks training to save and stop.
        world: the processes that share the work; all of them have to call this.

    Raises:
        ValueError, FileNotFoundError: settings, data or output folder are not usable; the message
            says what is wrong. Nothing is written then.
        SystemExit: the first process failed so, and has said why.
    """
    world = world or World()
    if world.size == 1:
        return _start(settings, progress or Progress(), stop, world)
    if not world.leads:
        with world.together():
            path = world.share()
        if path is None:
            raise SystemExit(2)
        return resume(path, progress=progress, stop=stop, world=world)
    path = None
    try:
        trainer = _start(settings, progress or Progress(), stop, world)
        path = str(trainer.run.path.absolute())
    finally:
        world.share(path)
    return trainer


def _start(
    settings: Settings, progress: Progress, stop: StopRequest | None, world: World
) -> Trainer:
    if settings.data is not None:  # the run must find its data from any folder
        settings = replace(settings, data=str(Path(settings.data).absolute()))
    if settings.model is None:
        raise SettingsError("model: must be the name of a model (got None)")
    device = _use_machine(settings, world)
    if settings.output and _is_used(Path(settings.output)):
        raise SettingsError(_used_message(Path(settings.output)))
    train_set, val_set = _open_data(settings)
    model, input_size = _build_model(settings, len(train_set.classes))
    recipe = settings.recipe or ("digits" if settings.data is None else "classic")
    statistics = _statistics(settings, recipe, train_set, input_size, progress)
    options: dict[str, Any] = {
        "mean": settings.mean,
        "units": settings.units or getattr(model, "input_units", "std"),
        "crops": settings.crops,
        "pca_noise": settings.pca_noise,
        "preprocess": settings.preprocess,
    }
    pipelines = {
        split: data.recipe(recipe, input_size, statistics, train=split == "train", **options)
        for split in ("train", "eval")
    }
    train_set.transform, val_set.transform = pipelines["train"], pipelines["eval"]
    _try_out(model, val_set, settings.model, input_size)
    _device_transforms(settings, device, train_set, val_set)
    run = Run.create(
        Path(settings.output) if settings.output else _next_folder(settings.model),
        model=settings.model,
        model_kwargs=settings.model_kwargs,
        classes=train_set.classes,
        input_size=input_size,
        transforms={k: data.transforms.to_config(t) for k, t in pipelines.items()},
        statistics=statistics,
        settings=settings.to_dict(),
        names=_names(settings),
        network=model,
    )
    trainer = _trainer(run, settings, device, train_set, val_set, progress, stop, world)
    trainer.write_state()
    return trainer


def resume(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    world: World | None = None,
) -> Trainer:
    """The trainer of the run at `path`, at the position where it last saved.

    Args:
        overrides: settings to change, of `RUNTIME_SETTINGS` only.
        progress, stop, world: as for `start`. The number of processes may be another than before.

    Raises:
        SettingsError: an override that would make it another run.
        RunError, FileNotFoundError: not a run, or a damaged one.
    """
    run = Run.open(path, weights=None)
    state = checkpoint.load_state(run)
    if state is None:
        raise RunError(f"{path}: stopped before its first save; start it anew there")
    settings = _settings_of(run)
    for name, value in (overrides or {}).items():
        if name not in RUNTIME_SETTINGS and getattr(settings, name) != value:
            flag = "--" + name.replace("_", "-")
            raise SettingsError(
                f"{flag} cannot change on resume: it was {getattr(settings, name)}, and with "
                f"{value} it would be another run (what can: {', '.join(RUNTIME_SETTINGS)})"
            )
        if value is not None:
            settings = replace(settings, **{name: value})
    world = world or World()
    device = _use_machine(settings, world)
    if world.leads:
        remove_leftovers(run.path)
    train_set, val_set = _open_data(settings, run.classes)
    config = run.config["transforms"]
    train_set.transform = data.transforms.from_config(config["train"], run.statistics)
    val_set.transform = run.transform
    progress = (progress or Progress()) if world.leads else None
    trainer = _trainer(run, settings, device, train_set, val_set, progress, stop, world)
    trainer.load_state_dict(state)
    return trainer


def _settings_of(run: Run) -> Settings:
    saved = run.config.get("settings", {})
    known = {f.name for f in fields(Settings)}
    if unknown := saved.keys() - known:
        raise RunError(f"{run.path / CONFIG}: unknown setting {min(unknown)!r}")
    return Settings(**saved)


def _use_machine(settings: Settings, world: World) -> torch.device:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.batch_size < world.size:
        raise SettingsError(
            f"batch_size: must be at least the number of processes "
            f"(got {settings.batch_size} for {world.size})"
        )
    return pick_device(settings.device, world.local_rank)


def _open_data(settings: Settings, classes: list[str] | None = None) -> tuple[Any, Any]:
    strict = settings.strict
    train_set = data.open_dataset(settings.data, "train", strict=strict, classes=classes)
    val_set = data.open_dataset(settings.data, "val", strict=strict, classes=train_set.classes)
    return train_set, val_set


def _build_model(settings: Settings, num_classes: int) -> tuple[nn.Module, tuple[int, int, int]]:
    assert settings.model is not None
    torch.default_generator.manual_seed(settings.seed)
    channels = 1 if settings.data is None else 3
    model: Any = create_model(
        settings.model, num_classes=num_classes, in_chans=channels, **settings.model_kwargs
    )
    _, height, width = model.input_size
    if settings.image_size:
        height = width = settings.image_size
    return model, (channels, height, width)


def _try_out(model: nn.Module, dataset: Any, name: str, input_size: tuple[int, ...]) -> None:
    """Find out before anything is written whether these images fit this model."""
    shape = next((tuple(s[0].shape) for i in range(len(dataset)) if (s := dataset[i])), None)
    if shape is None:
        raise ValueError("no validation image can be read")
    if shape != tuple(input_size):
        wanted, got = ("x".join(map(str, s)) for s in (input_size, shape))
        raise ValueError(f"{name} takes {wanted} images, the data's are {got}")
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *input_size))
    except RuntimeError as error:
        size = "x".join(map(str, input_size))
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name} does not take {size} images: {reason}") from error


def _trainer(
    run: Run,
    settings: Settings,
    device: torch.device,
    train_set: Any,
    val_set: Any,
    progress: Progress | None,
    stop: StopRequest | None,
    world: World,
) -> Trainer:
    workers = settings.workers
    if workers is None:
        workers = 0 if settings.data is None else _default_workers(device)
    sampler = data.EpochSampler(len(train_set), seed=settings.seed)
    common: dict[str, Any] = dict(
        workers=workers,
        device=device,
        channels_last=settings.channels_last,
        rank=world.rank,
        processes=world.size,
        device_transforms=_device_transforms(settings, device, train_set, val_set),
        # What autocast would round them to before the first convolution.
        dtype=getattr(torch, settings.amp_dtype) if settings.amp else torch.float32,
    )
    train_loader = data.build_loader(
        train_set,
        sampler,
        settings.batch_size,
        # A last batch of a few images would be a step of the same size with far more noise.
        drop_last=len(train_set) >= settings.batch_size,
        **common,
    )
    val_loader = data.build_loader(val_set, None, settings.batch_size, **common)
    return Trainer(
        run,
        settings,
        train_loader,
        sampler,
        val_loader,
        progress=progress,
        stop=stop,
        world=world,
    )


def _default_workers(device: torch.device) -> int:
    has_mask = hasattr(os, "sched_getaffinity")  # not everywhere
    cores = len(os.sched_getaffinity(0)) if has_mask else os.cpu_count() or 1
    # On the CPU the network itself wants the cores, and one reader outpaces it.
    return min(16, cores) if device.type == "cuda" else max(1, min(2, cores - 1))


def _device_transforms(
    settings: Settings, device: torch.device, train_set: Any, val_set: Any
) -> bool:
    """Whether the device does the last pass over the images: if so told, or a GPU that can."""
    wish = settings.device_transforms
    if wish is False or (wish is None and device.type != "cuda"):
        return False
    fits = all(data.suits_device(dataset.transform) for dataset in (train_set, val_set))
    if wish and not fits:
        raise SettingsError(
            "device_transforms: the device can mirror, subtract a mean, shift colours and scale; "
            f"these images need more (got recipe={settings.recipe or 'of the data'}, "
            f"preprocess={settings.preprocess})"
        )
    return fits


def _statistics(
    settings: Settings,
    recipe: str,
    dataset: Any,
    input_size: tuple[int, int, int],
    progress: Progress,
) -> dict[str, torch.Tensor]:
    if recipe == "digits":
        return {}
    size = data.recipe_size(recipe, input_size)
    total = len(dataset)
    progress.start("statistics", total)
    try:
        return data.compute_statistics(
            dataset,
            size,
            lambda done, _: progress.update(done),
            channels=input_size[0],
            whiten=settings.preprocess == "zca",
        )
    finally:
        progress.finish()


def _names(settings: Settings) -> dict[str, str]:
    file = Path(settings.data) / _NAMES if settings.data else None
    return read_names(file) if file and file.is_file() else {}


def _is_used(path: Path) -> bool:
    """Whether a new run would find something there.

    What a start leaves that was killed before its first save is nothing: it is taken away.
    """
    if not path.is_dir():
        return path.exists()
    remove_leftovers(path)
    names = {entry.name for entry in path.iterdir()}
    if names and names <= {CONFIG, STATISTICS} and STATISTICS in names:
        for name in (CONFIG, STATISTICS):  # run.json first: without it the folder is no run
            (path / name).unlink(missing_ok=True)
        return False
    return bool(names)


def _used_message(path: Path) -> str:
    if (path / CONFIG).exists():
        return (
            f"{path} already holds a run; --resume {path} continues it, or choose another --output"
        )
    return f"--output {path} is not an empty folder; a new run needs one of its own"


def _next_folder(model: str) -> Path:
    """``runs/<model>-<n>``, n above all there are; made here, so that no other run takes it."""
    root = Path("runs")
    root.mkdir(exist_ok=True)
    taken = [p.name.removeprefix(f"{model}-") for p in root.glob(f"{model}-*")]
    number = max((int(t) for t in taken if t.isdigit()), default=0)
    while True:
        number += 1
        try:
            (root / f"{model}-{number}").mkdir()
        except FileExistsError:
            continue
        return root / f"{model}-{number}"
