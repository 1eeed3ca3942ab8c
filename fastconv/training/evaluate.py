"""Loss, top-1 and top-5 of a model over a loader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv.training.distributed import World


@dataclass(frozen=True)
class Metrics:
    """Means over `images` images. `loss` is the cross entropy, accuracies are fractions.

    With fewer than five classes top-5 is 1.
    """

    loss: float
    top1: float
    top5: float
    images: int
    skipped: int = 0


class Totals:
    """Running sums of loss and hits, kept in float64 on the device so that no step waits."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, top1, top5, images
        self.skipped = 0

    def add(self, logits: Tensor, targets: Tensor, loss: Tensor) -> None:
        """Add a batch: logits (N, classes), targets (N,), the sum of its images' losses."""
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        count = targets.new_tensor(len(targets))
        self.sums += torch.stack([loss.double(), ranked[:, 0].sum(), ranked.sum(), count])

    def metrics(self) -> Metrics:
        """The means so far; NaN where nothing was added."""
        loss, top1, top5, images = self.sums.tolist()
        if images == 0:
            return Metrics(math.nan, math.nan, math.nan, 0, self.skipped)
        return Metrics(loss / images, top1 / images, top5 / images, int(images), self.skipped)

    def summed(self, world: World) -> Totals:
        """The sums over all processes; every process has to call it."""
        if world.size == 1:
            return self
        *sums, skipped = world.sum(*self.sums.tolist(), self.skipped)
        totals = Totals(self.sums.device)
        totals.sums += torch.tensor(sums, dtype=torch.float64, device=self.sums.device)
        totals.skipped = int(skipped)
        return totals


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision in `dtype`; plain precision for None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, int]],
    *,
    device: torch.device | str = "cpu",
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    on_batch: Callable[[int], bool] | None = None,
) -> Metrics | None:
    """Evaluate `model` (left in its former mode) over `batches` of images, targets, skipped.

    Args:
        on_batch: called with the number of batches done; a true answer breaks off.

    Returns:
        The metrics; None if broken off.
    """
    totals = evaluate_totals(
        model,
        batches,
        device=device,
        amp_dtype=amp_dtype,
        channels_last=channels_last,
        on_batch=on_batch,
    )
    return None if totals is None else totals.metrics()


@torch.inference_mode()
def evaluate_totals(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, int]],
    *,
    device: torch.device | str = "cpu",
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    on_batch: Callable[[int], bool] | None = None,
) -> Totals | None:
    """As `evaluate`, giving the sums, which those of other processes can be added to."""
    device = torch.device(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    totals = Totals(device)
    training = model.training
    model.eval()
    try:
        for done, (images, targets, skipped) in enumerate(batches, 1):
            totals.skipped += int(skipped)
            if len(images):
                images = images.to(device, non_blocking=True, memory_format=layout)
                targets = targets.to(device, non_blocking=True)
                with autocast(device, amp_dtype):
                    logits = model(images)
                logits = logits.float()
                totals.add(logits, targets, F.cross_entropy(logits, targets, reduction="sum"))
            if on_batch is not None and on_batch(done):
                return None
    finally:
        model.train(training)
    return totals
