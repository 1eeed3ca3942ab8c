"""local_contrast_norm against a composition of convolutions and against its invariances."""

import pytest
import torch
from op_testing import (
    CAPABILITIES,
    DTYPES,
    FORMATS,
    assert_compiles,
    assert_large_is_single_images,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    assert_within_policy,
    awkward,
    sample,
    standard_proofs,
)

import fastconv
from fastconv.ops.local_contrast_norm import local_contrast_norm_ref

OP = torch.ops.fastconv.local_contrast_norm
CONFIGURATIONS = [
    pytest.param(across, divisor, id=f"{'across' if across else 'within'}-{divisor}")
    for across in (True, False)
    for divisor in ("mean", "threshold")
]
# (shape, kernel_size, sigma): rows below, at and above a vector; windows wider than the image.
SHAPES = [
    ((2, 5, 9, 11), 7, 1.75),
    ((2, 20, 17, 33), 5, 2.0),
    ((1, 3, 2, 40), 15, 3.0),
    ((3, 2, 40, 1), 9, 0.7),
    ((2, 4, 6, 5), 1, 1.0),
    ((1, 1, 8, 8), 101, 25.0),
]


def flat_free_eps(divisor):
    """An eps that is out of the way for the mean, and is sometimes the larger as a threshold."""
    return 1e-4 if divisor == "mean" else 0.9


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("shape", "kernel_size", "sigma"), SHAPES)
def test_equals_the_composition(shape, kernel_size, sigma, memory_format, across, divisor):
    x = sample(*shape, dtype=torch.float64, memory_format=memory_format)
    eps = flat_free_eps(divisor)
    y = fastconv.local_contrast_norm(
        x, kernel_size, sigma, across_maps=across, divisor=divisor, eps=eps
    )
    expected = local_contrast_norm_ref(x, kernel_size, sigma, across, divisor == "mean", eps)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-12)
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision(dtype, memory_format, across, divisor):
    x = sample(2, 20, 19, 23, dtype=dtype, memory_format=memory_format)
    grad = sample(2, 20, 19, 23, dtype=dtype, seed=1)
    arguments = (7, 1.75, across, divisor == "mean", flat_free_eps(divisor))

    def run(function, dtype):
        leaf = x.to(dtype).requires_grad_()
        y = function(leaf, *arguments)
        return y.detach(), torch.autograd.grad(y, leaf, grad.to(dtype))[0]

    ours = run(lambda *a: OP(*a)[0], dtype)
    peer = run(local_contrast_norm_ref, dtype)
    exact = run(local_contrast_norm_ref, torch.float64)
    for a, b, c in zip(ours, peer, exact, strict=True):
        assert_within_policy(a, b, c)


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_large_results_are_those_of_single_images(memory_format, across):
    assert_large_is_single_images(
        lambda x: fastconv.local_contrast_norm(x, across_maps=across), memory_format
    )


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradcheck(memory_format, across, divisor):
    x = sample(2, 3, 5, 6, dtype=torch.float64, memory_format=memory_format).requires_grad_()
    arguments = (5, 1.25, across, divisor == "mean", flat_free_eps(divisor))
    s = OP(x, *arguments)[1]
    if across and divisor == "threshold":  # both branches of the maximum are under test
        assert (s[:, 1] > 0.9).any() and (s[:, 1] < 0.9).any()
    assert torch.autograd.gradcheck(lambda x: OP(x, *arguments)[0], x)


