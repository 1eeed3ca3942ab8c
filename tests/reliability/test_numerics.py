"""At the ends of float16's and bfloat16's ranges, compared with float64."""

import pytest
import torch

import fastconv

HALVES = [torch.float16, torch.bfloat16]


def assert_rounds_to(ours, exact, ulps=1.0):
    """``ours`` is the float64 result in its own dtype, give or take ``ulps`` units of each."""
    info = torch.finfo(ours.dtype)
    assert not exact.isnan().any()
    rounded = exact.to(ours.dtype)
    assert torch.equal(ours.isinf(), rounded.isinf()), (ours, exact)
    finite = ~rounded.isinf()
    unit = (info.eps * exact.abs()).clamp_min(info.tiny * info.eps)[finite]
    error = (ours.double() - exact)[finite].abs()
    assert (error <= ulps * unit).all(), ((error / unit).max(), ours, exact)


def maps(dtype, *values, shape=(1, 6, 3, 5)):
    """Maps in which the values take turns, exact in ``dtype``."""
    count = torch.Size(shape).numel()
    return torch.tensor(values, dtype=torch.float64).to(dtype).repeat(count)[:count].view(shape)


def forward_and_grad(op, *tensors, grad=1.0):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    output = op(*leaves)
    grads = torch.autograd.grad(output, leaves, torch.full_like(output, grad))
    return [output.detach(), *grads]


def compare(op, *tensors, grad=1.0, ulps=1.0):
    ours = forward_and_grad(op, *tensors, grad=grad)
    exact = forward_and_grad(op, *(t.double() for t in tensors), grad=grad)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == tensors[0].dtype
        assert_rounds_to(a, b, ulps)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("alpha_mode", ["mean", "sum"])
@pytest.mark.parametrize("region", ["across", "within"])
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
def test_response_norm_of_large_and_tiny_values(dtype, alpha_mode, region, beta):
    def op(x):
        return fastconv.local_response_norm(
            x, 5, alpha=1e-4, beta=beta, k=2.0, alpha_mode=alpha_mode, region=region
        )

    compare(op, maps(dtype, 6e4, -6e4, 6e4, 5e4, 1.0), ulps=4)
    compare(op, maps(dtype, 6e-8, -6e-8, 0.0, 1e-5), ulps=4)
    compare(op, maps(dtype, 6e4, 6e-8, 0.0), ulps=4)


def test_response_norm_as_far_as_its_squares_reach():
    x = maps(torch.bfloat16, 1e18, -3e17, 0.0)
    compare(lambda x: fastconv.local_response_norm(x, 5, 1e-4, 0.75, 2.0), x, ulps=4)
    x = maps(torch.bfloat16, 1e18, 3e17, -1e-3)
    compare(lambda x: fastconv.local_response_norm(x, 5, 1e-4, 0.5, 2.0), x, ulps=4)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("divisor", ["mean", "threshold"])
@pytest.mark.parametrize("across_maps", [True, False])
@pytest.mark.parametrize("value", [0.0, 6e4, 6e-8, -3.0])
@pytest.mark.parametrize("shape", [(1, 3, 7, 6), (2, 1, 1, 1), (1, 4, 1, 9)])
def test_contrast_norm_of_flat_and_single_pixel_images(dtype, divisor, across_maps, value, shape):
    x = torch.full(shape, value, dtype=dtype).requires_grad_()
    y = fastconv.local_contrast_norm(x, 5, across_maps=across_maps, divisor=divisor)
    assert not y.any()
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("across_maps", [True, False])
def test_contrast_norm_of_large_values(dtype, across_maps):
    def op(x):
        return fastconv.local_contrast_norm(x, 3, across_maps=across_maps)

    for values in ((6e4, -6e4, 1e4, 0.0), (6e4, 5.9e4, 5.8e4), (1e-2, 2e-2, -4e-2, 3e-2)):
        x = maps(dtype, *values)
        exact = op(x.double())
        assert_rounds_to(op(x), exact, ulps=4)


def test_contrast_norm_as_far_as_its_squares_reach():
    x = maps(torch.bfloat16, 1e18, -3e17, 0.0, 2e18)
    y = fastconv.local_contrast_norm(x, 3)
    assert_rounds_to(y, fastconv.local_contrast_norm(x.double(), 3), ulps=4)


