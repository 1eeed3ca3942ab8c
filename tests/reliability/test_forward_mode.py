"""Forward-mode derivatives are refused by name: torch would take those of our kernels for 0."""

import pytest
import torch

import fastconv

SWITCHES = torch.zeros(2, 4, 3, 3, dtype=torch.uint8)
OPS = {
    "conv2d": lambda x: fastconv.conv2d(x, torch.ones(4, 4, 3, 3), algorithm="fastconv"),
    "tiled_conv2d": lambda x: fastconv.tiled_conv2d(x, torch.ones(2, 2, 4, 4, 3, 3)),
    "max_pool2d": lambda x: fastconv.max_pool2d(x, 2),
    "max_pool2d_with_switches": lambda x: fastconv.max_pool2d_with_switches(x, 2),
    "max_unpool2d": lambda x: fastconv.max_unpool2d(
        x[:, :, :3, :3], SWITCHES, 2, output_size=(6, 6)
    ),
    "avg_pool2d": lambda x: fastconv.avg_pool2d(x, 2),
    "sum_pool2d": lambda x: fastconv.sum_pool2d(x, 2),
    "stochastic_pool2d": lambda x: fastconv.stochastic_pool2d(x, 2),
    "maxout": lambda x: fastconv.maxout(x, 2),
    "local_response_norm": lambda x: fastconv.local_response_norm(x, 3),
    "local_response_norm_max_pool2d": lambda x: fastconv.local_response_norm_max_pool2d(x, 3, 2),
    "local_contrast_norm": lambda x: fastconv.local_contrast_norm(x, 3),
    "linear": lambda x: fastconv.linear(x, torch.ones(5, 6), algorithm="fastconv"),
    "drop_connect": lambda x: fastconv.drop_connect(x[0, 0], torch.ones(5, 6)),
}


@pytest.mark.parametrize("name", OPS)
def test_refused_by_name(name):
    x = torch.rand(2, 4, 6, 6)
    with pytest.raises(NotImplementedError, match="input must have no tangent"):
        torch.func.jvp(OPS[name], (x,), (torch.ones_like(x),))


def test_a_weight_that_has_a_tangent():
    x, weight = torch.rand(2, 4, 6, 6), torch.rand(4, 4, 3, 3)

    def convolved(weight):
        return fastconv.conv2d(x, weight, algorithm="fastconv")

    with pytest.raises(NotImplementedError, match="weight must have no tangent"):
        torch.func.jvp(convolved, (weight,), (torch.ones_like(weight),))