@pytest.mark.parametrize("across", [True, False])
def test_gradient_where_eps_outweighs_the_mean(across):
    x = sample(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    call = fastconv.local_contrast_norm
    assert torch.autograd.gradcheck(lambda x: call(x, 3, across_maps=across, eps=0.95), x)
    assert torch.autograd.gradcheck(lambda x: call(x, 3, across_maps=across, eps=50.0), x)


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 0.1, -333.3, 6e4])
def test_a_constant_image_gives_zeros(value, dtype, memory_format, across, divisor):
    x = torch.full((2, 19, 13, 21), value, dtype=dtype).contiguous(memory_format=memory_format)
    x.requires_grad_()
    y = fastconv.local_contrast_norm(x, across_maps=across, divisor=divisor)
    assert torch.equal(y, torch.zeros_like(y))
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_maps_that_are_each_constant_give_zeros_within_each_map():
    x = sample(2, 5, 1, 1).expand(2, 5, 12, 14).contiguous()
    y = fastconv.local_contrast_norm(x, across_maps=False)
    assert torch.equal(y, torch.zeros_like(y))


def test_a_flat_region_beside_an_edge_is_zero():
    x = torch.zeros(1, 1, 16, 40)
    x[..., 20:] = 0.7
    for divisor in ("mean", "threshold"):
        y = fastconv.local_contrast_norm(x, 7, divisor=divisor)
        assert (y[..., :17] == 0).all() and (y[..., 23:] == 0).all()
        assert (y[..., 17:20] < 0).all() and (y[..., 20:23] > 0).all()


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_adding_a_constant_changes_nothing(memory_format, across, divisor):
    # Multiples of 2^-9: the shifted images are exact, and only the op's own rounding is left.
    x = (sample(2, 6, 24, 24, memory_format=memory_format) * 512).round() / 512
    arguments = {"across_maps": across, "divisor": divisor}
    y = fastconv.local_contrast_norm(x, **arguments)
    for shift, tolerance in ((1.0, 2e-6), (-100.0, 4e-5), (4096.0, 2e-3)):
        assert torch.equal(x + shift - shift, x)
        shifted = fastconv.local_contrast_norm(x + shift, **arguments)
        torch.testing.assert_close(shifted, y, rtol=0, atol=tolerance)
        shifted = fastconv.local_contrast_norm((x + shift).double(), **arguments)
        torch.testing.assert_close(shifted.float(), y, rtol=0, atol=2e-6)


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_scale_does_not_matter_where_the_divisor_is_the_mean(memory_format, across):
    x = sample(2, 5, 20, 23, memory_format=memory_format)
    y = fastconv.local_contrast_norm(x, across_maps=across)
    for power in (-8, 3, 40):  # powers of two are exact
        scaled = fastconv.local_contrast_norm(x * 2.0**power, across_maps=across)
        assert torch.equal(scaled, y)
    scaled = fastconv.local_contrast_norm(x * 0.37, across_maps=across)
    torch.testing.assert_close(scaled, y, rtol=0, atol=5e-6)
    fixed = fastconv.local_contrast_norm(x * 1e-6, across_maps=across)  # below eps
    assert fixed.abs().max() < 0.05


@pytest.mark.parametrize("across", [True, False])
def test_threshold_makes_every_deviation_one(across):
    x = 1e3 * sample(1, 4, 32, 32, dtype=torch.float64)
    y, statistics = OP(x, 7, 1.75, across, False, 1e-4)
    v = y * statistics[:, 1:2] if across else y
    if across:
        torch.testing.assert_close(v + statistics[:, :1], x)
    again = local_contrast_norm_ref(x, 7, 1.75, across, False, 1e-4)
    torch.testing.assert_close(y, again)


def test_borders_count_the_part_of_the_window_inside_as_the_whole():
    x = sample(1, 1, 6, 6, dtype=torch.float64)
    g = torch.exp(-0.5 * (torch.arange(3, dtype=torch.float64) / 1.25) ** 2)
    corner = torch.outer(g, g)
    corner /= corner.sum()
    statistics = OP(x, 5, 1.25, True, True, 1e-4)[1]
    mean = statistics[0, 0]
    torch.testing.assert_close(mean[0, 0], (corner * x[0, 0, :3, :3]).sum())
    torch.testing.assert_close(mean[5, 5], (corner * x[0, 0, 3:, 3:].flip(0, 1)).sum())


