"""The layers against torch.nn's: signatures, state_dict, values and gradients."""

import copy
import pickle

import numpy as np
import pytest
import torch
from op_testing import FORMATS, assert_within_policy, sample
from torch import nn

import fastconv

# (ours, torch's, arguments)
LAYERS = [
    ("Conv2d", (6, 8, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("Conv2d", (6, 8, (3, 5)), {"padding": "same", "dilation": 2, "bias": False}),
    ("Conv2d", (6, 4, 3), {"padding": (1, 2), "padding_mode": "reflect"}),
    ("Conv2d", (6, 4, 3), {"padding": 1, "padding_mode": "circular"}),
    ("Linear", (12, 8), {}),
    ("Linear", (12, 8), {"bias": False}),
    ("MaxPool2d", (3,), {"stride": 2}),
    ("MaxPool2d", ((2, 3),), {"padding": 1, "dilation": 2, "ceil_mode": True}),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False}),
    ("AvgPool2d", ((2, 3),), {"ceil_mode": True, "divisor_override": 5}),
    ("LocalResponseNorm", (5,), {"alpha": 0.1, "k": 2.0}),
]
IDS = [f"{name}-{i}" for i, (name, *_) in enumerate(LAYERS)]


def pair_of_layers(name, arguments, options):
    torch.manual_seed(0)
    theirs = getattr(nn, name)(*arguments, **options)
    ours = getattr(fastconv.nn, name)(*arguments, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def values_and_gradients(layer, x):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = layer(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], weights)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("name", "arguments", "options"), LAYERS, ids=IDS)
def test_values_and_gradients_are_torchs(name, arguments, options, memory_format):
    ours, theirs = pair_of_layers(name, arguments, options)
    x = sample(2, 6, 11, 12, memory_format=memory_format)
    exact = values_and_gradients(copy.deepcopy(theirs).double(), x.double())
    got, peer = values_and_gradients(ours, x), values_and_gradients(theirs, x)
    for a, b, e in zip(got, peer, exact, strict=True):
        assert_within_policy(a, b, e)


@pytest.mark.parametrize(("name", "arguments", "options"), LAYERS, ids=IDS)
def test_is_a_drop_in(name, arguments, options):
    ours, theirs = pair_of_layers(name, arguments, options)
    assert isinstance(ours, type(theirs))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert repr(ours) == repr(theirs)
    assert type(pickle.loads(pickle.dumps(ours))) is type(ours)


def test_meta_device_and_dtype():
    layer = fastconv.nn.Conv2d(3, 4, 3, device="meta", dtype=torch.bfloat16)
    assert layer.weight.is_meta and layer.weight.dtype == torch.bfloat16
    assert layer(torch.empty(1, 3, 8, 8, device="meta", dtype=torch.bfloat16)).shape == (1, 4, 6, 6)


def test_fused_relu():
    layer = fastconv.nn.Conv2d(3, 4, 3, activation="relu")
    plain = fastconv.nn.Conv2d(3, 4, 3)
    plain.load_state_dict(layer.state_dict())
    x = sample(2, 3, 8, 8)
    torch.testing.assert_close(layer(x), plain(x).relu())
    assert "activation=relu" in repr(layer)


def test_numpys_integers_are_integers():
    x, two = sample(2, 6, 8, 8), np.int64(2)
    for ours, theirs in (
        (fastconv.nn.MaxPool2d(two, two), nn.MaxPool2d(2, 2)),
        (
            fastconv.nn.AvgPool2d((two, np.uint8(3)), divisor_override=two),
            nn.AvgPool2d((2, 3), divisor_override=2),
        ),
        (fastconv.nn.LocalResponseNorm(two, k=np.int32(1)), nn.LocalResponseNorm(2)),
    ):
        torch.testing.assert_close(ours(x), theirs(x))
    assert fastconv.nn.Maxout(two)(x).shape == (2, 3, 8, 8)
    assert fastconv.nn.LocalContrastNorm(np.int64(3))(x).shape == x.shape
    convolution = fastconv.nn.Conv2d(6, 4, 3, stride=two, padding=[two, two], groups=two)
    assert convolution(x).shape == (2, 4, 5, 5)


