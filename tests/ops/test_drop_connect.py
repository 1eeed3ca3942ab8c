"""drop_connect against dense masked products with the same masks."""

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from op_testing import (
    CAPABILITIES,
    DTYPES,
    assert_compiles,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    assert_within_policy,
    sample,
    standard_proofs,
)

import fastconv
from fastconv import drop_connect, drop_connect_gaussian
from fastconv.ops.drop_connect import drop_connect_ref

op = torch.ops.fastconv.drop_connect
op_input_grad = torch.ops.fastconv.drop_connect_input_grad
op_weight_grad = torch.ops.fastconv.drop_connect_weight_grad
op_mask = torch.ops.fastconv.drop_connect_mask

SEED = torch.tensor([0x1234_5678_9ABC_DEF0])
PROBABILITIES = [0.0, 0.5, 0.25, 77 / 256, 0.3, 1e-3, 1 - 2**-40, 1.0]
# batch, outputs, inputs: within a tile, at its edges, across tiles, single elements
SHAPES = [(3, 5, 7), (33, 17, 513), (2, 40, 1100), (32, 16, 512), (1, 1, 1), (70, 3, 130)]


def problem(shape, dtype=torch.float64):
    batch, outputs, inputs = shape
    return (
        sample(batch, inputs, dtype=dtype, seed=1),
        sample(outputs, inputs, dtype=dtype, seed=2),
        sample(outputs, dtype=dtype, seed=3),
        sample(batch, outputs, dtype=dtype, seed=4),
    )


def mask_of(shape, p, seed=SEED):
    batch, outputs, inputs = shape
    return op_mask(seed, batch, outputs, 0, inputs, p)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_masked_product(shape, p):
    x, weight, bias, g = problem(shape)
    kept = mask_of(shape, p)
    masked = kept * weight
    expected = drop_connect_ref(x, weight, bias, kept)
    torch.testing.assert_close(op(x, weight, bias, SEED, p), expected)
    expected = torch.einsum("noi,no->ni", masked, g)
    torch.testing.assert_close(op_input_grad(g, weight, SEED, p), expected)
    expected = torch.einsum("noi,ni,no->oi", kept.double(), x, g)
    torch.testing.assert_close(op_weight_grad(g, x, SEED, p), expected)


