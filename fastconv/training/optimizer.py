"""SGD as the papers use it, and what is done to gradients and weights around its step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastconv.training.settings import Settings


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.SGD:
    """SGD in two groups, weights and biases."""
    weights = [p for p in weights_of(model) if p.requires_grad]
    known = set(weights)
    biases = [p for p in model.parameters() if p.requires_grad and p not in known]
    groups = [
        {"params": weights, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {
            "params": biases,
            "lr": settings.lr * settings.bias_lr,
            "weight_decay": settings.weight_decay if settings.bias_decay else 0.0,
        },
    ]
    optimizer = torch.optim.SGD(
        [group for group in groups if group["params"]],
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        fused=True,
    )
    if settings.momentum:
        # torch allocates them at the first step, and leaves them unwritten where that is skipped
        # because float16's gradients overflowed.
        for parameter in [*weights, *biases]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that weigh something: neither biases, tiled ones included, nor vectors."""
    named = model.named_parameters()
    return [p for name, p in named if p.ndim > 1 and name.rpartition(".")[2] != "bias"]


@torch.no_grad()
def add_l1_gradient(parameters: Sequence[Tensor], factor: float) -> None:
    """Add the subgradient of ``factor * sum |w|``, ``factor * sign(w)``, to the gradients."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.add_(parameter.sign(), alpha=factor)


@torch.no_grad()
def limit_filter_rms(filters: Sequence[Tensor], largest: float) -> None:
    """Rescale each filter of the weights (..., Cin, kH, kW) whose RMS is above `largest` to it.

    Zeiler & Fergus, section 3, do so with 0.1 to keep single filters from dominating.
    """
    for weight in filters:
        rms = weight.square().mean(dim=(-3, -2, -1), keepdim=True).sqrt_()
        weight.mul_((largest / rms).clamp_(max=1.0))
