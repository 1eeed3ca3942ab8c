"""stochastic_pool2d beside unfold and multinomial: ``pytest bench/bench_stochastic_pool2d.py``.

A draw cannot be compared with another draw. What is checked: the draw lies in its window's positive
part (its gradient is the share that was drawn), and its mean over the maps is the test-time value's
mean, within 6 standard errors.
"""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, measure, sample
from shapes import POOLS

import fastconv

BATCH = 4  # of the shared 16: the composition takes seconds
SHAPES = {name: POOLS[name] for name in ("alexnet pool1", "alexnet pool5")}


def windows_of(x, kernel_size, stride, padding, ceil_mode):
    assert padding == 0 and not ceil_mode
    windows = x.relu().unfold(2, kernel_size, stride).unfold(3, kernel_size, stride).flatten(4)
    return windows, windows.sum(-1, keepdim=True)


def composed_draw(x, *window):
    windows, total = windows_of(x, *window)
    # multinomial refuses a row of zeros: there all are drawn alike, and all are 0.
    weights = torch.where(total > 0, windows, 1.0).flatten(0, 3)
    drawn = torch.multinomial(weights, 1).view(*windows.shape[:4], 1)
    return windows.gather(4, drawn).squeeze(4)


def composed_mean(x, *window):
    windows, total = windows_of(x, *window)
    return windows.square().sum(-1) / torch.where(total > 0, total, 1.0).squeeze(-1)


def our_mean(x, *window):
    return fastconv.stochastic_pool2d(x, *window, training=False)


DRAWS = {"fastconv": fastconv.stochastic_pool2d, "composed": composed_draw}
MEANS = {"fastconv": our_mean, "composed": composed_mean}


def problem(shape, memory_format):
    maps, window = SHAPES[shape]
    return sample(BATCH, *maps, memory_format=FORMATS[memory_format]), window


def check_draw(drawn, x, window):
    largest, mean = F.max_pool2d(x.relu(), *window[:3]), composed_mean(x, *window)
    assert ((drawn >= 0) & (drawn <= largest) & ((drawn > 0) == (largest > 0))).all()
    difference = (drawn - mean).double()
    assert difference.mean().abs() < 6 * difference.std() / difference.numel() ** 0.5


@pytest.mark.parametrize("implementation", DRAWS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_draw(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    draw = DRAWS[implementation]
    torch.manual_seed(0)
    drawn = draw(x, *window)
    check_draw(drawn, x, window)
    benchmark.group = f"stochastic_pool2d draw {shape} {memory_format}"
    benchmark.pedantic(draw, (x, *window), warmup_rounds=1, rounds=5)
    record(benchmark, x.nbytes + drawn.nbytes + drawn.numel())


@pytest.mark.parametrize("implementation", DRAWS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_draw_and_backward(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    x.requires_grad_()
    g = torch.ones_like(composed_mean(x, *window))

    def gradient():
        return torch.autograd.grad(DRAWS[implementation](x, *window), x, g)[0]

    torch.manual_seed(0)
    grad = gradient()
    # Each window that has a positive element sends 1 to one of them.
    assert grad.sum() == (F.max_pool2d(x, *window[:3]) > 0).sum() and (grad[x <= 0] == 0).all()
    benchmark.group = f"stochastic_pool2d draw+backward {shape} {memory_format}"
    benchmark.pedantic(gradient, warmup_rounds=1, rounds=5)
    record(benchmark, 2 * x.nbytes + 2 * g.nbytes + 2 * g.numel())


@pytest.mark.parametrize("implementation", MEANS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mean(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    y = composed_mean(x, *window)
    benchmark.group = f"stochastic_pool2d mean {shape} {memory_format}"
    measure(
        benchmark,
        lambda: MEANS[implementation](x, *window),
        lambda: y,
        moved=x.nbytes + y.nbytes,
    )


def record(benchmark, moved):
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if benchmark.stats is not None:
        benchmark.extra_info["GB/s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)