@pytest.mark.parametrize("divisor", ["mean", "threshold"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_single_pixel(memory_format, divisor):
    x = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1).contiguous(memory_format=memory_format)
    v = torch.tensor([-2.0, -1.0, 3.0]).view(1, 3, 1, 1)
    y = fastconv.local_contrast_norm(x, divisor=divisor)
    torch.testing.assert_close(y, v / (14 / 3) ** 0.5)
    y = fastconv.local_contrast_norm(x, across_maps=False, divisor=divisor)
    assert torch.equal(y, torch.zeros_like(y))


def test_a_window_larger_than_the_image_sees_all_of_it():
    x = sample(2, 3, 5, 4, dtype=torch.float64)
    y = fastconv.local_contrast_norm(x, 10**6 + 1, sigma=1e6)  # all weights equal
    v = x - x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(y, v / v.square().mean((1, 2, 3), keepdim=True).sqrt())


@pytest.mark.parametrize("divisor", ["mean", "threshold"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_within_maps_is_across_the_maps_of_single_map_images(memory_format, divisor):
    x = sample(3, 18, 14, 15, memory_format=memory_format)
    apart = fastconv.local_contrast_norm(x, across_maps=False, divisor=divisor)
    alone = fastconv.local_contrast_norm(x.reshape(54, 1, 14, 15), divisor=divisor)
    torch.testing.assert_close(apart, alone.view(3, 18, 14, 15), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
def test_one_image_without_a_batch(across, divisor):
    image = sample(3, 40, 30)
    y = fastconv.local_contrast_norm(image, 9, across_maps=across, divisor=divisor)
    batch = fastconv.local_contrast_norm(image[None], 9, across_maps=across, divisor=divisor)
    assert y.shape == image.shape and torch.equal(y, batch[0])


def test_default_sigma_is_a_quarter_of_the_window():
    x = sample(1, 2, 9, 9)
    assert torch.equal(
        fastconv.local_contrast_norm(x, 9), fastconv.local_contrast_norm(x, 9, 9 / 4)
    )


@pytest.mark.parametrize("across", [True, False])
def test_an_empty_batch(across):
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    y = fastconv.local_contrast_norm(x, across_maps=across)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_memory(dtype, across, divisor):
    x = sample(2, 19, 9, 12, dtype=dtype)
    grad = sample(2, 19, 9, 12, dtype=dtype, seed=1)
    tolerance = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    results = []
    for name, tensor in awkward(x).items():
        leaf = tensor.detach().requires_grad_()
        y = fastconv.local_contrast_norm(leaf, across_maps=across, divisor=divisor)
        for upstream in awkward(grad).values():
            (grad_input,) = torch.autograd.grad(y, leaf, upstream, retain_graph=True)
            results.append((name, y, grad_input))
    for name, y, grad_input in results:
        torch.testing.assert_close(y, results[0][1], msg=name, **tolerance)
        torch.testing.assert_close(grad_input, results[0][2], msg=name, **tolerance)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
def test_not_finite(across, divisor, memory_format, value):
    x = sample(2, 18, 20, 21, memory_format=memory_format)
    clean = fastconv.local_contrast_norm(x, 5, across_maps=across, divisor=divisor)
    x[0, 2, 10, 10] = value
    y = fastconv.local_contrast_norm(x, 5, across_maps=across, divisor=divisor)
    assert torch.equal(y[1], clean[1])
    reached = y[0] if across else y[0, 2]
    if divisor == "mean":
        assert reached.isnan().all()
    else:
        assert reached[..., 8:13, 8:13].isnan().all()
        far = torch.ones(20, 21, dtype=torch.bool)
        far[6:15, 6:15] = False  # two windows away: the mean's and the deviation's
        expected = clean[0] if across else clean[0, 2]
        assert torch.equal(reached[..., far], expected[..., far])
    if not across:
        others = [m for m in range(18) if m != 2]
        assert torch.equal(y[0, others], clean[0, others])


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("batch", [1, 8])  # rows shared out, images shared out
def test_results_do_not_depend_on_threads(batch, across, memory_format):
    x = sample(batch, 5, 64, 70, memory_format=memory_format).requires_grad_()

    def run():
        y = fastconv.local_contrast_norm(x, across_maps=across)
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    assert_same_for_all_thread_counts(run)


@pytest.mark.parametrize(("across", "divisor"), CONFIGURATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_opcheck(memory_format, across, divisor):
    x = sample(2, 3, 7, 8, memory_format=memory_format).requires_grad_()
    arguments = (5, 1.25, across, divisor == "mean", 1e-4)
    standard_proofs(OP, x, *arguments)
    with torch.no_grad():
        y, statistics = OP(x, *arguments)
    backward = torch.ops.fastconv.local_contrast_norm_backward
    standard_proofs(backward, y, x.detach(), statistics, *arguments)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("across", [True, False])
def test_compiles(across, memory_format):
    x = sample(2, 3, 8, 9, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: fastconv.local_contrast_norm(x, 5, across_maps=across), x)
    image = sample(3, 8, 9).requires_grad_()
    assert_compiles(lambda x: fastconv.local_contrast_norm(x, 5, across_maps=across), image)


@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_leaves_the_dtype_alone(dtype):
    x = sample(1, 3, 9, 9, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fastconv.local_contrast_norm(x)
    assert y.dtype == dtype and torch.equal(y, fastconv.local_contrast_norm(x))


def test_there_is_no_second_derivative():
    x = sample(1, 2, 5, 5).requires_grad_()
    y = fastconv.local_contrast_norm(x)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="local_contrast_norm: there is no second derivative"):
        grad.sum().backward()


def test_wrong_inputs():
    call, x = fastconv.local_contrast_norm, torch.zeros(1, 2, 4, 4)
    backward = torch.ops.fastconv.local_contrast_norm_backward
    y, statistics = OP(x, 3, 1.0, True, True, 1e-4)
    rest = (3, 1.0, True, True, 1e-4)
    assert_refuses(
        [
            (call, (x, 4), {}, "kernel_size must be odd and positive (got kernel_size=4)"),
            (call, (x, -1), {}, "kernel_size must be odd and positive (got kernel_size=-1)"),
            (call, (x, (3, 3)), {}, "kernel_size must be an int (got kernel_size=(3, 3))"),
            (call, (x, 3, 0.0), {}, "sigma must be positive and finite (got sigma=0.0)"),
            (call, (x, 3, float("nan")), {}, "sigma must be finite in float32 (got sigma=nan)"),
            (call, (x,), {"eps": 0.0}, "eps must be positive and finite (got eps=0.0)"),
            (call, (x,), {"eps": float("inf")}, "eps must be finite in float32 (got eps=inf)"),
            (
                call,
                (x,),
                {"divisor": "max"},
                "divisor must be 'mean' or 'threshold' (got divisor='max')",
            ),
            (call, (x[0, 0],), {}, "input must have shape (N, C, H, W) or (C, H, W) (got (4, 4))"),
            (
                call,
                (x.int(),),
                {},
                "input must be float32, float64, float16 or bfloat16",
            ),
            (call, (x[:, :0],), {}, "input must have no empty dimension but the batch"),
            (call, (x[..., :0],), {}, "input must have no empty dimension but the batch"),
            (backward, (y[:, :1], x, statistics, *rest), {}, "grad_output must have size 2 in"),
            (backward, (y.double(), x, statistics, *rest), {}, "grad_output must have the dtype"),
            (backward, (y, x, statistics[:, :1], *rest), {}, "statistics must have size 2 in"),
            (backward, (y, x, statistics.double(), *rest), {}, "statistics must be those that"),
        ]
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    selection = "precision or single_pixel or borders or (constant_image and 333)"
    assert_passes_with_capability(capability, __file__, selection)
