"""The training loop in this process: what a step does, what is saved, when it stops."""

import math

import pytest
import torch
from torch import nn

from fastconv import training
from fastconv.data.device import DeviceLoader
from fastconv.nn import DropConnectLinear, TiledConv2d
from fastconv.training import engine, optimizer
from fastconv.training.checkpoint import load_state
from fastconv.training.evaluate import evaluate
from fastconv.training.progress import Progress


class Silent(Progress):
    def say(self, text):
        pass


def start(folder, **settings):
    settings = {"model": "digits_convnet", "epochs": 1, "batch_size": 64, "lr": 0.02, **settings}
    return training.start(training.Settings(output=str(folder), **settings), progress=Silent())


def test_learns_the_digits(tmp_path):
    trainer = start(tmp_path / "run", epochs=5, lr=0.05, nesterov=True, channels_last=True)
    assert trainer.fit()
    assert trainer.history[-1]["val_top1"] > 0.9
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"run.json", "state.pt", "best.safetensors", "last.safetensors", "log.csv"} <= files


def test_one_step_is_sgd_with_momentum_and_decay(tmp_path):
    """Two steps of the trainer against the textbook's update, on the same batch."""
    trainer = start(tmp_path / "run", weight_decay=0.01, bias_lr=2.0, sched="constant")
    trainer.model.drop3.p = 0.0
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(8)
    parameters = [p.detach().clone() for p in trainer.model.parameters()]
    velocity = [torch.zeros_like(p) for p in parameters]
    twin = torch.func.functional_call
    names = [n for n, _ in trainer.model.named_parameters()]
    for _ in range(2):
        leaves = [p.clone().requires_grad_() for p in parameters]
        out = twin(trainer.model, dict(zip(names, leaves, strict=True)), (images,))
        gradients = torch.autograd.grad(nn.functional.cross_entropy(out, targets), leaves)
        for i, gradient in enumerate(gradients):
            is_bias = parameters[i].ndim == 1
            gradient = gradient + (0 if is_bias else 0.01) * parameters[i]
            velocity[i] = 0.9 * velocity[i] + gradient
            parameters[i] = parameters[i] - (0.04 if is_bias else 0.02) * velocity[i]
        trainer._train_step(images, targets, 0, len(images))
    for got, expected in zip(trainer.model.parameters(), parameters, strict=True):
        torch.testing.assert_close(got.detach(), expected)


def float16_step(folder):
    """A trainer in float16, its weights, and a step on some images."""
    trainer = start(folder, amp=True, amp_dtype="float16")
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    return trainer, weights, lambda: trainer._train_step(images, torch.arange(8), 0, 8)


def moved(trainer, weights):
    after = trainer.model.parameters()
    return any(not torch.equal(a, b) for a, b in zip(after, weights, strict=True))


def test_momentum_begins_at_zero_where_float16_overflows_at_first(tmp_path):
    trainer, weights, step = float16_step(tmp_path / "run")
    trainer.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    step()
    assert not moved(trainer, weights)
    for p in trainer.model.parameters():
        assert trainer.optimizer.state[p]["momentum_buffer"].count_nonzero() == 0
    trainer.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    step()
    assert moved(trainer, weights)
    assert all(p.isfinite().all() and p.abs().max() < 10 for p in trainer.model.parameters())


def test_after_a_bad_loss_no_step_in_float16_counts(tmp_path):
    trainer, weights, step = float16_step(tmp_path / "run")
    trainer.stepper._first_bad.fill_(0)
    step()
    assert not moved(trainer, weights)


def test_a_loss_that_is_a_number_when_it_is_looked_for_again(tmp_path, monkeypatch):
    trainer = start(tmp_path / "run")
    trainer.stepper._first_bad.fill_(3)
    monkeypatch.setattr(trainer, "_diagnose", lambda step: None)
    with pytest.raises(training.TrainingDiverged, match="the same images give one now"):
        trainer._require_finite()


