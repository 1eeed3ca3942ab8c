"""linear against torch's own in float64, by our kernels and by the library's."""

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
)

import fastconv
from fastconv.ops.linear import _LARGE

ALGORITHMS = ["fastconv", "library", "auto"]

# Examples, inputs, outputs: parts of every panel, stretches of a sum, several blocks of examples.
SIZES = {
    "one": (1, 1, 1),
    "few": (3, 37, 5),
    "one example": (1, 1300, 101),
    "two examples": (2, 700, 49),
    "a unit": (4, 512, 48),
    "ragged": (9, 1037, 99),
    "many examples": (131, 150, 50),
    "large": (32, 1024, 300),
}


def tensors_of(size, dtype):
    batch, inputs, outputs = size
    shapes = (batch, inputs), (outputs, inputs), (outputs,), (batch, outputs)
    return [sample(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def results(function, x, weight, bias, grad_output, **options):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    output = function(*leaves, **options)
    return output.detach(), *torch.autograd.grad(output, leaves, grad_output)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_gradients(size, dtype):
    tensors = tensors_of(SIZES[size], dtype)
    got = results(fastconv.linear, *tensors, algorithm="fastconv")
    exact = results(F.linear, *(t.double() for t in tensors))
    if dtype == torch.float64:
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)
        return
    for a, b, c in zip(got, results(F.linear, *tensors), exact, strict=True):
        assert_within_policy(a, b, c)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", ["few", "large"])
def test_relu(size, algorithm):
    tensors = tensors_of(SIZES[size], torch.float32)
    got = results(fastconv.linear, *tensors, activation="relu", algorithm=algorithm)
    expected = results(lambda *t: F.linear(*t).relu(), *tensors)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert (got[0] == 0).any() and got[0].min() == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_leading_dimensions(algorithm):
    weight, bias = sample(6, 5, seed=1), sample(6, seed=2)
    for lead in ((), (4,), (2, 3), (2, 0), (0,)):
        x = sample(*lead, 5)
        got = fastconv.linear(x, weight, bias, algorithm=algorithm)
        torch.testing.assert_close(got, F.linear(x, weight, bias))
    for inputs, outputs in ((0, 3), (3, 0)):
        x, weight = torch.ones(2, inputs), torch.ones(outputs, inputs)
        assert torch.equal(fastconv.linear(x, weight, algorithm=algorithm), F.linear(x, weight))


def test_any_memory():
    x, weight, bias, grad = tensors_of(SIZES["ragged"], torch.float32)
    expected = results(fastconv.linear, x, weight, bias, grad, algorithm="fastconv")
    wide = torch.zeros(9, 2 * 1037)
    wide[:, ::2] = x
    for changed in (
        (wide[:, ::2], weight, bias, grad),
        (x, weight.t().contiguous().t(), bias, grad),
        (x, weight, bias.repeat(2)[99:], grad.t().contiguous().t()),
        (x.flatten().repeat(2)[1037 * 9 :].view(9, 1037), weight, bias, grad),
    ):
        got = results(fastconv.linear, *changed, algorithm="fastconv")
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    ones = results(fastconv.linear, x, weight, bias, torch.ones(()).expand(9, 99))
    torch.testing.assert_close(ones[3], torch.full((99,), 9.0))


def test_nan_and_infinity_stay_in_their_rows():
    x, weight = torch.ones(9, 70), torch.ones(50, 70)
    x[3, 69], weight[49, 0] = torch.nan, torch.inf
    got = fastconv.linear(x, weight, activation="relu", algorithm="fastconv")
    expected = F.linear(x, weight).relu()
    assert torch.equal(got.isnan(), expected.isnan()) and got.isnan().sum() == 50
    assert torch.equal(got.isinf(), expected.isinf()) and got.isinf().sum() == 8


def test_large_gradient():
    """One that is written past the caches."""
    x, weight, _, grad = tensors_of((5, 1501, 1003), torch.float32)
    weight.requires_grad_()
    output = fastconv.linear(x, weight, algorithm="fastconv")
    (got,) = torch.autograd.grad(output, weight, grad)
    torch.testing.assert_close(got, grad.t() @ x, rtol=1e-5, atol=1e-4)


def test_threads_do_not_change_a_bit():
    for size in ("one example", "ragged", "many examples"):
        tensors = tensors_of(SIZES[size], torch.float32)
        assert_same_for_all_thread_counts(
            lambda t=tensors: results(fastconv.linear, *t, algorithm="fastconv")
        )


@pytest.mark.parametrize("algorithm", ["fastconv", "library"])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_first_and_second_derivatives(activation, algorithm):
    leaves = [t.requires_grad_() for t in tensors_of((3, 7, 5), torch.float64)[:3]]

    def function(*leaves):
        return fastconv.linear(*leaves, activation=activation, algorithm=algorithm)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compiles(algorithm):
    def function(x, weight, bias):
        return fastconv.linear(x, weight, bias, activation="relu", algorithm=algorithm)

    large = tensors_of((4, 1024, _LARGE // 1024), torch.float32)[:3]
    for tensors in (tensors_of(SIZES["few"], torch.float32)[:3], large):
        assert_compiles(function, *(t.requires_grad_() for t in tensors))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_autocast_and_meta(algorithm):
    x, weight, bias, _ = tensors_of(SIZES["few"], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = fastconv.linear(x, weight, bias, algorithm=algorithm)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), F.linear(x, weight, bias), rtol=3e-2, atol=3e-2)
    output = fastconv.linear(x.to("meta"), weight.to("meta"), algorithm=algorithm)
    assert output.shape == (3, 5) and output.is_meta


def test_what_auto_takes():
    def kernels(**options):
        x, weight = torch.zeros(2, 1024), torch.zeros(_LARGE // 1024, 1024)
        x, weight = (t.to(options.get("dtype", t.dtype)) for t in (x, weight))
        weight = weight[: options.get("outputs")]
        with torch.profiler.profile() as profile:
            fastconv.linear(x, weight)
        return any(e.key == "fastconv::conv2d" for e in profile.key_averages())

    assert kernels() and not kernels(outputs=100) and not kernels(dtype=torch.bfloat16)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_wrong_inputs(algorithm):
    x, w, b = torch.zeros(2, 4), torch.zeros(6, 4), torch.zeros(6)

    def case(args, text, **options):
        return fastconv.linear, args, {"algorithm": algorithm, **options}, "linear: " + text

    assert_refuses(
        [
            case((x, w[0]), "weight must have 2 dimensions, (out_features, in_features) (got (4"),
            case((x[:, :3], w), "input must have weight.shape[1] features in its last dimension"),
            case((x[0, 0], w), "input must have weight.shape[1] features in its last dimension"),
            case((x.int(), w), "input must be float32, float64, float16 or bfloat16 (got torch.in"),
            case((x, w.double()), "weight must have the dtype of input (got torch.float64 and t"),
            case((x, w, b[:5]), "bias must have shape (6,) (got (5,))"),
            case((x, w, [0.0]), "bias must be a tensor (got list)"),
            case((x, w), "activation must be 'none' or 'relu' (got activation='tanh')",
                 activation="tanh"),
            case((x, w), "algorithm must be 'auto', 'fastconv' or 'library' (got alg",
                 algorithm="fast"),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_instruction_sets(capability):
    assert_passes_with_capability(capability, __file__, "forward or large_gradient or memory")
