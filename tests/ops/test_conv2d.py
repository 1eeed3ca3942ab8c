"""conv2d and its gradients against the definition in float64 and against torch's own."""

import random
import time

import pytest
import torch
import torch.nn.functional as F
from op_testing import (
    CAPABILITIES,
    DTYPES,
    FORMATS,
    assert_compiles,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    assert_within_policy,
    awkward,
    sample,
    standard_proofs,
)

import fastconv
from fastconv.ops._conv2d_algorithm import _agrees, fastest, within_policy
from fastconv.ops.conv2d import conv2d_ref

ops = torch.ops.fastconv
ALGORITHMS = ["fastconv", "library"]

# batch, channels, size, maps, kernel, stride, (top, bottom, left, right), dilation, groups
LAYERS = {
    "alexnet conv1": (2, 3, (35, 35), 16, (11, 11), (4, 4), (0, 3, 0, 3), (1, 1), 1),
    "alexnet conv2": (2, 16, (9, 9), 24, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 2),
    "zfnet conv1": (2, 3, (23, 23), 16, (7, 7), (2, 2), (0, 1, 0, 1), (1, 1), 1),
    "3x3": (2, 40, (13, 13), 72, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "1x1": (2, 20, (6, 7), 33, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "depthwise": (2, 6, (8, 8), 6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6),
    "dilated stride": (2, 4, (19, 17), 6, (3, 4), (4, 3), (5, 1, 0, 7), (2, 3), 2),
    "whole input": (3, 5, (6, 5), 7, (6, 5), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "deep sum": (1, 300, (5, 5), 10, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    # Enough multiplications for Winograd's way: folded strides, blocks of taps, zeros on all sides.
    "folded": (2, 24, (17, 15), 40, (5, 5), (2, 2), (1, 1, 1, 1), (1, 1), 1),
    "folded photograph": (2, 3, (67, 59), 32, (11, 11), (4, 4), (0, 3, 0, 3), (1, 1), 1),
    "blocks": (2, 40, (14, 13), 72, (7, 5), (1, 1), (3, 3, 2, 2), (1, 1), 2),
    "one tap more": (2, 32, (14, 9), 48, (4, 4), (1, 1), (5, 0, 1, 6), (1, 1), 1),
    "uneven steps": (2, 16, (15, 40), 33, (3, 6), (1, 3), (0, 2, 4, 1), (1, 1), 1),
    # Few channels, read in place: runs that end in every part of a panel.
    "photograph": (3, 3, (41, 67), 50, (7, 7), (2, 2), (0, 1, 3, 1), (1, 1), 1),
    "two channels": (2, 2, (12, 33), 16, (2, 15), (1, 1), (1, 0, 2, 2), (1, 1), 1),
    "four channels": (1, 4, (9, 60), 33, (1, 3), (2, 3), (0, 0, 1, 0), (1, 1), 1),
    "many tiles": (2, 4, (40, 31), 200, (2, 2), (1, 1), (1, 0, 1, 0), (1, 1), 1),
}


def random_layer(seed):
    """A small problem with every argument drawn, so that it has at least one output."""
    draw = random.Random(seed)
    groups = draw.choice([1, 1, 2, 3])
    kernel, stride, dilation = ([draw.randint(1, most) for _ in "hw"] for most in (5, 4, 3))
    padding = [draw.randint(0, 4) for _ in range(4)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [
        max(1, span - padding[2 * i] - padding[2 * i + 1]) + draw.randint(0, 18)
        for i, span in enumerate(spans)
    ]
    channels, maps = groups * draw.randint(1, 20), groups * draw.randint(1, 40)
    return draw.randint(1, 3), channels, size, maps, kernel, stride, padding, dilation, groups


def tensors_of(layer, dtype, memory_format=torch.contiguous_format):
    """(input, weight, bias, grad_output) and (stride, padding, dilation, groups)."""
    batch, channels, size, maps, kernel, stride, padding, dilation, groups = layer
    x = sample(batch, channels, *size, dtype=dtype, memory_format=memory_format, seed=1)
    weight = sample(
        maps, channels // groups, *kernel, dtype=dtype, memory_format=memory_format, seed=2
    )
    bias = sample(maps, dtype=dtype, seed=3)
    window = list(stride), list(padding), list(dilation), groups
    shape = conv2d_ref(x.double(), weight.double(), None, *window, False).shape
    grad = sample(*shape, dtype=dtype, memory_format=memory_format, seed=4)
    return (x, weight, bias, grad), window


def results(function, x, weight, bias, grad_output, *window, relu):
    """Output and the gradients of input, weight and bias."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    output = function(*leaves, *window, relu)
    return output.detach(), *torch.autograd.grad(output, leaves, grad_output)


def ours(x, weight, bias, stride, padding, dilation, groups, relu, algorithm="fastconv"):
    activation = "relu" if relu else "none"
    return fastconv.conv2d(
        x, weight, bias, stride, padding, dilation, groups,
        activation=activation, algorithm=algorithm,
    )  # fmt: skip


def torchs(x, weight, bias, stride, padding, dilation, groups, relu):
    top, bottom, left, right = padding
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups)
    return y.relu() if relu else y


def assert_right(layer, dtype, memory_format, relu):
    tensors, window = tensors_of(layer, dtype, memory_format)
    got = results(ours, *tensors, *window, relu=relu)
    exact = results(conv2d_ref, *(t.double() for t in tensors), *window, relu=relu)
    if dtype == torch.float64:
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)
    elif not relu:  # with a ReLU, an output near 0 may round to either side: see below
        peer = results(torchs, *tensors, *window, relu=False)
        for a, b, c in list(zip(got, peer, exact, strict=True))[:3]:
            assert_within_policy(a, b, c)
        assert torch.equal(got[3], tensors[3].sum((0, 2, 3)))
    else:
        # The mask is ours, rounding and all; given the mask the rest is linear.
        plain = results(ours, *tensors, *window, relu=False)[0]
        assert torch.equal(got[0], plain.relu())
        *leaves, grad = tensors
        passing = grad * (got[0] > 0)
        masked = results(ours, *leaves, passing, *window, relu=False)
        for a, b in list(zip(got, masked, strict=True))[1:3]:
            assert torch.equal(a, b)
        assert_within_policy(got[3], masked[3], passing.double().sum((0, 2, 3)))


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_forward_and_gradients(layer, dtype, memory_format, relu):
    assert_right(LAYERS[layer], dtype, memory_format, relu)


@pytest.mark.parametrize("seed", range(64))
def test_random_layers(seed):
    dtype, memory_format = DTYPES[seed % 4], FORMATS[seed // 4 % 2]
    assert_right(random_layer(seed), dtype, memory_format, relu=False)


@pytest.mark.parametrize("seed", range(8))
def test_reference_is_torchs_convolution(seed):
    (*tensors, _), window = tensors_of(random_layer(seed), torch.float64)
    expected = torchs(*tensors, *window, False)
    torch.testing.assert_close(conv2d_ref(*tensors, *window, False), expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("groups", [1, 2])
def test_first_and_second_derivatives(groups, relu, algorithm):
    layer = 1, 2, (9, 6), 2, (2, 3), (3, 2), (2, 0, 1, 3), (2, 1), groups
    (*leaves, _), window = tensors_of(layer, torch.float64)
    leaves = [t.requires_grad_() for t in leaves]

    def function(*leaves):
        return ours(*leaves, *window, relu, algorithm)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_memory(dtype):
    tensors, window = tensors_of(LAYERS["3x3"], dtype)
    expected = results(ours, *tensors, *window, relu=False)
    tolerance = {"rtol": 0, "atol": 8 * torch.finfo(dtype).eps * float(expected[2].abs().max())}
    for which in (0, 1, 3):
        for name, memory in awkward(tensors[which]).items():
            changed = [*tensors[:which], memory, *tensors[which + 1 :]]
            for got, wanted in zip(
                results(ours, *changed, *window, relu=False), expected, strict=True
            ):
                torch.testing.assert_close(got, wanted, **tolerance, msg=name)


def test_expanded_grad_output():
    (x, weight, bias, _), window = tensors_of(LAYERS["3x3"], torch.float64)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    got = torch.autograd.grad(ours(*leaves, *window, False).sum(), leaves)
    for a, b in zip(
        got, torch.autograd.grad(torchs(*leaves, *window, False).sum(), leaves), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_formats_are_kept(memory_format):
    tensors, window = tensors_of(LAYERS["3x3"], torch.float32, memory_format)
    output, grad_input, grad_weight, _ = results(ours, *tensors, *window, relu=True)
    for tensor in (output, grad_input, grad_weight):
        assert tensor.is_contiguous(memory_format=memory_format)


def test_only_the_gradients_that_are_asked_for():
    (x, weight, bias, _), window = tensors_of(LAYERS["1x1"], torch.float32)
    for which in range(3):
        leaves = [t.detach().requires_grad_(i == which) for i, t in enumerate((x, weight, bias))]
        with torch.profiler.profile() as profile:
            ours(*leaves, *window, False).sum().backward()
        names = {event.key for event in profile.key_averages()}
        assert ("fastconv::conv2d_input_grad" in names) == (which == 0)
        assert ("fastconv::conv2d_weight_grad" in names) == (which == 1)
        assert [t.grad is not None for t in leaves] == [i == which for i in range(3)]


# More images than are folded at a time, with any number of threads up to four.
LARGE_BATCHES = {
    "photographs": (14, 3, (301, 299), 16, (3, 5), (2, 2), (1, 1, 2, 2), (1, 1), 1),
    "deep images": (14, 64, (65, 64), 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2),
}


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("layer", LARGE_BATCHES)
def test_images_in_turn(layer, memory_format):
    (x, weight, bias, grad), window = tensors_of(LARGE_BATCHES[layer], torch.float32, memory_format)
    whole = results(ours, x, weight, bias, grad, *window, relu=False)
    alone = [
        results(ours, x[i : i + 1], weight, bias, grad[i : i + 1], *window, relu=False)
        for i in range(len(x))
    ]
    output, grad_input, grad_weight, _ = (torch.stack(t).double() for t in zip(*alone, strict=True))
    exact = output.flatten(0, 1), grad_input.flatten(0, 1), grad_weight.sum(0)
    for got, expected in zip(whole, exact, strict=False):
        assert (got - expected).norm() < 1e-5 * expected.norm()  # an image left out: 0.27


@pytest.mark.parametrize("maps", [48, 52])  # whole vectors, and some that are cut off
def test_large_results(maps):
    layer = 2, 16, (60, 60), maps, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1
    assert_right(layer, torch.float32, torch.channels_last, relu=False)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (2, 96, 27, 27), (0, 4, 3, 3), (2, 3, 1, 1)])
def test_way_back_through_a_relu(shape, dtype, memory_format):
    output = sample(*shape, dtype=dtype, memory_format=memory_format).relu()
    if output.numel():
        output[0, 0, 0, 0] = torch.nan
    g = sample(*shape, dtype=dtype, memory_format=memory_format, seed=1)
    exact = torch.ops.aten.threshold_backward(g, output, 0)
    for name, grad_output in (awkward(g) if output.numel() else {"empty": g}).items():
        grad, bias_grad = ops.conv2d_relu_grad(grad_output, output)
        assert torch.equal(grad, exact) and grad.stride() == output.stride(), name
        exact_sum = exact.double().sum((0, 2, 3))
        if dtype == torch.float64:  # whose exact sum nothing here knows
            torch.testing.assert_close(bias_grad, exact_sum)
        else:
            assert_within_policy(bias_grad, exact.sum((0, 2, 3)), exact_sum)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_threads_do_not_change_a_bit(memory_format):
    for layer in (
        "many tiles",
        "alexnet conv2",
        "dilated stride",
        "folded",
        "blocks",
        "photograph",
    ):
        tensors, window = tensors_of(LAYERS[layer], torch.float32, memory_format)
        assert_same_for_all_thread_counts(
            lambda t=tensors, w=window: results(ours, *t, *w, relu=True)
        )


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_torchs_ways_to_say_it(algorithm):
    x, weight = sample(2, 4, 9, 8), sample(6, 4, 4, 3, seed=1)
    for options in (
        {"padding": "same", "dilation": (1, 2)},
        {"padding": "valid", "stride": 2},
        {"padding": (2, 1), "stride": (1, 3)},
        {"padding": [3]},
    ):
        expected = F.conv2d(x, weight, None, **options)
        got = fastconv.conv2d(x, weight, None, **options, algorithm=algorithm)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(
            fastconv.conv2d(x[0], weight, None, **options, algorithm=algorithm), expected[0]
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_four_paddings(algorithm):
    x, weight = sample(2, 3, 5, 6), sample(4, 3, 2, 3, seed=1)
    got = fastconv.conv2d(x, weight, padding=(1, 2, 0, 3), algorithm=algorithm)
    torch.testing.assert_close(got, F.conv2d(F.pad(x, (0, 3, 1, 2)), weight))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_empty_batch(algorithm):
    tensors, window = tensors_of(LAYERS["1x1"], torch.float32)
    x, weight, bias, grad = tensors
    got = results(
        lambda *args: ours(*args, algorithm=algorithm), x[:0], weight, bias, grad[:0], *window,
        relu=True,
    )  # fmt: skip
    assert [tuple(t.shape) for t in got] == [
        (0, *grad.shape[1:]), (0, *x.shape[1:]), tuple(weight.shape), tuple(bias.shape)
    ]  # fmt: skip
    assert not got[2].any() and not got[3].any()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_nan_and_infinity_stay_where_they_are_seen(memory_format):
    x = torch.ones(1, 40, 9, 9).contiguous(memory_format=memory_format)
    x[0, 7, 2, 3], x[0, 1, 7, 7] = torch.nan, torch.inf
    weight = torch.ones(35, 40, 3, 3)
    window = [1, 1], [1, 1, 1, 1], [1, 1], 1
    got, expected = ours(x, weight, None, *window, True), torchs(x, weight, None, *window, True)
    assert torch.equal(got.isnan(), expected.isnan()) and got.isnan().sum() == 35 * 9
    assert torch.equal(got.isinf(), expected.isinf()) and got.isinf().sum() == 35 * 9
    grad = torch.zeros(1, 35, 9, 9)
    grad[0, 3, 4, 4] = torch.nan
    seen = ops.conv2d_input_grad(grad, weight, list(x.shape), *window, False, False).isnan()
    assert seen[0, 0].sum() == 9 and seen[0, :, 3:6, 3:6].all()


def test_standard_proofs():
    x, weight = sample(2, 4, 6, 5), sample(6, 2, 3, 2, seed=1)
    bias = sample(6, seed=2)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    window = [2, 1], [1, 0, 2, 1], [1, 2], 2
    standard_proofs(ops.conv2d, *leaves, *window, False, True)
    standard_proofs(ops.conv2d, x, weight, None, *window, False, False)
    grad = torch.ones_like(ours(*leaves, *window, False)).requires_grad_()
    standard_proofs(ops.conv2d_input_grad, grad, weight, list(x.shape), *window, False, True)
    standard_proofs(ops.conv2d_weight_grad, grad, x, list(weight.shape), *window, False, False)
    for memory_format in FORMATS:
        maps = grad.detach().contiguous(memory_format=memory_format)
        standard_proofs(ops.conv2d_relu_grad, maps, maps)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compiles(algorithm):
    for memory_format in FORMATS:
        x = sample(2, 4, 9, 9, memory_format=memory_format).requires_grad_()
        weight, bias = sample(6, 4, 3, 3, seed=1).requires_grad_(), sample(6).requires_grad_()

        def function(x, weight, bias):
            return fastconv.conv2d(
                x, weight, bias, padding="same", activation="relu", algorithm=algorithm
            )

        assert_compiles(function, x, weight, bias)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_as_torchs(algorithm, compiled, dtype):
    x, weight, bias = (
        t.requires_grad_() for t in (sample(2, 4, 9, 9), sample(6, 4, 3, 3), sample(6))
    )

    def function(x, weight, bias):
        with torch.autocast("cpu", dtype):
            return fastconv.conv2d(x, weight, bias, activation="relu", algorithm=algorithm)

    torch._dynamo.reset()
    run = torch.compile(function, fullgraph=True, backend="aot_eager") if compiled else function
    got = run(x, weight, bias)
    assert got.dtype == dtype
    low = [t.to(dtype) for t in (x, weight, bias)]
    torch.testing.assert_close(got, F.conv2d(*low).relu(), rtol=2e-2, atol=2e-2)
    grads = torch.autograd.grad(got.float().sum(), (x, weight, bias))
    assert all(grad.dtype == torch.float32 for grad in grads)
    with torch.autocast("cpu", dtype):  # mixed inputs too; float64 is left alone, as in torch
        assert fastconv.conv2d(x, weight.to(dtype), algorithm=algorithm).dtype == dtype
        double = fastconv.conv2d(x.double(), weight.double(), algorithm=algorithm)
    assert double.dtype == torch.float64


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_meta_tensors(algorithm):
    x, weight = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    output = fastconv.conv2d(x, weight, algorithm=algorithm)
    assert output.shape == (2, 4, 6, 6) and output.device.type == "meta"


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_wrong_inputs(algorithm):
    x, w, b = torch.zeros(2, 4, 6, 6), torch.zeros(6, 4, 3, 3), torch.zeros(6)
    shapes = "(got input (2, 4, 6, 6), weight "

    def case(args, text, **options):
        return fastconv.conv2d, args, {"algorithm": algorithm, **options}, "conv2d: " + text

    assert_refuses(
        [
            case((x[0, 0], w), "input must have shape (N, C, H, W) or (C, H, W) (got (6, 6))"),
            case((x, w[0]), "weight must have 4 dimensions, (out_channels, in_channels / groups"),
            case((x.int(), w), "input must be float32, float64, float16 or bfloat16 (got torch.in"),
            case((x, w.double()), "weight must have the dtype of input (got torch.float64 and t"),
            case((x, w, b.half()), "bias must have the dtype of input (got torch.float16 and t"),
            case((x, w.to("meta")), "weight must be on the device of input (got meta and cpu)"),
            case((x, w, b[:5]), "bias must have shape (6,) (got (5,))"),
            case((x, w[:, :3]), "input must have weight.shape[1] * groups channels " + shapes),
            case((x, w[:5, :2]), "groups must divide the output channels " + shapes, groups=2),
            case((x, w), "groups must be at least 1 (got groups=0)", groups=0),
            case((x, w), "stride must be at least 1 (got stride=0)", stride=(0, 1)),
            case((x, w), "stride must be an int or a pair of ints (got stride=1.5)", stride=1.5),
            case((x, w), "dilation must be at least 1 (got dilation=0)", dilation=0),
            case((x, w), "padding must be at least 0 (got padding=-1)", padding=-1),
            case((x, w), "padding must be 'same', 'valid' or integers (got padding='full')",
                 padding="full"),
            case((x, w), "padding='same' demands stride 1 (got stride=[2, 2])", padding="same",
                 stride=2),
            case((x, w), "the window must fit into the padded input (got input (2, 4, 6, 6), "
                 "weight (6, 4, 3, 3), padding=[0, 0, 0, 0], dilation=[3, 3])", dilation=3),
            case((x[:, :, :0], w), "input must have no empty dimension but the batch (got input "),
            case((x, w[:, :, :0]), "weight must have no empty dimension " + shapes),
            case((x, w), "activation must be 'none' or 'relu' (got activation='tanh')",
                 activation="tanh"),
        ]
    )  # fmt: skip
    assert_refuses(
        [(fastconv.conv2d, (x, w), {"algorithm": "fast"}, "algorithm must be 'auto', 'fastconv'")]
    )


def test_wrong_inputs_of_the_ops_themselves():
    x, w = torch.zeros(2, 4, 6, 6), torch.zeros(6, 4, 3, 3)
    g, window = torch.zeros(2, 6, 4, 4), ([1, 1], [0, 0, 0, 0], [1, 1], 1)
    size = [2, 4, 6, 6]

    def case(op, args, text):
        return op, args, {}, text

    def conv(text, *args, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
        return case(
            ops.conv2d, (*args, stride, padding, dilation, groups, False, False), "conv2d: " + text
        )

    assert_refuses(
        [
            conv("input must have 4 dimensions (N, C, H, W) (got shape (4, 6, 6))", x[0], w, None),
            conv("weight must have the dtype of input", x, w.double(), None),
            conv("bias must have shape (6,) (got (5,))", x, w, torch.zeros(5)),
            conv("input must have weight.shape[1] * groups channels", x, w, None, groups=2),
            conv("groups must divide the output channels", x, w[:5], None, groups=2),
            conv("stride must be at least 1 (got stride=0)", x, w, None, stride=(0, 1)),
            conv("padding must be at least 0 (got padding=-1)", x, w, None, padding=(0, 0, -1, 0)),
            conv("padding must be (top, bottom, left, right) (got 2 ", x, w, None, padding=(0, 0)),
            conv("the window must fit into the padded input (got padded size 6, kernel_size=3, "
                 "dilation=3)", x, w, None, dilation=(1, 3)),
            case(ops.conv2d_input_grad, (g[:, :5], w, size, *window, False, False),
                 "conv2d_input_grad: grad_output must have the output's shape (2, 6, 4, 4) (got "),
            case(ops.conv2d_weight_grad, (g.double(), x, [6, 4, 3, 3], *window, False, False),
                 "conv2d_weight_grad: input must have the dtype of grad_output"),
            case(ops.conv2d_relu_grad, (g, g[:, :5]), "conv2d_relu_grad: grad_output must have the "
                 "shape of output (got (2, 6, 4, 4) and (2, 5, 4, 4))"),
            case(ops.conv2d_relu_grad, (g, g.double()), "grad_output must have the dtype of outp"),
            case(ops.conv2d_relu_grad, (g[0], g), "grad_output must have 4 dimensions"),
            case(ops.conv2d_weight_grad, (g, x, [6, 4, 3], *window, False, False),
                 "conv2d_weight_grad: sizes of input and weight must have 4 dimensions (got "),
        ]
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    assert_passes_with_capability(
        capability, __file__, "test_random_layers or test_any_memory or (gradients and linear)"
    )


def test_the_faster_algorithm_wins():
    slow = {"fastconv": 0.0, "library": 0.02}
    assert fastest(lambda name: time.sleep(slow[name]), torch.zeros(1)) == "fastconv"
    slow = {"fastconv": 0.02, "library": 0.0}
    assert fastest(lambda name: time.sleep(slow[name]), torch.zeros(1)) == "library"


def test_an_algorithm_that_refuses_does_not_take_part():
    def run(name):
        if name == "fastconv":
            raise NotImplementedError(name)

    assert fastest(run, torch.zeros(1)) == "library"


@pytest.mark.parametrize("algorithm", ["library", "auto"])
def test_forward_mode_is_the_librarys(algorithm):
    x, weight, tangent = sample(4, 4, 9, 9), sample(32, 4, 3, 3), sample(4, 4, 9, 9, seed=1)
    got = torch.func.jvp(
        lambda x: fastconv.conv2d(x, weight, algorithm=algorithm), (x,), (tangent,)
    )
    torch.testing.assert_close(got[1], F.conv2d(tangent, weight))


def test_a_third_algorithm_wins_where_it_takes_part():
    slow = {"fastconv": 0.02, "library": 0.02, "fastconv_wgmma": 0.0}
    run, x = lambda name: time.sleep(slow[name]), torch.zeros(1)
    assert fastest(run, x, ("fastconv", "library", "fastconv_wgmma")) == "fastconv_wgmma"
    assert fastest(run, x) != "fastconv_wgmma"


def test_an_untried_algorithm_must_agree_with_the_library():
    exact = sample(4, 5)
    peer = exact.bfloat16()
    assert within_policy([peer.clone()], [peer], [exact])
    wrong = peer.clone()
    wrong[2, 3] *= 1.1
    assert not within_policy([wrong], [peer], [exact])
    wrong[2, 3] = torch.nan
    assert not within_policy([wrong], [peer], [exact])
    assert within_policy([peer[:0]], [peer[:0]], [exact[:0]])


def test_warpgroup_products_are_refused_without_a_gpu():
    x, w = torch.zeros(2, 8, 6, 6), torch.zeros(8, 8, 3, 3)
    window = [1, 1], [0, 0, 0, 0], [1, 1], 1, False
    assert_refuses(
        [
            (fastconv.conv2d, (x, w), {"algorithm": "fastconv_wgmma"},
             "conv2d: algorithm='fastconv_wgmma' runs on cuda (got a tensor on cpu)"),
            (ops.conv2d, (x, w, None, *window, False, True), {},
             "conv2d: warpgroup products run on GPUs alone (got a tensor on the CPU)"),
            (ops.conv2d_input_grad, (x, w, [2, 8, 8, 8], *window, False, True), {},
             "conv2d_input_grad: warpgroup products run on GPUs alone"),
            (ops.conv2d_weight_grad, (x, x, [8, 8, 1, 1], *window, False, True), {},
             "conv2d_weight_grad: warpgroup products run on GPUs alone"),
        ]
    )  # fmt: skip
    meta = [t.to("meta") for t in (x, w)]
    assert fastconv.conv2d(*meta, algorithm="fastconv_wgmma").shape == (2, 8, 4, 4)


@pytest.mark.parametrize("fault", ["none", "wrong output", "wrong gradient", "an error"])
def test_auto_leaves_out_what_does_not_agree(fault):
    x, w = sample(2, 8, 6, 6, dtype=torch.bfloat16), sample(8, 8, 3, 3, dtype=torch.bfloat16)
    w.requires_grad_()

    def run(name, tensors):
        x, w, bias = tensors
        if name == "library":
            return F.conv2d(x, w, bias)
        if fault == "an error":
            raise RuntimeError("the launch failed")
        if fault == "wrong gradient":
            w = w + 0.1 * (w - w.detach())
        return F.conv2d(x, w, bias) * (1.1 if fault == "wrong output" else 1)

    if fault == "none":
        assert _agrees("fastconv_wgmma", run, (x, w, None))
    else:
        with pytest.warns(UserWarning, match="'auto' leaves out 'fastconv_wgmma'"):
            assert not _agrees("fastconv_wgmma", run, (x, w, None))