@pytest.mark.parametrize(
    "options",
    [{}, {"bias_decay": True}, {"grad_clip": 0.01}, {"amp": True, "amp_dtype": "float16"}],
)
def test_one_step_with_an_l1_penalty(tmp_path, options):
    """The step with the penalty differs from the one without by -lr * l1 * sign(w)."""
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = []
    for l1 in (0.0, 0.05):
        trainer = start(tmp_path / f"run{l1}", l1=l1, bias_lr=2.0, weight_decay=0.1, **options)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        with torch.no_grad():
            trainer.model.conv1.weight[0] = before[0][0] = 0  # where the subgradient is 0
            trainer.model.fc4.bias.fill_(-1.0)
            before[-1].fill_(-1.0)
        trainer._train_step(images, torch.arange(8), 0, 8)
        moved.append([p.detach() for p in trainer.model.parameters()])
    assert len(before) == 8
    for start_value, without, penalised in zip(before, *moved, strict=True):
        is_bias = start_value.ndim == 1
        factor = 0.0 if is_bias and "bias_decay" not in options else 0.05
        rate = 0.04 if is_bias else 0.02
        expected = without - rate * factor * start_value.sign()
        torch.testing.assert_close(penalised, expected, rtol=1e-5, atol=1e-6)


def test_filters_above_the_limit_are_scaled_to_it():
    weight = torch.stack([torch.full((2, 3, 3), v) for v in (0.05, 0.1, 0.4, -0.4)])
    optimizer.limit_filter_rms([weight], 0.1)
    expected = torch.tensor([0.05, 0.1, 0.1, -0.1])
    torch.testing.assert_close(weight[:, 0, 0, 0], expected)


def test_tiled_layers_have_filters_and_biases_like_others():
    """A tiled filter is limited for itself; tiled biases are biases, though they have 3 dims."""
    weight = torch.ones(2, 1, 2, 2, 3, 3) * torch.tensor([0.05, 0.4]).view(2, 1, 1, 1, 1, 1)
    optimizer.limit_filter_rms([weight], 0.1)
    torch.testing.assert_close(weight[:, 0, 1, 1, 2, 2], torch.tensor([0.05, 0.1]))
    model = nn.Sequential(TiledConv2d(1, 2, 3, 2), nn.Conv2d(2, 2, 1))
    settings = training.Settings(lr=0.1, bias_lr=2.0, weight_decay=0.5)
    weights, biases = optimizer.build_optimizer(model, settings).param_groups
    assert [p.shape for p in weights["params"]] == [(2, 2, 2, 1, 3, 3), (2, 2, 1, 1)]
    assert [p.shape for p in biases["params"]] == [(2, 2, 2), (2,)]
    assert (weights["weight_decay"], biases["weight_decay"]) == (0.5, 0.0)
    assert (weights["lr"], biases["lr"]) == (0.1, 0.2)


def test_step_seeds_differ():
    seeds = {engine.step_seed(s, e, i) for s in range(5) for e in range(20) for i in range(50)}
    assert len(seeds) == 5 * 20 * 50


def test_a_diverging_loss_stops_with_advice(tmp_path):
    trainer = start(tmp_path / "run", lr=1e30)
    with pytest.raises(training.TrainingDiverged, match="a lower --lr"):
        trainer.fit()


def test_the_state_loads_with_weights_only_and_refuses_other_data(tmp_path):
    trainer = start(tmp_path / "run", epochs=1)
    trainer.fit()
    state = load_state(trainer.run)
    assert state["epoch"] == 1 and state["step"] == 0
    torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    state["steps_per_epoch"] += 1
    with pytest.raises(ValueError, match="the training images are not the same"):
        trainer.load_state_dict(state)


def test_resume_refuses_what_would_make_it_another_run(tmp_path):
    start(tmp_path / "run").fit()
    with pytest.raises(ValueError, match=r"--lr cannot change on resume: it was 0.02"):
        training.resume(tmp_path / "run", {"lr": 0.5}, progress=Silent())


def test_a_run_is_never_overwritten(tmp_path):
    start(tmp_path / "run")
    with pytest.raises(ValueError, match=r"already holds a run; --resume .* continues it"):
        start(tmp_path / "run")


