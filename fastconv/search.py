"""Hyper-parameter search: grid, random (Bergstra & Bengio 2012), Bayesian (Snoek et al. 2012).

Optuna proposes the settings and keeps the trials in an SQLite file; each trial is a training run.

```python
from fastconv import search

space = search.read_space("space.yaml")
study = search.Search("searches/digits", space, {"epochs": 5}, strategy="bayes")
study.run(trials=30)
study.best  # settings for fastconv.training, as in best.yaml
```
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import data, training
from fastconv._files import atomic_open
from fastconv._search_space import Range, grid_size, read_space
from fastconv.training.settings import Settings, SettingsError, resolve

__all__ = ["STRATEGIES", "Range", "Search", "describe", "grid_size", "history_figure", "read_space"]

STRATEGIES = ("grid", "random", "bayes")
_STUDY = "search"


class Search:
    """A search in a folder: trials, table, plots, and the best settings so far.

    Args:
        folder: of ``search.db`` (the trials), ``trials/`` (their logs), ``trials.csv``,
            ``best.yaml``, ``history.png`` and ``importance.png``. A search that is there already
            goes on.
        space: see `read_space`.
        fixed: the other settings, as for `fastconv.training.resolve`.
        strategy: "grid": every combination, in random order. "random": each setting for itself,
            uniformly. "bayes": a Gaussian process over what was found so far.
        folds: 0: a trial trains on the training images and is judged by top-1 on the validation
            images. K > 1: cross-validation in K folds of the training images; the validation images
            are not looked at.
        prune: stop a trial that is, after some epoch, worse than the median of the others there.
        keep: keep the weights of the trials.
        seed: of the strategy and the folds.

    A trial's value is the top-1 after its last epoch, the mean over the folds.
    """

    def __init__(
        self,
        folder: str | Path,
        space: Mapping[str, Range | list[Any]],
        fixed: Mapping[str, Any] | None = None,
        *,
        strategy: str = "random",
        folds: int = 0,
        prune: bool = True,
        keep: bool = False,
        seed: int = 0,
    ):
        if strategy not in STRATEGIES:
            raise ValueError(
                f"Search: strategy must be one of {', '.join(STRATEGIES)} (got {strategy!r})"
            )
        if folds < 0 or folds == 1:
            raise ValueError(f"Search: folds must be 0 or at least 2 (got folds={folds})")
        self.folder, self.space, self.fixed = Path(folder), dict(space), dict(fixed or {})
        self.strategy, self.folds, self.prune = strategy, folds, prune
        self.keep, self.seed = keep, seed
        if both := self.fixed.keys() & {name.partition(".")[0] for name in self.space}:
            fixed_whole = [name for name in both if name in self.space]
            if fixed_whole:
                raise SettingsError(f"{min(fixed_whole)}: is in the space and fixed, too")
        self.settings({})  # a wrong fixed setting is better known at once
        self._study: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_study": None}  # another process opens it itself

    # -- settings -------------------------------------------------------------------------------

    def settings(self, chosen: Mapping[str, Any]) -> Settings:
        """The settings of a trial: the fixed ones, and ``chosen`` over them."""
        values = dict(self.fixed)
        for name, value in chosen.items():
            base, dot, key = name.partition(".")
            if dot:
                values[base] = {**(values.get(base) or {}), key: value}
            else:
                values[base] = value
        return resolve(values)

    def _suggest(self, trial: Any) -> dict[str, Any]:
        chosen = {}
        for name, dimension in self.space.items():
            if isinstance(dimension, list) or self.strategy == "grid":
                options = dimension if isinstance(dimension, list) else dimension.grid()
                chosen[name] = trial.suggest_categorical(name, options)
            elif dimension.whole:
                ends = int(dimension.low), int(dimension.high)
                chosen[name] = trial.suggest_int(name, *ends, log=dimension.log)
            else:
                ends = dimension.low, dimension.high
                chosen[name] = trial.suggest_float(name, *ends, log=dimension.log)
        return chosen

    # -- trials ---------------------------------------------------------------------------------

    def run(
        self,
        trials: int = 30,
        *,
        jobs: int = 1,
        say: Callable[[str], Any] | None = None,
    ) -> None:
        """Search until ``trials`` trials are done, those of earlier calls included.

        Args:
            jobs: processes that work on trials at the same time.
            say: called with a line for each trial.
        """
        for name, value in (("trials", trials), ("jobs", jobs)):
            if value < 1:
                raise ValueError(f"run: {name} must be at least 1 (got {name}={value})")
        self.open()
        if jobs == 1:
            self._work(trials, 0, say)
        else:
            context = multiprocessing.get_context("spawn")
            workers = [
                context.Process(target=_work_in_process, args=(self, trials, number))
                for number in range(jobs)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if failed := [w.exitcode for w in workers if w.exitcode]:
                raise RuntimeError(f"a worker of the search failed with status {failed[0]}")
        self.write()

    def open(self) -> Any:
        """optuna's study, new or as it was left."""
        if self._study is None:
            optuna = _optuna()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._study = optuna.create_study(
                study_name=_STUDY,
                storage=f"sqlite:///{(self.folder / 'search.db').absolute()}",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
                if self.prune
                else optuna.pruners.NopPruner(),
            )
            self._check_same()
        return self._study

    def _check_same(self) -> None:
        """A search that goes on must be the same one."""
        mark = repr((sorted(self.space.items()), sorted(self.fixed.items()), self.folds))
        before = self._study.user_attrs.get("what")
        if before is None:
            self._study.set_user_attr("what", mark)
        elif before != mark:
            raise ValueError(
                f"{self.folder}: holds a search of another space, other settings or other folds; "
                "a new search needs a folder of its own"
            )

    def _sampler(self, worker: int, begun: int) -> Any:
        """The strategy, to go on after `begun` trials with other draws than theirs."""
        samplers = _optuna().samplers
        seed = int(np.random.SeedSequence([self.seed, worker, begun]).generate_state(1)[0])
        if self.strategy == "grid":
            grid = {n: d if isinstance(d, list) else d.grid() for n, d in self.space.items()}
            return samplers.GridSampler(grid, seed=self.seed)
        if self.strategy == "random":
            return samplers.RandomSampler(seed=seed)
        return samplers.GPSampler(seed=seed, n_startup_trials=5)

    def _work(self, trials: int, worker: int, say: Callable[[str], Any] | None) -> None:
        optuna = _optuna()
        study = self.open()
        study.sampler = self._sampler(worker, len(study.get_trials(deepcopy=False)))
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        if len(study.get_trials(deepcopy=False, states=states)) >= trials:
            return

        def done(study: Any, trial: Any) -> None:
            if say is not None:
                say(describe(trial, study))
            self.write()

        study.optimize(
            self._objective,
            callbacks=[optuna.study.MaxTrialsCallback(trials, states=states), done],
            catch=(training.TrainingDiverged,),
        )

    def _objective(self, trial: Any) -> float:
        settings = self.settings(self._suggest(trial))
        results: list[float] = []
        for fold in range(max(1, self.folds)):
            folder = self.folder / "trials" / f"{trial.number:04}"
            folder = folder / f"fold-{fold}" if self.folds else folder
            shutil.rmtree(folder, ignore_errors=True)  # of a trial that was killed
            watch = _Watch(trial, results, settings.epochs)
            trainer = self._trainer(settings, folder, fold, watch)
            watch.trainer = trainer
            try:
                trainer.fit()
            finally:
                if not self.keep:
                    for file in [*folder.glob("*.safetensors"), folder / "state.pt"]:
                        file.unlink(missing_ok=True)
            if bool(watch):
                raise _optuna().TrialPruned
            results.append(trainer.history[-1]["val_top1"])
        return float(np.mean(results))

    def _trainer(self, settings: Settings, folder: Path, fold: int, stop: Any) -> Any:
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = Settings(**{**settings.to_dict(), "output": str(folder)})
        trainer = training.start(settings, progress=_Silence(), stop=stop)
        if not self.folds:
            trainer.progress = None
            return trainer
        train_set = trainer.train_loader.dataset
        same = data.open_dataset(settings.data, "train", classes=train_set.classes)
        same.transform = trainer.run.transform
        seen, unseen = self._fold(np.asarray(train_set.targets), fold)
        sampler = data.EpochSampler(len(seen), seed=settings.seed)
        common: dict[str, Any] = {"workers": settings.workers or 0, "device": trainer.device}
        size = settings.batch_size
        return training.Trainer(
            trainer.run,
            settings,
            data.build_loader(
                data.Subset(train_set, seen), sampler, size, drop_last=len(seen) >= size, **common
            ),
            sampler,
            data.build_loader(data.Subset(same, unseen), None, size, **common),
            stop=stop,
        )

    def _fold(self, targets: np.ndarray, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and to be judged by: equal shares of each class in every fold."""
        place = np.empty(len(targets), dtype=int)
        for target in np.unique(targets):
            members = np.flatnonzero(targets == target)
            rng = np.random.default_rng([self.seed, int(target)])
            place[rng.permutation(members)] = np.arange(len(members)) % self.folds
        return np.flatnonzero(place != fold), np.flatnonzero(place == fold)

    # -- what was found -------------------------------------------------------------------------

    @property
    def trials(self) -> list[Any]:
        """optuna's trials that were finished or pruned, in order."""
        states = _optuna().trial.TrialState
        return self.open().get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))

    @property
    def best(self) -> dict[str, Any]:
        """The best trial's settings, those that differ from the defaults' own ones included."""
        values = self.settings(self.open().best_trial.params).to_dict()
        return {name: value for name, value in values.items() if value not in (None, {})}

    def importance(self) -> dict[str, float]:
        """What share of the values' variance each setting explains (fANOVA, Hutter et al. 2014).

        Empty where fewer than four trials were finished, or all came out equal.
        """
        optuna = _optuna()
        finished = [t for t in self.trials if t.state == optuna.trial.TrialState.COMPLETE]
        if len(finished) < 4 or len({t.value for t in finished}) == 1:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        return optuna.importance.get_param_importances(self.open(), evaluator=evaluator)

    def write(self) -> None:
        """Write trials.csv, best.yaml and the plots."""
        import yaml

        trials = self.trials
        names = list(self.space)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "state", "top1", "epochs", "seconds", *names])
        for t in trials:
            value = f"{t.value:.4f}" if t.value is not None else ""
            seconds = f"{t.duration.total_seconds():.1f}" if t.duration else ""
            row = [t.number, t.state.name.lower(), value, len(t.intermediate_values), seconds]
            writer.writerow([*row, *(_short(t.params.get(name)) for name in names)])
        with atomic_open(self.folder / "trials.csv") as f:
            f.write(text.getvalue().encode())
        if any(t.state.name == "COMPLETE" for t in trials):
            with atomic_open(self.folder / "best.yaml") as f:
                f.write(yaml.safe_dump(self.best, sort_keys=False).encode())
            self._plot()

    def _plot(self) -> None:
        from fastconv import _figures

        figure = history_figure({self.strategy: self.trials})
        _figures.save_figure(figure, self.folder / "history.png")
        if shares := self.importance():
            figure = _figures.new_figure(5.4, 0.4 * len(shares) + 1.2)
            axes = _figures.plain(figure.subplots(), x="share of the variance explained")
            _figures.bars(axes, list(shares), list(shares.values()))
            _figures.save_figure(figure, self.folder / "importance.png")


