"""Training a network further on other data: its top, all of it, or, to compare, from scratch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fastconv import data
from fastconv._layers import device_of
from fastconv.transfer.linear import class_accuracy

MODES = ("top", "all", "scratch")


def fine_tune(
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    mode: str = "all",
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 0.001,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> tuple[nn.Module, float]:
    """Give a copy of ``model`` a new last layer, and train it.

    SGD with momentum .9 and weight decay .0005; the rates fall to 0 along a cosine.

    Args:
        model: its last linear layer is replaced; it must have ``init_weights`` for "scratch".
        train, test: data sets, with transforms for training and for evaluation; see
            `fastconv.data.Subset`.
        mode: "top": the new layer learns, the others stay. "all": the others learn too, at a tenth
            of its rate. "scratch": the others start anew and learn at its rate.
        epochs, batch_size: of the training.
        lr: of the layers that are kept; the new one's is ten times as high.
        seed: of the new weights, the order and the transforms.
        workers: processes that read.
        progress: called with the batches done and in all.

    Returns:
        The copy, and its accuracy on the test images: the mean over the classes.
    """
    if mode not in MODES:
        raise ValueError(f"fine_tune: mode must be one of {', '.join(MODES)} (got mode={mode!r})")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"fine_tune: {name} must be at least 1 (got {name}={value})")
    torch.manual_seed(seed)
    model, top = _with_new_top(model, len(train.classes))
    if mode == "scratch":
        model.init_weights()
    new = list(top.parameters())
    kept = [p for p in model.parameters() if not any(p is q for q in new)]
    for parameter in kept:
        parameter.requires_grad_(mode != "top")
    groups = [{"params": new, "lr": 10 * lr}]
    if mode != "top":
        groups.append({"params": kept, "lr": lr if mode == "all" else 10 * lr})
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
    sampler = data.EpochSampler(len(train), seed=seed)
    loader = data.build_loader(train, sampler, batch_size, workers=workers)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    device = device_of(model)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        model.train()
        for done, (images, targets, _) in enumerate(loader, 1):
            optimizer.zero_grad()
            F.cross_entropy(model(images.to(device)).float(), targets.to(device)).backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(epoch * len(loader) + done, epochs * len(loader))
    return model.eval(), _accuracy(model, test, batch_size, workers)


def _with_new_top(model: nn.Module, num_classes: int) -> tuple[Any, nn.Linear]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError("fine_tune: model must have a linear layer at its top (got none)")
    model = copy.deepcopy(model)
    parent, _, name = names[-1].rpartition(".")
    old: Any = model.get_submodule(names[-1])
    top = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    nn.init.normal_(top.weight, std=0.01)
    nn.init.zeros_(top.bias)
    setattr(model.get_submodule(parent) if parent else model, name, top)
    return model, top


@torch.inference_mode()
def _accuracy(model: nn.Module, test: Any, batch_size: int, workers: int) -> float:
    guesses = [
        model(images.to(device_of(model))).argmax(1).cpu()
        for images, _, _ in data.build_loader(test, None, batch_size, workers=workers)
    ]
    return class_accuracy(torch.cat(guesses).numpy(), np.asarray(test.targets))
