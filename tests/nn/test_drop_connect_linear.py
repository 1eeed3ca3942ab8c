"""DropConnectLinear: a torch.nn.Linear that drops weights, and averages over that in evaluation."""

import copy
import pickle

import pytest
import torch
from op_testing import assert_refuses, sample
from torch import nn

import fastconv
from fastconv.nn import DropConnectLinear


def layer_and_input(**options):
    torch.manual_seed(0)
    return DropConnectLinear(60, 5, **options), sample(4, 60)


def test_is_a_drop_in():
    layer, x = layer_and_input()
    linear = nn.Linear(60, 5)
    linear.load_state_dict(layer.state_dict())
    assert isinstance(layer, nn.Linear)
    layer.p = 0
    assert torch.equal(layer(x), linear(x))
    assert DropConnectLinear(60, 5, bias=False).bias is None


@pytest.mark.parametrize("mask_bias", [False, True])
@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_training_is_the_op(mask, mask_bias):
    layer, x = layer_and_input(p=0.3, mask=mask, mask_bias=mask_bias, activation="relu")
    got = layer(x, generator=torch.Generator().manual_seed(1))
    expected = fastconv.drop_connect(
        x,
        layer.weight,
        layer.bias,
        0.3,
        mask=mask,
        mask_bias=mask_bias,
        generator=torch.Generator().manual_seed(1),
    )
    assert torch.equal(got, expected.relu())
    got.sum().backward()
    assert layer.weight.grad.any() and layer.bias.grad.any()


def test_mean_inference():
    layer, x = layer_and_input(p=0.3, activation=torch.tanh)
    expected = (0.7 * x @ layer.weight.t() + layer.bias).tanh()
    torch.testing.assert_close(layer.eval()(x), expected)
    assert torch.equal(layer(x), layer(x))


def test_gaussian_inference_is_the_mean_activation():
    """Against 20,000 forward passes in training mode, whose own error is below 0.01."""
    layer, x = layer_and_input(p=0.5, activation="relu", mask_bias=True)
    layer.inference, layer.samples = "gaussian", 20_000
    with torch.no_grad():
        exact = layer(x.repeat(20_000, 1, 1)).mean(0)
        got = layer.eval()(x)
        layer.inference = "mean"
        naive = layer(x)
    torch.testing.assert_close(got, exact, rtol=0, atol=0.02)
    assert (naive - exact).abs().max() > 0.04  # where the activation bends, the mean is off


def test_gaussian_inference_is_seeded_by_the_caller():
    layer, x = layer_and_input(inference="gaussian", samples=3)
    layer.eval()
    first = layer(x, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, layer(x, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, layer(x, generator=torch.Generator().manual_seed(2)))
    torch.manual_seed(5)
    second = layer(x)
    torch.manual_seed(5)
    assert torch.equal(second, layer(x))


def test_repr_pickle_and_copies():
    layer, x = layer_and_input(mask="batch", mask_bias=True, activation="relu")
    layer.inference = "gaussian"
    assert repr(layer) == (
        "DropConnectLinear(in_features=60, out_features=5, bias=True, p=0.5, mask=batch, "
        "mask_bias=True, activation=relu, inference=gaussian, samples=100)"
    )
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        torch.manual_seed(3)
        expected = layer(x)
        torch.manual_seed(3)
        assert torch.equal(twin(x), expected)


def test_meta_device_and_dtype():
    layer = DropConnectLinear(6, 4, device="meta", dtype=torch.bfloat16)
    x = torch.empty(3, 6, device="meta", dtype=torch.bfloat16)
    for layer.inference in ("mean", "gaussian"):
        for training in (True, False):
            assert layer.train(training)(x).shape == (3, 4)


def test_compiles():
    layer, x = layer_and_input(p=0.3, activation="relu")
    for training in (True, False):
        layer.train(training)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        torch.manual_seed(0)
        expected = layer(x)
        torch.manual_seed(0)
        assert torch.equal(compiled(x), expected)


def test_a_net_with_it_learns():
    """Sixteen random patterns in four classes are learnt by heart, though weights are dropped."""
    torch.manual_seed(0)
    net = nn.Sequential(DropConnectLinear(20, 128, activation="relu"), nn.Linear(128, 4))
    x, y = sample(16, 20), torch.arange(16) % 4
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.eval()
    assert (net(x).argmax(1) == y).all()
    net[0].inference = "gaussian"
    assert (net(x).argmax(1) == y).all()


def test_wrong_options():
    name = "DropConnectLinear"
    cases = [
        ({"activation": "gelu"}, f"{name}: activation must be callable or one of none, relu"),
        ({"inference": "median"}, f"{name}: inference must be 'mean' or 'gaussian' (got inferenc"),
        ({"mask": "row"}, f"{name}: mask must be 'sample' or 'batch' (got mask='row')"),
        ({"p": 2}, f"{name}: p must be a probability within [0, 1] (got p=2)"),
        ({"samples": 0}, f"{name}: samples must be at least 1 (got samples=0)"),
    ]
    assert_refuses([(DropConnectLinear, (6, 4), options, text) for options, text in cases])
