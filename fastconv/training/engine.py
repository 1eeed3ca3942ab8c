"""The training loop.

All randomness of a step follows from (seed, epoch, step): the sampler and the transforms get
theirs from it, and torch's generators are seeded anew before each step. With the state that
`checkpoint` keeps, a resumed run on a CPU therefore computes, bit for bit, what an uninterrupted
one does.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv._files import atomic_open, write_tensors
from fastconv.run import LOG, UNREADABLE, Run, load_tensors
from fastconv.training import checkpoint, history
from fastconv.training.evaluate import Metrics, Totals, autocast, evaluate
from fastconv.training.interrupt import StopRequest
from fastconv.training.optimizer import add_l1_gradient, build_optimizer, limit_filter_rms
from fastconv.training.progress import Progress, duration
from fastconv.training.schedules import build_schedule
from fastconv.training.settings import Settings, parse_interval

_PLOT_EVERY = 60.0  # seconds; a plot costs about one


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message says where, and what helps."""


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A 64-bit seed for one step: neighbouring steps get unrelated ones (splitmix64)."""
    x = 0
    for part in (seed, epoch, step):
        x = (x ^ part) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 31
    return x


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where it is there, else the CPU.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: must be auto, cpu, cuda or cuda:N (got {name!r})") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: must be auto, cpu, cuda or cuda:N (got {name!r})")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not here ({torch.cuda.device_count()} CUDA devices)")
    return device


class Trainer:
    """Trains the model of a run and keeps the run's folder up to date.

    Args:
        run: created or opened; its model is trained in place.
        settings: what to do.
        train_loader: over `sampler`; yields (images, targets, skipped).
        sampler: `fastconv.data.EpochSampler` of the training images.
        val_loader: yields likewise.
        progress: where to report; nothing is said without.
        stop: becomes true when training is to save and stop.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        train_loader: Any,
        sampler: Any,
        val_loader: Any,
        *,
        progress: Progress | None = None,
        stop: StopRequest | None = None,
    ):
        self.run, self.settings = run, settings
        self.train_loader, self.sampler, self.val_loader = train_loader, sampler, val_loader
        self.progress = progress
        self.stop = StopRequest() if stop is None else stop  # one that nobody asked is falsy
        self.device = pick_device(settings.device)
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = run.model.to(self.device, memory_format=self.layout).train()
        self.optimizer = build_optimizer(self.model, settings)
        self.steps_per_epoch = len(train_loader)
        self.schedule = build_schedule(self.optimizer, settings, self.steps_per_epoch)
        self.amp_dtype = getattr(torch, settings.amp_dtype) if settings.amp else None
        # Only float16 has gradients so small that they need scaling.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.amp_dtype == torch.float16
        )
        parameters = list(self.model.parameters())
        self.penalised = [p for p in parameters if p.ndim > 1 or settings.bias_decay]
        self.filters = [p for p in parameters if p.ndim == 4]
        self.save_steps, self.save_seconds = parse_interval(settings.save_every)

        self.epoch, self.step = 0, 0  # of the step to come
        self.totals = Totals(self.device)
        self.seconds, self.waited = 0.0, 0.0  # of this epoch's training
        self.history: list[history.Row] = []
        self.best: dict[str, float] = {"top1": -1.0, "epoch": 0, "step": 0}
        self._saved = self._plotted = time.monotonic()
        self._shown = 0.0

    @property
    def global_step(self) -> int:
        """Optimisation steps done since the start of training."""
        return self.epoch * self.steps_per_epoch + self.step

    def fit(self) -> bool:
        """Train up to the last epoch; False where a stop was asked for before.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        while self.epoch < self.settings.epochs:
            metrics = self._train_epoch() and self._validate()
            if not metrics:
                self.save()
                self._write_weights("last")
                self._plot()
                return False
            self._end_epoch(metrics)
        self._plot()
        return True

    # -- an epoch -----------------------------------------------------------------------------

    def _train_epoch(self) -> bool:
        """Take the epoch's remaining steps; False if stopped before the last."""
        self.sampler.set_epoch(self.epoch)
        self.sampler.start = self.step * self.settings.batch_size
        if self.progress:
            label = f"epoch {self.epoch + 1}/{self.settings.epochs}"
            self.progress.start(label, self.steps_per_epoch, self.step)
        try:
            began = time.perf_counter()
            batches = iter(self.train_loader) if self.step < self.steps_per_epoch else None
            while self.step < self.steps_per_epoch and not self.stop:
                batch = self._next(batches)
                if batch is None:
                    break
                fetched = time.perf_counter()
                self._train_step(*batch)
                now = time.perf_counter()
                self.waited += fetched - began
                self.seconds += now - began
                began = now
                self._after_step()
        finally:
            if self.progress:
                self.progress.finish()
        self._require_finite()
        return self.step == self.steps_per_epoch

    def _next(self, batches: Any) -> Any:
        try:
            return next(batches)
        except RuntimeError:
            # Ctrl-C reaches the loader's workers too, and one that it ended looks like a failure.
            if self.stop:
                return None
            raise

    def _train_step(self, images: Tensor, targets: Tensor, skipped: int) -> None:
        self._seed()
        if len(images):
            images = images.to(self.device, non_blocking=True, memory_format=self.layout)
            targets = targets.to(self.device, non_blocking=True)
            with autocast(self.device, self.amp_dtype):
                logits = self.model(images)
            logits = logits.float()
            loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            if self.settings.grad_clip is not None or self.settings.l1:
                self.scaler.unscale_(self.optimizer)
            if self.settings.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
            if self.settings.l1:  # like the L2 penalty, out of the clipping's reach
                add_l1_gradient(self.penalised, self.settings.l1)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.settings.max_filter_rms is not None:
                limit_filter_rms(self.filters, self.settings.max_filter_rms)
            self.totals.add(logits.detach(), targets, loss.detach())
        self.totals.skipped += int(skipped)
        self.schedule.step()
        self.step += 1

    def _seed(self) -> None:
        seed = step_seed(self.settings.seed, self.epoch, self.step)
        # torch.manual_seed would also queue a seeding of every device that is not in use.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _after_step(self) -> None:
        if self.progress and (text := self._figures_due()):
            self.progress.update(self.step, **text)
        if self.device.type == "cpu":  # elsewhere reading the loss would wait for the device
            self._require_finite()
        if self.save_steps:
            due = self.global_step % self.save_steps == 0
        else:
            due = time.monotonic() - self._saved >= self.save_seconds
        if due:
            self._require_finite()
            self.save()

    def _figures_due(self) -> dict[str, float] | None:
        """The figures to show, a few times a second."""
        now = time.monotonic()
        if now - self._shown < 0.2:
            return None
        self._shown = now
        sums = self.totals.sums.tolist()
        per_step = self.seconds / self.step
        left = self.steps_per_epoch - self.step
        epochs_left = self.settings.epochs - self.epoch - 1
        return {
            "loss": sums[0] / max(1.0, sums[3]),
            "rate": sums[3] / self.seconds,
            "wait": self.waited / self.seconds,
            "left": per_step * left,
            "left_all": per_step * (left + epochs_left * self.steps_per_epoch),
        }

    def _require_finite(self) -> None:
        loss = self.totals.sums[0].item()
        if loss - loss != 0:  # NaN and infinity; once in the sum, they stay
            rate = self.schedule.lr
            raise TrainingDiverged(
                f"the loss is {loss} in epoch {self.epoch + 1}, by step {self.step} of "
                f"{self.steps_per_epoch}, at learning rate {rate:g}; a lower --lr, "
                "--warmup-epochs or --grad-clip helps"
            )

    def _validate(self) -> Metrics | None:
        self._seed()  # some layers draw in evaluation too
        total = len(self.val_loader)
        if self.progress:
            self.progress.start("validation", total)

        def on_batch(done: int) -> bool:
            if self.progress:
                self.progress.update(done)
            return bool(self.stop)

        try:
            return evaluate(
                self.model,
                self.val_loader,
                device=self.device,
                amp_dtype=self.amp_dtype,
                channels_last=self.settings.channels_last,
                on_batch=on_batch,
            )
        except RuntimeError:
            if self.stop:  # as in _next
                return None
            raise
        finally:
            if self.progress:
                self.progress.finish()

    def _end_epoch(self, val: Metrics) -> None:
        train = self.totals.metrics()
        row: history.Row = {
            "epoch": self.epoch + 1,
            "step": self.global_step,
            "lr": self.schedule.lr,
            "train_loss": train.loss,
            "train_top1": train.top1,
            "train_top5": train.top5,
            "val_loss": val.loss,
            "val_top1": val.top1,
            "val_top5": val.top5,
            "images_per_second": train.images / self.seconds if self.seconds else 0.0,
            "data_wait": self.waited / self.seconds if self.seconds else 0.0,
            "seconds": self.seconds,
            "skipped": train.skipped + val.skipped,
        }
        self.history.append(row)
        self.schedule.epoch_end(1 - val.top1)
        self.epoch, self.step = self.epoch + 1, 0
        self.totals, self.seconds, self.waited = Totals(self.device), 0.0, 0.0
        if val.top1 > self.best["top1"]:
            self.best = {"top1": val.top1, "epoch": self.epoch, "step": self.global_step}
        self.save()
        self._write_derived()
        if time.monotonic() - self._plotted > _PLOT_EVERY:
            self._plot()
        if self.progress:
            self.progress.say(self._summary(row))

    def _summary(self, row: history.Row) -> str:
        mark = "  best" if self.best["epoch"] == row["epoch"] else ""
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        return (
            f"epoch {row['epoch']}/{self.settings.epochs}  lr {row['lr']:.3g}  "
            f"train loss {row['train_loss']:.4f} top-1 {100 * row['train_top1']:.2f} %  "
            f"val loss {row['val_loss']:.4f} top-1 {100 * row['val_top1']:.2f} % "
            f"top-5 {100 * row['val_top5']:.2f} %  {row['images_per_second']:.4g} img/s  "
            f"data wait {100 * row['data_wait']:.1f} %  {duration(row['seconds'])}{skipped}{mark}"
        )

    # -- the folder ---------------------------------------------------------------------------

    def save(self) -> None:
        """Write state.pt: from here, training goes on after any end of this process."""
        checkpoint.save_state(self.run, self.state_dict())
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps depend on, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "totals": self.totals.sums,
            "skipped": self.totals.skipped,
            "seconds": self.seconds,
            "waited": self.waited,
            "history": self.history,
            "best": self.best,
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; mends files that a kill left one step behind.

        Raises:
            RunError: the state is not this model's.
            ValueError: the training images or the batch size are not the same.
        """
        if state["steps_per_epoch"] != self.steps_per_epoch:
            raise ValueError(
                f"resume: an epoch had {state['steps_per_epoch']} steps, now it has "
                f"{self.steps_per_epoch}: the training images are not the same"
            )
        load_tensors(self.model, state["model"], self.run.path / checkpoint.STATE)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals.sums = state["totals"].to(self.device)
        self.totals.skipped = state["skipped"]
        self.seconds, self.waited = state["seconds"], state["waited"]
        self.history, self.best = state["history"], state["best"]
        torch.set_rng_state(state["rng"])
        if self.epoch and self.step == 0:
            self._write_derived()

    def _write_derived(self) -> None:
        """Bring the files that follow from an epoch end's state up to date."""
        self._write_weights("last")
        if self.best["step"] == self.global_step:
            self._write_weights("best")
        if self.epoch in (self.settings.snapshots or ()):
            self._write_weights(self.epoch)
        history.write_log(self.run.path / LOG, self.history)
        self._write_unreadable()

    def _write_unreadable(self) -> None:
        """Name the images that were skipped, one a line."""
        datasets = (self.train_loader.dataset, self.val_loader.dataset)
        names = sorted({str(n) for d in datasets for n in getattr(d, "unreadable", ())})
        if names:
            with atomic_open(self.run.path / UNREADABLE) as f:
                f.write("".join(f"{name}\n" for name in names).encode())

    def _write_weights(self, name: str | int) -> None:
        self.run.weights_path(name).parent.mkdir(exist_ok=True)
        metadata = {"format": "pt", "epoch": self.epoch, "step": self.global_step}
        write_tensors(self.run.weights_path(name), self.model.state_dict(), metadata)

    def _plot(self) -> None:
        title = f"{self.run.config['model']['name']}, {self.run.path.name}"
        history.plot_curves(self.run.path / "curves.png", self.history, title)
        self._plotted = time.monotonic()