def history_figure(searches: Mapping[str, Sequence[Any]]) -> Any:
    """Value of each trial and the best so far, for one or several searches by name."""
    from fastconv import _figures

    figure = _figures.new_figure(6.4, 4.0)
    axes = _figures.plain(figure.subplots(), x="trials", y="top-1, %")
    for index, (name, trials) in enumerate(searches.items()):
        style = _figures.style_of(index)
        values = [100 * t.value if t.state.name == "COMPLETE" else np.nan for t in trials]
        places = np.arange(1, len(values) + 1)
        axes.plot(places, values, "o", color=style["color"], alpha=0.4, markersize=4)
        if not np.isnan(values).all():
            best = np.fmax.accumulate(values)
            axes.step(places, best, where="post", label=f"{name}: best so far", **style)
    shown = [100 * t.value for ts in searches.values() for t in ts if t.state.name == "COMPLETE"]
    if shown:  # what diverged would squeeze the rest into a line
        low = max(0.0, np.percentile(shown, 25) - 5)
        axes.set_ylim(low, min(100.5, max(shown) + 1))
    axes.legend(fontsize=8, frameon=False)
    return figure


def describe(trial: Any, study: Any) -> str:
    """One line about a trial that has ended."""
    chosen = "  ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    if trial.state.name != "COMPLETE":
        state = "pruned" if trial.state.name == "PRUNED" else "failed"
        return f"trial {trial.number}  {state} in epoch {len(trial.intermediate_values)}  {chosen}"
    best = f"best {100 * study.best_value:.2f} %"
    return f"trial {trial.number}  top-1 {100 * trial.value:.2f} %  {best}  {chosen}"


