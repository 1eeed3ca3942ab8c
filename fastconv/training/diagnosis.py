"""What is said when training goes wrong: a loss that is no number, or one that does not fall."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv._files import atomic_open
from fastconv.training.settings import Settings

REPORT = "diverged.json"
# Steps after which a loss that has not left ln(classes) is called out; once each.
PLATEAU_STEPS = (300, 3000)
_PLATEAU_WIDTH = 0.02  # of ln(classes)


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message says where, and what helps."""


@dataclass(frozen=True)
class Finding:
    """What a batch says of a loss that is no number.

    Attributes:
        loss: of the batch, computed anew.
        cause: the first thing on the way to the loss that is not finite, in one line.
        outputs, weights: the largest absolute value of each layer's output and each parameter.
    """

    loss: float
    cause: str
    outputs: dict[str, float]
    weights: dict[str, float]

    def text(self, where: str, lr: float, settings: Settings) -> str | None:
        """For people; None where the loss is a number."""
        if math.isfinite(self.loss):
            return None
        outputs = ", ".join(f"{name} {value:.2g}" for name, value in self.outputs.items())
        return (
            f"the loss is {self.loss:g} in {where}, at learning rate {lr:g}, for a batch of "
            f"{settings.batch_size} images\n"
            f"  where: {self.cause}\n"
            f"  largest outputs: {outputs}\n"
            f"  what helps: {what_helps(settings)}\n"
            f"  {REPORT} names the weights and the batch's images too"
        )

    def write(
        self, folder: Path, epoch: int, step: int, lr: float, dataset: Any, keys: list
    ) -> None:
        """Write the run's diverged.json. Numbers are text there, since JSON has no NaN."""
        images = [dataset.path(i) if hasattr(dataset, "path") else i for i, _ in keys]
        report = {
            "epoch": epoch + 1,
            "step": step + 1,
            "lr": lr,
            "loss": f"{self.loss:g}",
            "cause": self.cause,
            "largest_output": {name: f"{value:g}" for name, value in self.outputs.items()},
            "largest_weight": {name: f"{value:g}" for name, value in self.weights.items()},
            "images": images,
        }
        with atomic_open(folder / REPORT) as f:
            f.write(json.dumps(report, indent=1, default=str).encode())


@torch.no_grad()
def examine(
    model: nn.Module, images: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> Finding:
    """Run a batch (N, C, H, W) with its classes (N,) through the model and look at every layer.

    Layers are modules without children; of one that runs several times the last counts.
    """
    outputs: dict[str, float] = {}

    def watch(name: str):
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                outputs[name] = largest(output)

        return hook

    leaves = [(n, m) for n, m in model.named_modules() if not any(m.children())]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing).item()
    weights = {name: largest(p) for name, p in model.named_parameters()}
    return Finding(loss, find_cause(images, model, outputs), outputs, weights)


def largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN if there is one. 0 for no values."""
    return tensor.detach().abs().amax().item() if tensor.numel() else 0.0


def find_cause(images: Tensor, model: nn.Module, ranges: dict[str, float]) -> str:
    """The first thing on the way from the images to the loss that is not finite, in one line."""
    if not math.isfinite(largest(images)):
        return "the images themselves hold values that are no numbers"
    for name, parameter in model.named_parameters():
        if not math.isfinite(value := largest(parameter)):
            return f"{name} holds {value:g}: the gradient of an earlier step was not finite"
    before, reach = "the images", largest(images)
    for name, value in ranges.items():
        if not math.isfinite(value):
            weights = [largest(p) for p in model.get_submodule(name).parameters(recurse=False)]
            own = f", its weights {max(weights):.3g}" if weights else ""
            return (
                f"{name} is the first layer to leave the range of numbers (its output holds "
                f"{value:g}); its input, {before}, reaches {reach:.3g}{own}"
            )
        before, reach = f"the output of {name}", value
    return f"every layer's output is finite ({before} reaches {reach:.3g}); the loss overflowed"


def what_helps(settings: Settings) -> str:
    """The settings to change when a run diverged."""
    parts = [f"a lower --lr ({settings.lr / 10:g})"]
    if not settings.warmup_epochs:
        parts.append("--warmup-epochs 1")
    if settings.grad_clip is None:
        parts.append("--grad-clip 1")
    if settings.amp and settings.amp_dtype == "float16":
        parts.append("--amp-dtype bfloat16, whose range is float32's")
    return ", or ".join(parts)


def plateau_advice(loss: float, classes: int, steps: int, settings: Settings) -> str | None:
    """What to try where the mean `loss` still is the one of answers by chance; None elsewhere.

    The checks are those of R. Fergus, "Deep learning for computer vision", NIPS 2013 tutorial,
    "It's not working, what do I do?".
    """
    chance = math.log(classes) if classes > 1 else math.inf
    if not abs(loss / chance - 1) < _PLATEAU_WIDTH:
        return None
    tries = [
        f"the learning rate, {settings.lr:g}: ten times more, ten times less",
        "a few images of each class only: their error should go to 0; if it does not, look at "
        "what the network is given (are image and label of one another?)",
        "the gradients of layers of your own, by finite differences (torch.autograd.gradcheck)",
        "a smaller network, or one layer after the other",
    ]
    classic = ("alexnet", "caffenet", "zfnet", "zfnet_wide")  # those with that option
    if settings.model_kwargs.get("init") != "he" and settings.model in classic:
        tries.insert(0, "--model-kwargs init=he: the paper's initialisation can rest here for long")
    lines = "\n".join(f"  - {line}" for line in tries)
    return (
        f"the loss is {loss:.4f} after {steps} steps, still the ln({classes}) = {chance:.4f} of "
        f"answers by chance. On large data this can pass; what to try if it does not:\n{lines}"
    )
