"""``fastconv info``: what was built and what is running, or a network's card."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fastconv.cli._common import hint, positive


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "info",
        help="show versions, libraries and architectures, or a model's layers",
        description="Show what was built, what is running, and for which architectures. With "
        "MODEL: its layers, what each gives, costs and sees, and the memory that a batch takes.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model's name")
    parser.add_argument("--num-classes", type=positive, metavar="N", help="the model's own")
    parser.add_argument("--image-size", type=positive, metavar="N", help="the model's own")
    parser.add_argument(
        "--model-kwargs",
        nargs="+",
        default=[],
        metavar="K=V",
        help="further arguments of the model",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=128, metavar="N", help="default: 128"
    )
    parser.add_argument("--json", action="store_true", help="print MODEL's card as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import fastconv

    if args.model is not None:
        return _card(args)
    for key, value in fastconv.info().items():
        print(f"{key:<20}{_text(value)}")
    print(f"{'models':<20}{', '.join(fastconv.list_models())}")
    hint("fastconv train   or   fastconv info alexnet")
    return 0


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _card(args: argparse.Namespace) -> int:
    import torch

    from fastconv.models import create_model
    from fastconv.training.settings import coerce
    from fastconv.visualize.card import model_card

    options = coerce("model_kwargs", args.model_kwargs)
    with torch.device("meta"):  # shapes alone: nothing is drawn, nothing computed
        model: Any = create_model(args.model, num_classes=args.num_classes, **options)
        size = model.input_size
        if args.image_size:
            size = (size[0], args.image_size, args.image_size)
        card = model_card(model, size)
    if args.json:
        print(json.dumps(_as_dict(args, card), indent=1))
        return 0
    name = " ".join([args.model, *args.model_kwargs])
    print(f"{name}, images of {_shape(card.input_size)}, {model.num_classes} classes\n")
    rows = [("layer", "kind", "output", "parameters", "multiply-adds", "sees")]
    for row in card.rows:
        sees = "all" if row.sees is None else _shape(row.sees)
        parameters, macs = (f"{n:,}" if n else "" for n in (row.parameters, row.macs))
        rows.append((row.layer, row.kind, _shape(row.output), parameters, macs, sees))
    rows.append(("", "", "", f"{card.parameters:,}", f"{card.macs:,}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        columns = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(cells)]
        print("  ".join(columns).rstrip())
    batch = args.batch_size
    print(
        f"\nmemory at a batch of {batch}, float32: training {_size(card.training_bytes(batch))} "
        f"(weights, gradients and momentum {_size(12 * card.parameters)}, the rest is the layers' "
        f"outputs), inference {_size(card.inference_bytes(batch))}; work space not counted"
    )
    hint(f"fastconv train DATA --model {args.model}")
    return 0


def _as_dict(args: argparse.Namespace, card) -> dict:
    import dataclasses

    batch = args.batch_size
    return {
        "model": args.model,
        "input_size": card.input_size,
        "parameters": card.parameters,
        "macs": card.macs,
        "batch_size": batch,
        "training_bytes": card.training_bytes(batch),
        "inference_bytes": card.inference_bytes(batch),
        "layers": [dataclasses.asdict(row) for row in card.rows],
    }


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
