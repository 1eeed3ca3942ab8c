"""The training loop.

All randomness of a step follows from (seed, epoch, step): the sampler and the transforms get
theirs from it, and torch's generators are seeded anew before each step. With the state that
`checkpoint` keeps, a resumed run on a CPU therefore computes, bit for bit, what an uninterrupted
one does.

Several processes compute a part of each batch each. The loss of a step is the mean over the images
of the whole batch, however it is parted, so their number changes rounding only, and what layers
such as dropout draw. At the start of each step all agree on how many images there are and whether
to stop or save, so that they take the same steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastconv._files import WriteError
from fastconv.data.loading import LOST_WORKER, is_lost_worker
from fastconv.run import Run, RunError, brief, load_tensors
from fastconv.training import checkpoint, diagnosis, history
from fastconv.training.devices import pick_device
from fastconv.training.diagnosis import TrainingDiverged
from fastconv.training.distributed import ProcessLost, World
from fastconv.training.evaluate import Metrics, Totals, autocast, evaluate_totals
from fastconv.training.interrupt import StopRequest
from fastconv.training.optimizer import build_optimizer
from fastconv.training.progress import Progress
from fastconv.training.record import Record
from fastconv.training.schedules import build_schedule
from fastconv.training.settings import Settings, parse_interval
from fastconv.training.step import Stepper


def step_seed(*parts: int) -> int:
    """A 64-bit seed for a step: neighbouring steps get unrelated ones (splitmix64).

    Args:
        parts: the run's seed, epoch, step, and the process where it is not the first.
    """
    x = 0
    for part in parts:
        x = (x ^ part) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        x = (x ^ x >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 31
    return x


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
        world: the processes that share each batch; the loaders give this one's part.
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
        world: World | None = None,
    ):
        self.world = world or World()
        self.run, self.settings = run, settings
        self.train_loader, self.sampler, self.val_loader = train_loader, sampler, val_loader
        self.progress = progress
        self.stop = StopRequest() if stop is None else stop  # one that nobody asked is falsy
        self.device = pick_device(settings.device, self.world.local_rank)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # random layers are seeded on the current one
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        model: Any = run.model  # torch's types know no memory_format
        self.model: nn.Module = model.to(self.device, memory_format=self.layout).train()
        self.optimizer = build_optimizer(self.model, settings)
        self.stepper = Stepper(self.model, self.optimizer, settings, self.device, self.world)
        self.steps_per_epoch = len(train_loader)
        self.schedule = build_schedule(self.optimizer, settings, self.steps_per_epoch)
        self.save_steps, self.save_seconds = parse_interval(settings.save_every)

        self.epoch, self.step = 0, 0  # of the step to come
        self.totals = Totals(self.device)
        self.seconds, self.waited = 0.0, 0.0  # of this epoch's training
        self.history: list[history.Row] = []
        self.best: dict[str, float] = {"top1": -1.0, "epoch": 0, "step": 0}
        self.record = Record(
            run, (train_loader.dataset, val_loader.dataset), writes=self.world.leads
        )
        self._saved, self._saved_step = time.monotonic(), 0
        self._shown = 0.0
        self._known_bad = False  # whether this process knows of a loss that is no number

    @property
    def global_step(self) -> int:
        """Optimisation steps done since the start of training."""
        return self.epoch * self.steps_per_epoch + self.step

    def fit(self) -> bool:
        """Train up to the last epoch; False where a stop was asked for before.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
            WriteError: the disk is full; the last state that was saved is there.
            ProcessLost: another process has ended, or one that reads images.
        """
        with self.world.together(), self._readers():
            self.stepper.prepare()
            while self.epoch < self.settings.epochs:
                metrics = self._train_epoch() and self._validate()
                if not metrics:
                    self.save()
                    self.record.weights("last", self)
                    self.record.plot(self)
                    return False
                self._end_epoch(metrics)
            self.record.plot(self)
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
            while self.step < self.steps_per_epoch:
                batch: Any = None if self.stop else self._next(batches)
                fetched = time.perf_counter()
                in_all = self._agree(batch)
                if in_all is None:
                    break
                images, targets, skipped = batch
                self._train_step(images, targets, skipped, in_all)
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

    @contextlib.contextmanager
    def _readers(self) -> Iterator[None]:
        """Say in one line, as `ProcessLost`, that a worker of the loader was ended.

        torch raises that wherever the main thread happens to be, so nothing can be saved here.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise
            raise ProcessLost(f"{LOST_WORKER}\n  {self._kept()}") from error

    def _agree(self, batch: Any) -> int | None:
        """All processes' images of the coming step; None where one of them stops.

        Before, do what all do at once: end at a bad loss, save.
        """
        images, stops, bad, due = self.world.sum(
            len(batch[0]) if batch else 0, batch is None, self._known_bad, self._save_is_due()
        )
        if bad:
            self._require_finite()
        if stops:
            return None
        if due:
            self._save_or_warn()
        return int(images)

    def _train_step(self, images: Tensor, targets: Tensor, skipped: int, in_all: int) -> None:
        """One step on this process's images; `in_all` counts those of all processes."""
        self._seed()
        if in_all:
            if not len(images):  # the others exchange gradients, so this one has to
                images = torch.empty(0, *self.run.config["input_size"])
            self.stepper(images, targets, in_all, self.step, self.totals)
        self.totals.skipped += int(skipped)
        self.schedule.step()
        self.step += 1

    def _seed(self) -> None:
        process = [self.world.rank] if self.world.rank else []
        seed = step_seed(self.settings.seed, self.epoch, self.step, *process)
        # torch.manual_seed would also queue a seeding of every device that is not in use.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _after_step(self) -> None:
        text = self._figures_due() if self.progress else None
        if self.progress and text:
            self.progress.update(self.step, **text)
        if text or self.device.type == "cpu":  # elsewhere, reading it waits for the device
            self._known_bad = self.stepper.first_bad() is not None
        if self.global_step in diagnosis.PLATEAU_STEPS:
            self._look_at_plateau()

    def _look_at_plateau(self) -> None:
        loss = self.totals.summed(self.world).metrics().loss
        advice = diagnosis.plateau_advice(
            loss, len(self.run.classes), self.global_step, self.settings
        )
        if advice and self.progress:
            self.progress.say(advice)

    def _save_is_due(self) -> bool:
        """Whether the first process, whose clock counts, wants to save before the coming step."""
        if not self.world.leads or self._saved_step == self.global_step:
            return False
        if self.save_steps:
            return self.global_step % self.save_steps == 0
        return time.monotonic() - self._saved >= (self.save_seconds or 0)

    def _save_or_warn(self) -> None:
        """Save in mid-epoch. A full disk is no reason to stop: the next save may find room."""
        self._require_finite()
        try:
            self.save()
        except WriteError as error:
            self._saved = time.monotonic()
            if self.progress:
                self.progress.say(f"{error}\n  training goes on; the next save may find room")

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
            "rate": self.step * self.settings.batch_size / self.seconds,
            "wait": self.waited / self.seconds,
            "left": per_step * left,
            "left_all": per_step * (left + epochs_left * self.steps_per_epoch),
        }

    def _position(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.step + 1} of {self.steps_per_epoch}"

    def _require_finite(self) -> None:
        """End where a loss was no number, or a weight is none; in all processes alike."""
        step = self.stepper.first_bad()
        if step is not None:
            said = [text for text in self.world.gather(self._diagnose(step)) if text]
            # The same images may give a number now: layers draw for each part of a batch apart.
            unseen = (
                f"the loss was no number in {self._position()}, at learning rate "
                f"{self.schedule.lr:g}; the same images give one now\n"
                f"  what helps: {diagnosis.what_helps(self.settings)}"
            )
            raise TrainingDiverged(f"{[*said, unseen][0]}\n  {self._kept()}")
        norm = nn.utils.get_total_norm(list(self.model.parameters())).item()
        if norm - norm != 0:  # NaN or infinity
            raise TrainingDiverged(
                f"the weights are no numbers before {self._position()}, at learning rate "
                f"{self.schedule.lr:g}\n"
                f"  where: {diagnosis.find_cause(torch.zeros(1), self.model, {})}\n"
                f"  what helps: {diagnosis.what_helps(self.settings)}\n  {self._kept()}"
            )

    def _diagnose(self, step: int) -> str | None:
        """What this process's images of a step, and the weights that they met, say of its loss."""
        self.step = step
        self.sampler.set_epoch(self.epoch, step * self.settings.batch_size)
        keys = next(iter(self.train_loader.batch_sampler))
        dataset = self.train_loader.dataset
        images, targets, _ = self.train_loader.collate_fn([dataset[key] for key in keys])
        if not len(images):
            return None
        self._seed()
        images, targets = images.to(self.device), targets.to(self.device)
        with autocast(self.device, self.stepper.amp_dtype):
            finding = diagnosis.examine(self.model, images, targets, self.settings.label_smoothing)
        if self.world.leads:
            with contextlib.suppress(WriteError):
                finding.write(self.run.path, self.epoch, step, self.schedule.lr, dataset, keys)
        return finding.text(self._position(), self.schedule.lr, self.settings)

    def _validate(self) -> Metrics | None:
        self._seed()  # some layers draw in evaluation too
        total = len(self.val_loader)
        if self.progress:
            self.progress.start("validation", total)

        def on_batch(done: int) -> bool:
            if self.progress:
                self.progress.update(done)
            return bool(self.stop)

        totals = None
        try:
            totals = evaluate_totals(
                # DistributedDataParallel has nothing to do without gradients.
                self.stepper.network if self.world.size == 1 else self.model,
                self.val_loader,
                device=self.device,
                amp_dtype=self.stepper.amp_dtype,
                channels_last=self.settings.channels_last,
                on_batch=on_batch,
            )
        except RuntimeError:
            if not self.stop:  # as in _next
                raise
        finally:
            if self.progress:
                self.progress.finish()
        (stopped,) = self.world.sum(totals is None)
        return None if stopped or totals is None else totals.summed(self.world).metrics()

    def _end_epoch(self, val: Metrics) -> None:
        train = self.totals.summed(self.world).metrics()
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
        self.record.epoch_end(self)
        if self.progress:
            is_best = self.best["epoch"] == self.epoch
            self.progress.say(history.summary(row, self.settings.epochs, is_best))

    # -- the folder ---------------------------------------------------------------------------

    def save(self) -> None:
        """Write state.pt: from here, training goes on after any end. All processes call it."""
        self.write_state(self.totals.summed(self.world))

    def write_state(self, totals: Totals | None = None) -> None:
        """As `save` for the first process alone, with the `totals` of all."""
        if self.world.leads:
            try:
                checkpoint.save_state(self.run, self.state_dict(totals or self.totals))
            except WriteError as error:
                raise WriteError(f"{error}\n  {self._kept()}") from error
        self._saved, self._saved_step = time.monotonic(), self.global_step

    def _kept(self) -> str:
        """Where training can go on from, in words."""
        epoch, step = divmod(self._saved_step, self.steps_per_epoch)
        best = self.run.weights_path("best")
        best = f", and {best.name}" if best.exists() else ""
        return (
            f"what is kept in {self.run.path}: {checkpoint.STATE} of epoch {epoch + 1}, {step} of "
            f"{self.steps_per_epoch} steps done{best}"
        )

    def state_dict(self, totals: Totals) -> dict[str, Any]:
        """All that the coming steps depend on, as tensors and plain values.

        With the `totals` of all processes it is the same for every number of them.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "totals": totals.sums,
            "skipped": totals.skipped,
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
        path = self.run.path / checkpoint.STATE
        try:
            load_tensors(self.model, state["model"], path)
            self._restore(state)
        except RunError:
            raise
        except Exception as error:  # anything may stand in a file that others have changed
            raise RunError(f"{path}: damaged, cannot resume ({brief(error)})") from error
        if self.epoch and self.step == 0:
            self.record.epoch_end(self)

    def _restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:
            self.stepper.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = int(state["epoch"]), int(state["step"])
        if self.epoch < 0 or not 0 <= self.step <= self.steps_per_epoch:
            raise ValueError(f"no such position: epoch {self.epoch}, step {self.step}")
        self._saved_step = self.global_step
        if self.world.leads:
            self.totals.sums = state["totals"].to(self.device)
            self.totals.skipped = state["skipped"]
        self.seconds, self.waited = state["seconds"], state["waited"]
        self.history, self.best = state["history"], state["best"]
        torch.set_rng_state(state["rng"])
