"""One optimisation step: the batch in parts, the gradients of all processes, the update."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv.training.distributed import World
from fastconv.training.evaluate import Totals, autocast
from fastconv.training.optimizer import add_l1_gradient, limit_filter_rms, weights_of
from fastconv.training.settings import Settings


class Stepper:
    """Takes optimisation steps.

    The loss is the mean over the images of all processes and parts, so the gradient is the one of
    the whole batch, whatever the number of either.

    Attributes:
        network: what is called: the model, after `prepare` wrapped and compiled.
        amp_dtype: of mixed precision; None without.
        scaler: of the loss, for float16.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        device: torch.device,
        world: World,
    ):
        self.model = model
        self.network: Any = model
        self.optimizer, self.settings, self.device, self.world = optimizer, settings, device, world
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.amp_dtype = getattr(torch, settings.amp_dtype) if settings.amp else None
        # Only float16 has gradients so small that they need scaling.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp_dtype == torch.float16)
        weights = weights_of(model)
        self._penalised = list(model.parameters()) if settings.bias_decay else weights
        self._filters = [p for p in weights if p.ndim >= 4]
        # Kept on the device: reading it would wait for a GPU.
        self._first_bad = torch.tensor(-1, device=device)

    def prepare(self) -> None:
        """Connect the network with the other processes' and compile it, as the settings say."""
        self.network = self.world.wrap(self.model, self.device)
        if self.settings.compile:
            self.network = torch.compile(self.network)

    def first_bad(self) -> int | None:
        """The first step, in any process, whose loss was no number; from there on none counts."""
        step = int(self._first_bad.item())
        return None if step < 0 else step

    def __call__(
        self, images: Tensor, targets: Tensor, in_all: int, step: int, totals: Totals
    ) -> None:
        """Take a step.

        Args:
            images: (N, C, H, W), this process's; N may be 0 where other processes have some.
            targets: (N,) classes.
            in_all: images of all processes, at least 1.
            step: its number in the epoch, for `first_bad`.
            totals: what loss and hits are added to.
        """
        settings = self.settings
        self.optimizer.zero_grad()
        loss = self._backward(images, targets, in_all, totals)
        if settings.grad_clip is not None or settings.l1:
            self.scaler.unscale_(self.optimizer)
        if settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        if settings.l1:  # like the L2 penalty, out of the clipping's reach
            add_l1_gradient(self._penalised, settings.l1)
        # A loss that is no number must not reach the weights: with them its cause is found.
        bad = self.world.any(~loss.isfinite())
        self._first_bad = torch.where(bad & (self._first_bad < 0), step, self._first_bad)
        # What torch's fused optimizers look for: where it is 1 they leave the weights alone.
        setattr(self.optimizer, "found_inf", (self._first_bad >= 0).float())  # noqa: B010
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if settings.max_filter_rms is not None:
            limit_filter_rms(self._filters, settings.max_filter_rms)

    def _backward(self, images: Tensor, targets: Tensor, in_all: int, totals: Totals) -> Tensor:
        """Add up the gradients of the loss's mean over `in_all` images; the sum of losses here."""
        parts = self.settings.grad_accum_steps
        parts = list(zip(images.chunk(parts), targets.chunk(parts), strict=True))
        # The exchange takes the mean over the processes, so their number has to come in again.
        scale: Any = self.world.size / in_all
        if self.scaler.is_enabled():
            # It overwrites what the optimizer is told of a bad loss, but sees gradients that are no
            # numbers, as this step's own would be.
            scale = torch.where(self._first_bad >= 0, torch.nan, scale)
        total = torch.zeros((), device=self.device)
        for number, (images, targets) in enumerate(parts, 1):
            images = images.to(self.device, non_blocking=True, memory_format=self.layout)
            targets = targets.to(self.device, non_blocking=True)
            waits = number < len(parts)
            with self.world.without_exchange(self.network) if waits else contextlib.nullcontext():
                with autocast(self.device, self.amp_dtype):
                    logits = self.network(images)
                logits = logits.float()
                loss = F.cross_entropy(
                    logits, targets, reduction="sum", label_smoothing=self.settings.label_smoothing
                )
                self.scaler.scale(loss * scale).backward()
            if len(images):
                totals.add(logits.detach(), targets, loss.detach())
            total += loss.detach()
        return total