class _Watch:
    """Tells optuna of each epoch, and the trainer to stop once the trial is hopeless.

    The trainer asks before every step whether it is to stop; a new row in its history is an epoch.
    """

    def __init__(self, trial: Any, results: Sequence[float], epochs: int):
        self.trial, self.results, self.epochs = trial, list(results), epochs
        self.trainer: Any = None
        self.seen, self.hopeless = 0, False

    def __bool__(self) -> bool:
        history = self.trainer.history if self.trainer is not None else []
        # After the last epoch of the last fold, there is nothing left to save by pruning.
        while self.seen < len(history):
            value = float(np.mean([*self.results, history[self.seen]["val_top1"]]))
            self.trial.report(value, len(self.results) * self.epochs + self.seen)
            self.seen += 1
            if self.seen < self.epochs and self.trial.should_prune():
                self.hopeless = True
        return self.hopeless


class _Silence:
    """A progress that says nothing."""

    def start(self, *args: Any) -> None: ...

    def update(self, *args: Any, **values: Any) -> None: ...

    def finish(self) -> None: ...

    def say(self, text: str) -> None: ...


def _work_in_process(search: Search, trials: int, worker: int) -> None:
    import torch

    torch.set_num_threads(1)
    search._work(trials, worker, print)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ImportError('a search needs optuna: pip install "fastconv[search]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