@pytest.mark.parametrize("dtype", HALVES)
def test_stochastic_pooling_of_denormals(dtype):
    info = torch.finfo(dtype)
    least = info.tiny * info.eps
    x = maps(dtype, least, 0.0, 3 * least, -least, shape=(1, 2, 6, 6))
    torch.manual_seed(0)
    drawn, switches = fastconv.stochastic_pool2d(x, 3, return_switches=True)
    torch.manual_seed(0)
    # Scaled by a power of two, the same windows with the same random numbers.
    ordinary = (x.double() / least).to(dtype)
    again, switches_again = fastconv.stochastic_pool2d(ordinary, 3, return_switches=True)
    assert torch.equal(switches, switches_again)
    assert torch.equal(drawn.double() / least, again.double()) and drawn.any()
    compare(lambda x: fastconv.stochastic_pool2d(x, 3, training=False), x)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("values", [(6e4, 1.0), (6e4, 6e4, 0.0), (5e4, -1.0, 6e-8)])
def test_stochastic_pooling_of_large_values(dtype, values):
    x = maps(dtype, *values, shape=(1, 2, 6, 6))
    compare(lambda x: fastconv.stochastic_pool2d(x, 3, training=False), x, ulps=2)
    drawn = fastconv.stochastic_pool2d(x, 3)
    assert drawn.isfinite().all() and set(drawn.flatten().tolist()) <= set(x.flatten().tolist())


def test_stochastic_pooling_of_what_bfloat16_can_hold():
    x = maps(torch.bfloat16, 3e38, 2e38, 1.0, shape=(1, 2, 6, 6))
    mean = fastconv.stochastic_pool2d(x, 3, training=False)
    assert_rounds_to(mean, fastconv.stochastic_pool2d(x.double(), 3, training=False), ulps=2)
    assert fastconv.stochastic_pool2d(x, 3).isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_average_of_large_values(dtype):
    x = maps(dtype, 6e4, 6e4, 6.4e4, shape=(2, 3, 8, 8))
    for kernel, options in ((3, {}), (2, {"padding": 1}), (8, {}), (3, {"divisor_override": 9})):
        compare(lambda x, k=kernel, o=options: fastconv.avg_pool2d(x, k, 1, **o), x)


def test_average_as_far_as_its_sums_reach():
    for dtype in (torch.bfloat16, torch.float32):
        x = maps(dtype, 8e37, 8e37, -8e37, 8e37, shape=(1, 2, 4, 4))
        for format in (torch.contiguous_format, torch.channels_last):
            y = fastconv.avg_pool2d(x.contiguous(memory_format=format), 2)
            assert_rounds_to(y, fastconv.avg_pool2d(x.double(), 2))


@pytest.mark.parametrize("algorithm", ["fastconv"])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (3, 2), (11, 4)])
@pytest.mark.parametrize("channels", [2, 16])
def test_sums_that_leave_float16_on_the_way(algorithm, kernel, stride, channels):
    # 6e4 + 6e4 - 6e4 - 6e4 + small: every partial sum but the last is beyond float16.
    x = maps(torch.float16, 6e4, 5e4, 6e4, 4e4, shape=(4, channels, 24, 24))
    weight = torch.ones(16, channels, kernel, kernel, dtype=torch.float16)
    weight[:, channels // 2 :] = -1
    weight[:, channels // 2 :, :, 0] = -0.9985

    def op(x, w):
        return fastconv.conv2d(x, w, stride=stride, algorithm=algorithm)

    y, exact = op(x, weight), op(x.double(), weight.double())
    scale = op(x.double(), weight.double().abs()).abs().max()
    representable = exact.abs() < 6.5e4
    assert representable.any() and y[representable].isfinite().all()
    error = (y.double() - exact)[representable].abs().max()
    assert error <= 2**-11 * exact[representable].abs().max() + 2**-20 * scale


def test_results_beyond_the_range_are_infinite():
    x = maps(torch.float16, 6e4, shape=(1, 4, 3, 3))
    assert (fastconv.sum_pool2d(x, 3) == torch.inf).all()
    weight = torch.ones(4, 4, 1, 1, dtype=torch.float16)
    assert (fastconv.conv2d(x, weight, algorithm="fastconv") == torch.inf).all()
    matrix = torch.ones(5, 9, dtype=torch.float16)
    rows = torch.full((2, 9), 6e4, dtype=torch.float16)
    assert (fastconv.drop_connect(rows, matrix, p=0.0) == torch.inf).all()
    kept = fastconv.drop_connect(rows, matrix, p=1e-300)
    assert (kept == torch.inf).all()