@pytest.mark.parametrize("p", [0.5, 0.3])
@pytest.mark.parametrize("shape", [(33, 17, 513), (4, 40, 1100)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_within_policy(dtype, shape, p):
    def run(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in rounded]
        output = function(*leaves)
        return [output, *torch.autograd.grad(output, leaves, g.to(dtype))]

    *rounded, g = problem(shape, dtype)
    kept = mask_of(shape, p)
    ours = run(lambda *args: op(*args, SEED, p), dtype)
    peers = run(lambda *args: drop_connect_ref(*args, kept), dtype)
    exact = run(lambda *args: drop_connect_ref(*args, kept), torch.float64)
    for a, b, e in zip(ours, peers, exact, strict=True):
        if dtype == torch.float64:
            torch.testing.assert_close(a, e)
        else:
            assert_within_policy(a, b, e)


@pytest.mark.parametrize("p", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("masked_bias", [False, True])
def test_gradcheck(masked_bias, p):
    x, weight, bias, _ = (t.requires_grad_() for t in problem((3, 4, 6)))
    bias = sample(3, 4, dtype=torch.float64).requires_grad_() if masked_bias else bias
    arguments = (x, weight, bias)
    assert torch.autograd.gradcheck(lambda *a: op(*a, SEED, p), arguments)
    assert torch.autograd.gradgradcheck(lambda *a: op(*a, SEED, p), arguments)


@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_training_draws_the_mask_of_its_seed(mask):
    x, weight, bias, _ = problem((3, 5, 200))
    for mask_bias in (False, True):
        seed = torch.randint(2**63 - 1, (1,), generator=torch.Generator().manual_seed(8))
        kept = op_mask(seed, 3 if mask == "sample" else 1, 5, 0, 201, 0.3)
        kept_bias = kept[:, :, 200] if mask_bias else torch.ones(1, 5)
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        output = drop_connect(
            *leaves,
            0.3,
            mask=mask,
            mask_bias=mask_bias,
            generator=torch.Generator().manual_seed(8),
        )
        again = [t.clone().requires_grad_() for t in (x, weight, bias)]
        expected = drop_connect_ref(*again[:2], kept_bias * again[2], kept[:, :, :200])
        torch.testing.assert_close(output, expected)
        output.square().sum().backward()
        expected.square().sum().backward()
        for a, b in zip(leaves, again, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_seeded_by_the_generator_or_torchs():
    x, weight, bias, _ = problem((3, 5, 200))
    torch.manual_seed(1)
    first, second = drop_connect(x, weight, bias), drop_connect(x, weight, bias)
    torch.manual_seed(1)
    assert torch.equal(first, drop_connect(x, weight, bias))
    assert torch.equal(second, drop_connect(x, weight, bias))
    assert not torch.equal(first, second)


def test_checkpointing_draws_the_same_masks():
    x, weight, bias, _ = (t.requires_grad_() for t in problem((3, 5, 200)))
    grads = []
    for checkpointed in (False, True):
        torch.manual_seed(4)
        if checkpointed:
            output = torch.utils.checkpoint.checkpoint(
                drop_connect, x, weight, bias, use_reentrant=False
            )
        else:
            output = drop_connect(x, weight, bias)
        grads.append(torch.autograd.grad(output.square().sum(), (x, weight, bias)))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mask_bias", [False, True])
@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_expectation(mask, mask_bias):
    """The mean of many draws is what evaluation gives: within 5 standard errors, 20 outputs."""
    x, weight, bias, _ = problem((4, 5, 60))
    generator = torch.Generator().manual_seed(2)
    options = {"mask": mask, "mask_bias": mask_bias}

    def draw(x):
        return drop_connect(x, weight, bias, 0.3, generator=generator, **options)

    if mask == "sample":
        draws = draw(x.repeat(20_000, 1, 1))
    else:
        draws = torch.stack([draw(x) for _ in range(500)])
    mean = drop_connect(x, weight, bias, 0.3, training=False, **options)
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / math.sqrt(len(draws))).all()
    factor = 0.7 if mask_bias else 1.0
    torch.testing.assert_close(mean, 0.7 * x @ weight.t() + factor * bias)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", ["sample", "batch"])
@pytest.mark.parametrize("mask_bias", [False, True])
def test_certain_probabilities(mask_bias, mask, training):
    x, weight, bias, _ = problem((4, 5, 60), torch.float32)
    options = {"training": training, "mask": mask, "mask_bias": mask_bias}
    assert torch.equal(drop_connect(x, weight, bias, 0, **options), F.linear(x, weight, bias))
    nothing = torch.zeros(4, 5) if mask_bias else bias.expand(4, 5)
    assert torch.equal(drop_connect(x, weight, bias, 1, **options), nothing)
    assert torch.equal(drop_connect(x, weight, None, 1.0, **options), torch.zeros(4, 5))


def test_a_dropped_weight_counts_as_zero():
    """Whatever stands there; a NaN in the input reaches every output of its example."""
    x, weight, _, g = problem((3, 5, 700), torch.float32)
    kept = mask_of((3, 5, 700), 0.5)
    poisoned = torch.where(kept[1], weight, torch.tensor([torch.nan, torch.inf]).repeat(350))
    output = op(x, poisoned, None, SEED, 0.5)
    assert torch.equal(output[1], op(x, weight, None, SEED, 0.5)[1])
    assert not output[[0, 2]].isfinite().any()
    back = op_input_grad(g, poisoned, SEED, 0.5)
    assert torch.equal(back[1], op_input_grad(g, weight, SEED, 0.5)[1])
    x[2, 17] = torch.nan
    output = op(x, weight, None, SEED, 0.5)
    assert output[2].isnan().all() and output[:2].isfinite().all()


# Inference by moment matching


def test_moments_of_gaussian_samples():
    """Mean and variance of 20,000 single draws: 5 standard errors of 40 statistics each."""
    x, weight, bias, _ = problem((4, 5, 60))
    for mask_bias in (False, True):
        generator = torch.Generator().manual_seed(3)
        draws = drop_connect_gaussian(
            x.repeat(20_000, 1, 1),
            weight,
            bias,
            0.3,
            samples=1,
            mask_bias=mask_bias,
            generator=generator,
        )
        mean = drop_connect(x, weight, bias, 0.3, training=False, mask_bias=mask_bias)
        variance = 0.21 * (x.square() @ weight.square().t() + mask_bias * bias.square())
        assert ((draws.mean(0) - mean).abs() < 5 * (variance / 20_000).sqrt()).all()
        assert ((draws.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / 20_000)).all()


def test_variance_of_masks_is_the_matched_one():
    x, weight, bias, _ = problem((4, 5, 60))
    many = x.repeat(20_000, 1, 1)
    generator = torch.Generator().manual_seed(3)
    draws = drop_connect(many, weight, bias, 0.3, mask_bias=True, generator=generator)
    variance = 0.21 * (x.square() @ weight.square().t() + bias.square())
    assert ((draws.var(0) / variance - 1).abs() < 0.06).all()


def test_gaussian_averages_behind_the_activation():
    x, weight, bias, _ = problem((4, 5, 60))
    many = x.repeat(20_000, 1, 1)
    generator = torch.Generator().manual_seed(3)
    exact = drop_connect(many, weight, bias, 0.3, generator=generator).relu().mean(0)
    got = drop_connect_gaussian(
        x, weight, bias, 0.3, samples=20_000, activation=F.relu, generator=generator
    )
    torch.testing.assert_close(got, exact, rtol=0.02, atol=0.2)  # the scale of exact is 3
    naive = drop_connect(x, weight, bias, 0.3, training=False).relu()
    assert (got - exact).abs().max() < (naive - exact).abs().max() / 3


def test_gaussian_is_finite_where_there_is_no_variance():
    weight, bias = sample(5, 6).requires_grad_(), sample(5)
    x = torch.zeros(3, 6, requires_grad=True)
    output = drop_connect_gaussian(x, weight, bias, 0.5, samples=3)
    torch.testing.assert_close(output, bias.expand(3, 5))
    output.sum().backward()
    assert x.grad.isfinite().all() and weight.grad.isfinite().all()


# What every op must stand


def test_threads_give_equal_bits():
    x, weight, bias, g = problem((70, 50, 1100), torch.float32)
    for p in (0.5, 0.3):
        assert_same_for_all_thread_counts(
            lambda p=p: (
                op(x, weight, bias, SEED, p),
                op_input_grad(g, weight, SEED, p),
                op_weight_grad(g, x, SEED, p),
            )
        )


def test_examples_do_not_depend_on_the_batch():
    x, weight, bias, _ = problem((70, 50, 1100), torch.float32)
    output = op(x, weight, bias, SEED, 0.5)
    assert torch.equal(op(x[:33], weight, bias, SEED, 0.5), output[:33])


def test_awkward_memory():
    x, weight, bias, g = problem((33, 17, 513), torch.float32)

    def forms(t):
        wide = t.new_zeros(t.shape[0], 2 * t.shape[1])
        wide[:, ::2] = t
        offset = t.new_zeros(t.numel() + 1)
        offset[1:] = t.flatten()
        return [wide[:, ::2], t.t().contiguous().t(), offset[1:].view(t.shape)]

    expected = op(x, weight, bias, SEED, 0.5)
    expected_x, expected_w = op_input_grad(g, weight, SEED, 0.5), op_weight_grad(g, x, SEED, 0.5)
    spread = torch.zeros(34)
    spread[::2] = bias
    for xs, ws, gs in zip(forms(x), forms(weight), forms(g), strict=True):
        assert torch.equal(op(xs, ws, spread[::2], SEED, 0.5), expected)
        assert torch.equal(op_input_grad(gs, ws, SEED, 0.5), expected_x)
        assert torch.equal(op_weight_grad(gs, xs, SEED, 0.5), expected_w)
    ones = torch.ones(()).expand(33, 17)  # what sum() sends back
    assert torch.equal(
        op_weight_grad(ones, x, SEED, 0.5), op_weight_grad(torch.ones(33, 17), x, SEED, 0.5)
    )


@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_leading_dimensions(mask):
    _, weight, bias, _ = problem((1, 5, 60), torch.float32)
    x = sample(2, 3, 4, 60)
    for training in (False, True):
        options = {"training": training, "mask": mask}
        torch.manual_seed(0)
        flat = drop_connect(x.reshape(24, 60), weight, bias, **options)
        torch.manual_seed(0)
        assert torch.equal(drop_connect(x, weight, bias, **options), flat.view(2, 3, 4, 5))
        torch.manual_seed(0)
        single = drop_connect(x[0, 0, 0], weight, bias, **options)
        torch.testing.assert_close(single, flat[0])


@pytest.mark.parametrize("mask", ["sample", "batch"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 5, 6), (3, 0, 6), (3, 5, 0)], ids=str)
def test_empty(shape, training, mask):
    *leading, outputs, inputs = shape
    x = torch.ones(*leading, inputs, requires_grad=True)
    weight, bias = torch.ones(outputs, inputs, requires_grad=True), torch.ones(outputs)
    y = drop_connect(x, weight, bias, training=training, mask=mask, mask_bias=mask == "batch")
    assert y.shape == (*leading, outputs)
    y.sum().backward()
    assert not x.grad.any() and x.grad.shape == x.shape
    assert not weight.grad.any() and weight.grad.shape == weight.shape
    assert drop_connect_gaussian(x, weight, bias, samples=2).shape == y.shape


def test_standard_proofs():
    x, weight, bias, g = (t.requires_grad_() for t in problem((3, 5, 20), torch.float32))
    for b in (bias, None, sample(3, 5).requires_grad_()):
        standard_proofs(op, x, weight, b, SEED, 0.5)
    standard_proofs(op_input_grad, g, weight, SEED, 0.5)
    standard_proofs(op_weight_grad, g, x, SEED, 0.3)
    standard_proofs(op_mask, SEED, 3, 5, 7, 20, 0.5)


@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_compiles(mask):
    x, weight, bias, _ = (t.requires_grad_() for t in problem((3, 5, 20), torch.float32))

    def seeded(x, weight, bias):
        kept = op_mask(SEED, 3, 5, 20, 21, 0.3)[..., 0]
        return op(x, weight, torch.where(kept, bias, 0), SEED, 0.3)

    assert_compiles(seeded, x, weight, bias)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *a: drop_connect(*a, 0.3, mask=mask, mask_bias=True), fullgraph=True, backend="eager"
    )
    torch.manual_seed(0)
    expected = drop_connect(x, weight, bias, 0.3, mask=mask, mask_bias=True)
    torch.manual_seed(0)
    assert torch.equal(compiled(x, weight, bias), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_autocast_takes_the_regions_dtype(mask, training):
    x, weight, bias, _ = (t.requires_grad_() for t in problem((3, 5, 20), torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        output = drop_connect(x, weight, bias, training=training, mask=mask)
        sampled = drop_connect_gaussian(x, weight, bias, samples=2)
    assert output.dtype == sampled.dtype == F.linear(x, weight).bfloat16().dtype
    torch.manual_seed(0)
    low = [t.bfloat16() for t in (x, weight, bias)]
    assert torch.equal(output, drop_connect(*low, training=training, mask=mask))
    output.sum().backward()
    assert weight.grad.dtype == torch.float32
    x, weight, bias, _ = problem((3, 5, 20))
    with torch.autocast("cpu", torch.bfloat16):
        assert drop_connect(x, weight, bias, mask=mask).dtype == torch.float64


_MEMORY = """
import sys, torch, fastconv

def peak():  # the highest resident size so far; ru_maxrss would start at that of the parent
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

def step(batch, outputs, inputs):
    shapes = [(batch, inputs), (outputs, inputs), (outputs,)]
    x, weight, bias = (torch.ones(shape, requires_grad=True) for shape in shapes)
    before = peak()
    y = fastconv.drop_connect(x, weight, bias, mask_bias=True)
    y.backward(torch.ones_like(y))
    gradients = 4 * (x.numel() + weight.numel() + bias.numel() + y.numel())
    return peak() - before - gradients - 4 * y.numel()

step(64, 64, 1024)  # threads, code, allocator
print(step(*map(int, sys.argv[1:])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_masks():
    """fc6 of AlexNet at batch 128: beyond inputs, outputs and gradients less than 64 MB.

    Masks as bits would take 604 MB, as float32 19 GB.
    """
    process = subprocess.run(
        [sys.executable, "-c", _MEMORY, "128", "4096", "9216"],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 64e6, f"{int(process.stdout) / 1e6:.0f} MB"


def test_wrong_inputs():
    x, weight, bias, g = problem((3, 5, 20), torch.float32)

    def call(x=x, weight=weight, bias=bias, p=0.5, **options):
        return drop_connect(x, weight, bias, p, **options)

    cases = [
        ({"mask": "none"}, "mask must be 'sample' or 'batch' (got mask='none')"),
        ({"p": 1.5}, "p must be a probability within [0, 1] (got p=1.5)"),
        ({"p": -0.1}, "p must be a probability within [0, 1] (got p=-0.1)"),
        ({"p": math.nan}, "p must be a probability within [0, 1] (got p=nan)"),
        ({"p": "half"}, "p must be a number (got p='half')"),
        ({"p": True}, "p must be a number (got p=True)"),
        ({"weight": bias}, "weight must have shape (out_features, in_features) (got (5,))"),
        (
            {"x": x[:, :19]},
            "input must have shape (..., 20) for weight of shape (5, 20) (got (3, 19))",
        ),
        (
            {"x": torch.tensor(1.0)},
            "input must have shape (..., 20) for weight of shape (5, 20) (got ())",
        ),
        ({"bias": bias[:4]}, "bias must have shape (5,) (got (4,))"),
        ({"x": x.int()}, "input must be float32, float64, float16 or bfloat16 (got torch.int32)"),
        (
            {"x": x.double()},
            "weight must have the dtype of input (got torch.float32 and torch.float64)",
        ),
        (
            {"bias": bias.double()},
            "bias must have the dtype of input (got torch.float64 and torch.float32)",
        ),
    ]
    assert_refuses([(call, (), kwargs, f"drop_connect: {text}") for kwargs, text in cases])
    samples = "drop_connect_gaussian: samples must be an int of at least 1 (got samples=0)"
    seed = "drop_connect: seed must be one int64 number (got Int of shape (2,))"
    assert_refuses(
        [
            (drop_connect_gaussian, (x, weight), {"samples": 0}, samples),
            (op, (x, weight, None, torch.zeros(2, dtype=torch.int32), 0.5), {}, seed),
            (op, (x, weight, g[:2], SEED, 0.5), {}, "where it is masked already (got (2, 5))"),
            (op, (x, weight, None, SEED, 1.5), {}, "drop_connect: p must be a probability"),
            (op, (x[0], weight, None, SEED, 0.5), {}, "input must have 2 dimensions (got shape"),
            (
                op,
                (x, weight.double(), None, SEED, 0.5),
                {},
                "drop_connect: weight must have the dtype of input (got Double and Float)",
            ),
            (op_input_grad, (g[:, :4], weight, SEED, 0.5), {}, "one column for each row of weight"),
            (op_weight_grad, (g[:2], x, SEED, 0.5), {}, "one row for each row of grad_output"),
            (op_mask, (SEED, 1, 2, 5, 4, 0.5), {}, "got first_input=5, end_input=4"),
            (op_mask, (SEED, -1, 2, 0, 4, 0.5), {}, "got examples=-1, outputs=2"),
            (op_mask, (SEED, 2**32, 0, 0, 4, 0.5), {}, "at most 2^32 - 1 (got 4294967296)"),
        ]
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    selection = "masked_product or policy or counts_as_zero"
    assert_passes_with_capability(capability, __file__, selection)