def test_validation_that_draws_is_the_same_again(tmp_path):
    """DropConnect samples in evaluation; a resumed run logs what an uninterrupted one does."""
    trainer = start(tmp_path / "run", model="digits_convnet")
    trainer.model.drop3 = DropConnectLinear(120, 120, activation="relu", inference="gaussian")
    first = trainer._validate()
    assert trainer._validate() == first
    trainer.step += 1
    assert trainer._validate() != first


@pytest.mark.parametrize("amp", [False, True])
def test_evaluate_is_the_hand_computation(tmp_path, amp):
    trainer = start(tmp_path / "run", amp=amp)
    trainer.fit()
    dtype = torch.bfloat16 if amp else None
    metrics = evaluate(trainer.model, trainer.val_loader, amp_dtype=dtype)
    logits, targets = [], []
    trainer.model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        for images, labels, _ in trainer.val_loader:
            logits.append(trainer.model(images).float())
            targets.append(labels)
    logits, targets = torch.cat(logits), torch.cat(targets)
    assert metrics.images == len(targets) == 364
    assert metrics.top1 == pytest.approx((logits.argmax(1) == targets).double().mean().item())
    # topk, not a sort: bfloat16 logits can tie at rank 5, and the two break ties differently.
    top5 = (logits.topk(5).indices == targets[:, None]).any(1)
    assert metrics.top5 == pytest.approx(top5.double().mean().item())
    loss = -(logits.double().log_softmax(1)[torch.arange(364), targets]).mean()
    assert metrics.loss == pytest.approx(loss.item(), rel=1e-5)


def test_unreadable_images_are_counted_and_logged(tmp_path, picture_folder):
    (picture_folder / "train" / "ant" / "0.jpg").write_bytes(b"no picture")
    trainer = start(
        tmp_path / "run", model="alexnet", data=str(picture_folder), image_size=64, batch_size=4
    )
    trainer.fit()
    assert trainer.history[0]["skipped"] == 1
    text = (tmp_path / "run" / "unreadable.log").read_text()
    assert text.count("\n") == 1 and "ant/0.jpg" in text.replace("\\", "/")
    assert math.isfinite(trainer.history[0]["train_loss"])


def test_strict_stops_at_an_unreadable_image(tmp_path, picture_folder):
    (picture_folder / "train" / "ant" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"ant.0\.jpg"):
        start(
            tmp_path / "run",
            model="alexnet",
            data=str(picture_folder),
            image_size=64,
            batch_size=4,
            strict=True,
        ).fit()


@pytest.mark.parametrize("amp", [False, True])
def test_images_finished_on_the_device_train_to_the_same_bits(tmp_path, picture_folder, amp):
    """Also where the run is resumed the other way in the middle of an epoch."""
    options = {"model": "alexnet", "data": str(picture_folder), "image_size": 64, "batch_size": 3}
    options |= {"epochs": 2, "workers": 0, "amp": amp, "device": "cpu"}
    plain, other = (
        start(tmp_path / f"run{on_device}", device_transforms=on_device, **options)
        for on_device in (False, True)
    )
    assert isinstance(other.train_loader, DeviceLoader)
    assert not isinstance(plain.train_loader, DeviceLoader)
    assert plain.fit()
    other.sampler.set_epoch(0)
    images, targets, skipped = next(iter(other.train_loader))
    assert images.dtype == (torch.bfloat16 if amp else torch.float32)
    other._train_step(images, targets, skipped, len(images))
    other.save()
    overrides = {"device_transforms": False}
    resumed = training.resume(tmp_path / "runTrue", overrides, progress=Silent())
    assert not isinstance(resumed.train_loader, DeviceLoader) and resumed.step == 1
    assert resumed.fit()
    for a, b in zip(plain.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert plain.history[-1]["val_loss"] == resumed.history[-1]["val_loss"]


def test_the_device_refuses_pipelines_that_it_cannot_finish(tmp_path, picture_folder):
    options = {"model": "alexnet", "data": str(picture_folder), "image_size": 64, "workers": 0}
    with pytest.raises(training.SettingsError, match=r"device_transforms: .*preprocess=contrast"):
        start(tmp_path / "run", preprocess="contrast", device_transforms=True, **options)
    assert not (tmp_path / "run").exists()