def test_linear_with_options():
    layer = fastconv.nn.Linear(30, 4, activation="relu", algorithm="fastconv")
    x = sample(2, 3, 30)
    expected = nn.functional.linear(x, layer.weight, layer.bias).relu()
    torch.testing.assert_close(layer(x), expected)
    assert "bias=True, activation=relu, algorithm=fastconv" in repr(layer)


def test_a_subclass_with_another_weight_keeps_the_options():
    class Standardised(fastconv.nn.Conv2d):
        def forward(self, input):
            weight = self.weight / self.weight.std()
            return self._conv_forward(input, weight, self.bias)

    layer = Standardised(3, 4, 3, padding=1, padding_mode="reflect", activation="relu")
    x = sample(2, 3, 8, 8)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    weight = layer.weight / layer.weight.std()
    expected = torch.nn.functional.conv2d(padded, weight, layer.bias).relu()
    torch.testing.assert_close(layer(x), expected)


def test_unpool_with_switches_is_the_adjoint():
    pool = sample(1, 2, 9, 9).double()
    pooled, switches = fastconv.max_pool2d_with_switches(pool, 3, 2)
    layer = fastconv.nn.MaxUnpool2d(3, 2)
    back = layer(pooled, switches, output_size=[9, 9])
    torch.testing.assert_close((back * pool).sum(), (pooled * pooled).sum())
    assert layer(pooled, switches).shape == (1, 2, 9, 9)


def test_unpool_with_indices_is_torchs():
    x = sample(1, 2, 8, 8)
    pooled, indices = fastconv.max_pool2d(x, 2, return_indices=True)
    expected = nn.MaxUnpool2d(2)(pooled, indices)
    assert torch.equal(fastconv.nn.MaxUnpool2d(2)(pooled, indices), expected)


def test_norm_options():
    x = sample(1, 8, 5, 5)
    summed = fastconv.nn.LocalResponseNorm(5, alpha=0.1, alpha_mode="sum")
    mean = fastconv.nn.LocalResponseNorm(5, alpha=0.5)
    torch.testing.assert_close(summed(x), mean(x))
    assert "alpha_mode=sum" in repr(summed)
    within = fastconv.nn.LocalResponseNorm(3, region="within")
    assert "region=within" in repr(within) and within(x).shape == x.shape


def test_sum_pool():
    x = sample(2, 3, 8, 9)
    layer = fastconv.nn.SumPool2d(3, 2, 1, ceil_mode=True)
    assert torch.equal(layer(x), fastconv.sum_pool2d(x, 3, 2, 1, True))
    assert repr(layer) == "SumPool2d(kernel_size=3, stride=2, padding=1, ceil_mode=True)"


def test_stochastic_pool_draws_in_training_alone():
    x = sample(2, 3, 8, 9).exp()
    layer = fastconv.nn.StochasticPool2d(3, stride=2)
    torch.manual_seed(0)
    drawn, again = layer(x), layer(x)
    torch.manual_seed(0)
    assert torch.equal(drawn, fastconv.stochastic_pool2d(x, 3, 2)) and not torch.equal(drawn, again)
    mean = layer.eval()(x)
    assert torch.equal(mean, fastconv.stochastic_pool2d(x, 3, 2, training=False))
    assert repr(layer) == "StochasticPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=False)"
    assert fastconv.nn.StochasticPool2d((2, 3)).stride == (2, 3)


def test_maxout():
    x = sample(2, 9, 4, 4)
    layer = fastconv.nn.Maxout(3)
    assert torch.equal(layer(x), fastconv.maxout(x, 3))
    assert torch.equal(fastconv.nn.Maxout(3, stride=2)(x), fastconv.maxout(x, 3, 2))
    assert repr(layer) == "Maxout(pool_size=3, stride=3)"
