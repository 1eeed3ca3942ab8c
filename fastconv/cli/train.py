"""``fastconv train``: a new run, or the rest of one that was stopped."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from fastconv.cli._common import hint
from fastconv.training.presets import preset_names, read_config
from fastconv.training.settings import Settings, SettingsError, coerce, resolve

_EPILOG = """\
Without DATA it trains a small convnet on scikit-learn's handwritten digits, in about a minute.
Defaults that depend on the model are those of its paper. Flags override --config.
Ctrl-C saves and stops; a second one quits at once.
Several devices: torchrun --nproc-per-node N -m fastconv train ... ; --batch-size counts all images.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a model",
        description="Train a model on a folder with train/ and val/, each with a folder a class.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # so that what was given is told from what was not
    )
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        name = field.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_setting(groups[name], field)
    run_group = groups["run"]
    run_group.add_argument(
        "--config",
        metavar="NAME",
        default=None,
        help=f"a preset ({', '.join(preset_names())}) or a YAML file of these settings",
    )
    run_group.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const="",
        default=None,
        help="continue RUN (or the one in --output) with the settings it was started with",
    )
    parser.set_defaults(run=run)


def _add_setting(group: Any, field: dataclasses.Field) -> None:
    meta = field.metadata
    help = meta["help"]
    if field.default not in (None, False, dataclasses.MISSING):
        help += (
            f" (default: {field.default:g})"
            if meta["kind"] == "float"
            else (f" (default: {field.default})")
        )
    if field.name == "data":
        group.add_argument("data", metavar="DATA", nargs="?", help=help)
        return
    flag = "--" + field.name.replace("_", "-")
    if meta["kind"] == "bool":
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help)
        return
    options: dict[str, Any] = {"help": help, "type": _converter(field.name)}
    if meta["choices"]:
        options["metavar"] = "{" + ",".join(meta["choices"]) + "}"
    elif meta["kind"] == "dict":
        options |= {"metavar": "K=V", "nargs": "+", "type": str}
    else:
        options["metavar"] = {"int": "N", "ints": "N,N", "float": "X"}.get(meta["kind"], "NAME")
    group.add_argument(flag, **options)


def _converter(name: str):
    def convert(text: str) -> Any:
        try:
            return coerce(name, text)
        except SettingsError as error:
            reason = str(error).partition(": ")[2]
            raise argparse.ArgumentTypeError(reason) from None

    return convert


def run(args: argparse.Namespace) -> int:
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Settings) if f.name in args}
    if args.resume is not None and args.config is not None:
        raise SettingsError("--config: a resumed run has its settings already; leave it out")
    config = read_config(args.config) if args.config is not None else {}
    resume = None
    if args.resume is not None:
        resume = args.resume or given.pop("output", None)
        if not resume:
            raise SettingsError("--resume: name the run, or give --output")
        given.pop("output", None)
    settings = resolve(given, config) if resume is None else None

    from fastconv import training
    from fastconv.training.progress import make_progress

    # For the setup of torchrun's processes too: a signal then must not end them half-way.
    with training.stop_on_signals() as stop, training.join() as world:
        progress = make_progress()
        common: dict[str, Any] = {
            "progress": progress if world.leads else None,
            "stop": stop,
            "world": world,
        }
        if settings is not None:
            trainer = training.start(settings, **common)
        else:
            overrides = {name: coerce(name, value) for name, value in given.items()}
            trainer = training.resume(resume, overrides, **common)
            if world.leads:
                done = f"epoch {trainer.epoch + 1}, step {trainer.step}/{trainer.steps_per_epoch}"
                progress.say(f"resuming {trainer.run.path} at {done}")
        if world.leads:
            progress.say(_headline(trainer))
        finished = trainer.fit()
    if not world.leads:
        return 0 if finished else 130
    return _report(trainer, finished)


def _report(trainer: Any, finished: bool) -> int:
    path = trainer.run.path
    if not finished:
        print(
            f"stopped in epoch {trainer.epoch + 1}/{trainer.settings.epochs} after step "
            f"{trainer.step}/{trainer.steps_per_epoch}; all is saved in {path}"
        )
        hint(f"fastconv train --resume {path}")
        return 130
    best = trainer.best
    print(f"best top-1 {100 * best['top1']:.2f} % in epoch {best['epoch']}; the run is {path}")
    digits = " (a bright digit on black)" if trainer.settings.data is None else ""
    hint(f"fastconv eval {path}   or   fastconv predict {path} IMAGE...{digits}")
    return 0


def _headline(trainer: Any) -> str:
    import torch

    settings = trainer.settings
    parameters = sum(p.numel() for p in trainer.model.parameters())
    device = trainer.device
    place = (
        f"{device.type} with {torch.get_num_threads()} threads" if device.type == "cpu" else device
    )
    if trainer.world.size > 1:
        place = f"{trainer.world.size} processes, this one on {place}"
    return (
        f"{settings.model}, {parameters:,} parameters, {len(trainer.run.classes)} classes, "
        f"{trainer.steps_per_epoch} steps of {settings.batch_size} images an epoch, on {place}; "
        f"writing {trainer.run.path}"
    )
