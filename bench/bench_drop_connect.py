"""drop_connect beside torch's linear, and beside a loop over examples: fc6 and fc7 of AlexNet.

    pytest bench/bench_drop_connect.py --benchmark-columns=min,median

torch has no DropConnect: its linear is the limit, and what people write is the loop. `GFLOP/s`
counts a multiplication and an addition for each weight and example, dropped or not; the masks come
on top. `ms/example` compares the loop, which is timed with two examples, with the rest.
"""

import pytest
import torch
import torch.nn.functional as F

import fastconv  # noqa: F401  registers torch.ops.fastconv

BATCH, LOOP_BATCH = 32, 2
LAYERS = {"fc6": (9216, 4096), "fc7": (4096, 4096)}
PROBABILITIES = {"p=1/2": 0.5, "p=1/4": 0.25, "p=0.3": 0.3}
SEED = torch.tensor([1])
TOLERANCE = {"rtol": 1e-4, "atol": 1e-2}  # float32 sums of thousands of terms of size 1


def operands(layer, batch):
    inputs, outputs = LAYERS[layer]
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, inputs, generator=generator),
        torch.randn(outputs, inputs, generator=generator),
        torch.randn(batch, outputs, generator=generator),
    )


def measure(benchmark, function, x, weight, rounds=5):
    benchmark.pedantic(function, rounds=rounds, warmup_rounds=1 if rounds > 1 else 0)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if benchmark.stats is not None:  # there are none with --benchmark-disable
        seconds = benchmark.stats.stats.median
        work = 2 * x.shape[0] * weight.numel()
        benchmark.extra_info["GFLOP/s"] = round(work / seconds / 1e9, 1)
        benchmark.extra_info["ms/example"] = round(1000 * seconds / x.shape[0], 3)


def check(x, weight, p):
    """The first sixteen outputs against the dense product with the same masks."""
    ops = torch.ops.fastconv
    kept = ops.drop_connect_mask(SEED, len(x), 16, 0, x.shape[1], p)
    expected = torch.einsum("noi,oi,ni->no", kept.float(), weight[:16], x)
    output = ops.drop_connect(x, weight, None, SEED, p)[:, :16]
    torch.testing.assert_close(output, expected, **TOLERANCE)


def loop(x, weight, p):
    """One masked product an example, as in a layer written by hand."""
    return torch.stack([F.linear(row, weight * (torch.rand_like(weight) >= p)) for row in x])


@pytest.mark.parametrize("layer", LAYERS)
def test_forward_linear(benchmark, layer):
    x, weight, _ = operands(layer, BATCH)
    benchmark.group = f"drop_connect forward {layer}"
    measure(benchmark, lambda: F.linear(x, weight), x, weight)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("layer", LAYERS)
def test_forward_fastconv(benchmark, layer, p):
    x, weight, _ = operands(layer, BATCH)
    check(x, weight, PROBABILITIES[p])
    benchmark.group = f"drop_connect forward {layer}"
    op, p = torch.ops.fastconv.drop_connect, PROBABILITIES[p]
    measure(benchmark, lambda: op(x, weight, None, SEED, p), x, weight)


@pytest.mark.parametrize("layer", LAYERS)
def test_forward_loop(benchmark, layer):
    x, weight, _ = operands(layer, LOOP_BATCH)
    torch.testing.assert_close(loop(x, weight[:16], 0), F.linear(x, weight[:16]), **TOLERANCE)
    benchmark.group = f"drop_connect forward {layer}"
    measure(benchmark, lambda: loop(x, weight, 0.5), x, weight, rounds=1)


GRADIENTS = {
    "input": {
        "fastconv": lambda g, x, w: torch.ops.fastconv.drop_connect_input_grad(g, w, SEED, 0.5),
        "linear": lambda g, x, w: g @ w,
    },
    "weight": {
        "fastconv": lambda g, x, w: torch.ops.fastconv.drop_connect_weight_grad(g, x, SEED, 0.5),
        "linear": lambda g, x, w: g.t() @ x,
    },
}


@pytest.mark.parametrize("implementation", ["fastconv", "linear"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_of_fc6(benchmark, gradient, implementation):
    x, weight, g = operands("fc6", BATCH)
    y = torch.ops.fastconv.drop_connect(x, weight, None, SEED, 0.5).double()
    back = GRADIENTS[gradient]["fastconv"](g, x, weight).double()
    other = x if gradient == "input" else weight
    # The gradient is the adjoint.
    torch.testing.assert_close((back * other).sum(), (g * y).sum(), **TOLERANCE)
    benchmark.group = f"drop_connect {gradient} gradient fc6"
    function = GRADIENTS[gradient][implementation]
    measure(benchmark, lambda: function(g, x, weight), x, weight)
