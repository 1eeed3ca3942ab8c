"""Learning rates against torch's own schedulers and the closed formulas."""

import pytest
import torch
from torch.optim import lr_scheduler

from fastconv.training.schedules import build_schedule
from fastconv.training.settings import Settings, SettingsError, resolve

EPOCHS, STEPS = 10, 4


def optimizer():
    weights, biases = (torch.zeros(1, requires_grad=True) for _ in range(2))
    return torch.optim.SGD([{"params": [weights], "lr": 0.1}, {"params": [biases], "lr": 0.2}])


def rates(schedule, epochs=EPOCHS, errors=None):
    """The first group's rate in each epoch's last step."""
    seen = []
    for epoch in range(epochs):
        for _ in range(STEPS):
            seen_now = schedule.lr
            schedule.step()
        seen.append(seen_now)
        schedule.epoch_end(errors[epoch] if errors else 0.0)
    return seen


def torchs(make):
    sgd = optimizer()
    scheduler = make(sgd)
    seen = []
    for _ in range(EPOCHS):
        seen.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"sched": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        ({"sched": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
        (
            {"sched": "cosine", "min_lr": 0.01},
            lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS, 0.01),
        ),
        (
            {"sched": "step", "decay_epochs": 3, "decay_rate": 0.5},
            lambda o: lr_scheduler.StepLR(o, 3, 0.5),
        ),
        (
            {"sched": "multistep", "decay_milestones": [2, 5]},
            lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.1),
        ),
        (
            {"sched": "exponential", "decay_rate": 0.8},
            lambda o: lr_scheduler.ExponentialLR(o, 0.8),
        ),
    ],
)
def test_course_is_torchs(settings, make):
    schedule = build_schedule(optimizer(), Settings(epochs=EPOCHS, lr=0.1, **settings), STEPS)
    assert rates(schedule) == pytest.approx(torchs(make))


@pytest.mark.parametrize("sched", ["step", "exponential"])
def test_decays_to_one_250th_as_in_2012(sched):
    schedule = build_schedule(optimizer(), Settings(epochs=EPOCHS, sched=sched), STEPS)
    seen = rates(schedule)
    assert seen[0] == pytest.approx(0.1) and seen[-1] == pytest.approx(0.1 / 250)


def test_linear_falls_by_equal_steps_to_the_lowest_rate():
    """Every group to the same fraction of its own first rate, reached as the last epoch ends."""
    sgd = optimizer()
    settings = Settings(epochs=EPOCHS, sched="linear", lr=0.1, min_lr=0.001)
    schedule = build_schedule(sgd, settings, STEPS)
    expected = [0.1 - 0.0099 * epoch for epoch in range(EPOCHS + 1)]
    assert rates(schedule) == pytest.approx(expected[:-1])
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.001, 0.002])


@pytest.mark.parametrize("sched", ["cosine", "plateau"])
def test_every_group_ends_at_the_same_fraction(sched):
    sgd = optimizer()
    settings = Settings(epochs=EPOCHS, sched=sched, lr=0.1, min_lr=0.001, patience_epochs=0)
    schedule = build_schedule(sgd, settings, STEPS)
    rates(schedule, errors=[0.5] * EPOCHS)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.001, 0.002])


def test_stochastic_poolings_course_is_its_papers():
    """From 0.01 to a hundredth of it over 280 epochs."""
    settings = resolve({"model": "cifar_stochastic_pooling", "data": "cifar10"})
    seen = rates(build_schedule(optimizer(), settings, STEPS), settings.epochs)
    assert len(seen) == 280 and settings.lr == 0.01 and settings.min_lr == 0.0001
    assert seen[-1] == pytest.approx(0.1 * (0.01 + 0.99 / 280))


def test_plateau_waits_for_patience_epochs_without_a_better_error():
    settings = Settings(epochs=EPOCHS, sched="plateau", patience_epochs=2, decay_rate=0.5)
    errors = [0.5, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3]
    seen = rates(build_schedule(optimizer(), settings, STEPS), errors=errors)
    assert seen == pytest.approx([0.1] * 5 + [0.05] * 4 + [0.025])


def test_warmup_rises_linearly_in_every_group():
    sgd = optimizer()
    schedule = build_schedule(sgd, Settings(sched="constant", warmup_epochs=2), STEPS)
    seen = []
    for step in range(10):
        seen.append([group["lr"] for group in sgd.param_groups])
        schedule.step()
        if step % STEPS == STEPS - 1:
            schedule.epoch_end(0.0)
    factors = [min(1, (i + 1) / 8) for i in range(10)]
    assert [a for a, _ in seen] == pytest.approx([0.1 * f for f in factors])
    assert [b for _, b in seen] == pytest.approx([0.2 * f for f in factors])


@pytest.mark.parametrize(
    "sched", ["step", "multistep", "plateau", "cosine", "linear", "exponential"]
)
def test_state_goes_on_where_it_was_taken(sched):
    settings = Settings(
        epochs=EPOCHS, sched=sched, decay_milestones=[2, 6], warmup_epochs=1.5, patience_epochs=1
    )
    whole = build_schedule(optimizer(), settings, STEPS)
    expected = rates(whole, errors=[0.5] * EPOCHS)
    first = build_schedule(optimizer(), settings, STEPS)
    seen = rates(first, 4, errors=[0.5] * EPOCHS)
    second = build_schedule(optimizer(), settings, STEPS)
    second.load_state_dict(first.state_dict())
    seen += rates(second, EPOCHS - 4, errors=[0.5] * EPOCHS)
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sched": "square"}, "sched: must be one of constant"),
        ({"l1": -1e-4}, r"l1: must be a number of at least 0 \(got -0.0001\)"),
        ({"l1": "much"}, r"l1: expected a number \(got 'much'\)"),
        ({"sched": "multistep"}, "multistep needs them"),
        ({"lr": -1}, r"lr: must be a number above 0 \(got -1.0\)"),
        ({"lr": "fast"}, r"lr: expected a number \(got 'fast'\)"),
        ({"momentum": 1.0}, "momentum: must be from 0 up to but not 1"),
        ({"epochs": 0}, r"epochs: must be at least 1 \(got 0\)"),
        ({"epochs": 1.5}, r"epochs: expected a whole number \(got 1.5\)"),
        ({"nesterov": True, "momentum": 0}, "nesterov: needs a momentum above 0"),
        ({"save_every": "soon"}, r"save_every: must be steps \(500\) or a time"),
        ({"units": "metres"}, "units: must be one of pixels, std"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**wrong)
