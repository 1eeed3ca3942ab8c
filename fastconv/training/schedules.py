"""Courses of the learning rate: torch's schedulers, one step an epoch, and a linear warm-up.

The warm-up multiplies whatever the schedule says, so milestones keep counting whole epochs from
the start of training.
"""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from fastconv.training.settings import Settings

# The 2012 code went down to 1/250 of the first learning rate.
FINAL_FRACTION = 1 / 250


class Schedule:
    """Sets ``optimizer.param_groups[i]["lr"]``: call `step` after each optimisation step.

    Args:
        optimizer: its groups' "lr" are the rates before any decay.
        scheduler: one of torch's, stepped once an epoch.
        warmup_steps: optimisation steps over which the rate rises linearly; 0 for none.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Any, warmup_steps: int = 0):
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.warmup_steps = warmup_steps
        self.steps = 0
        self.rates = [group["lr"] for group in optimizer.param_groups]  # without the warm-up
        self._apply()

    @property
    def lr(self) -> float:
        """The rate of the first group (the weights) in the coming step."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self) -> None:
        """One optimisation step is done."""
        self.steps += 1
        if self.steps <= self.warmup_steps:
            self._apply()

    def epoch_end(self, error: float) -> None:
        """One epoch is done; `error` (lower is better) is what plateau watches."""
        # torch's schedulers go on from the rate they find, so show them the one without warm-up.
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(error)
        else:
            self.scheduler.step()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self._apply()

    def _apply(self) -> None:
        factor = min(1.0, (self.steps + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state_dict(self) -> dict[str, Any]:
        """Plain values; loads under ``weights_only=True``."""
        scheduler = self.scheduler.state_dict()
        if "milestones" in scheduler:
            scheduler["milestones"] = dict(scheduler["milestones"])  # a Counter
        return {"steps": self.steps, "rates": self.rates, "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.steps = state["steps"]
        self.rates = list(state["rates"])
        scheduler = dict(state["scheduler"])
        # The milestones follow from the settings; torch wants its own kind of mapping there.
        scheduler.pop("milestones", None)
        self.scheduler.load_state_dict(scheduler)
        self._apply()


def build_schedule(optimizer: Optimizer, settings: Settings, steps_per_epoch: int) -> Schedule:
    """The schedule that `settings` describes (`sched`, `decay_*`, `warmup_epochs`, `min_lr`)."""
    return Schedule(
        optimizer,
        _scheduler(optimizer, settings),
        round(settings.warmup_epochs * steps_per_epoch),
    )


def _scheduler(optimizer: Optimizer, settings: Settings) -> Any:
    epochs, rate = settings.epochs, settings.decay_rate
    end = min(1.0, settings.min_lr / settings.lr)  # of each group's own rate
    match settings.sched:
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
        case "step":
            every = settings.decay_epochs or -(-epochs // 5)
            decays = max(1, (epochs - 1) // every)
            return lr_scheduler.StepLR(optimizer, every, rate or FINAL_FRACTION ** (1 / decays))
        case "multistep":
            milestones = settings.decay_milestones or []
            return lr_scheduler.MultiStepLR(optimizer, milestones, rate or 0.1)
        case "plateau":
            return lr_scheduler.ReduceLROnPlateau(
                optimizer,
                factor=rate or 0.1,
                patience=settings.patience_epochs,
                threshold=0.0,
                min_lr=[end * group["lr"] for group in optimizer.param_groups],
            )
        case "cosine":
            return lr_scheduler.LambdaLR(
                optimizer,
                lambda epoch: end + (1 - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2,
            )
        case "linear":
            return lr_scheduler.LinearLR(optimizer, 1.0, end, total_iters=epochs)
        case "exponential":
            gamma = rate or FINAL_FRACTION ** (1 / max(1, epochs - 1))
            return lr_scheduler.ExponentialLR(optimizer, gamma)
    raise ValueError(f"sched: no schedule called {settings.sched!r}")
