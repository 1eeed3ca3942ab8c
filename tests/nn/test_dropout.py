"""Dropout in torch's convention (scaled in training) and in that of 2012 (scaled at test)."""

import copy
import math
import pickle

import pytest
import torch
from op_testing import assert_refuses, sample
from torch import nn

from fastconv.nn import Dropout


def test_scaled_in_training_is_torchs():
    x = sample(50, 60)
    for p in (0, 0.3, 1):
        ours, theirs = Dropout(p), nn.Dropout(p)
        torch.manual_seed(0)
        got = ours(x)
        torch.manual_seed(0)
        assert torch.equal(got, theirs(x))
        assert torch.equal(ours.eval()(x), x)
    assert isinstance(Dropout(), nn.Dropout) and repr(Dropout(0.3)) == repr(nn.Dropout(0.3))


def test_scaled_at_test_keeps_or_drops_and_multiplies_in_evaluation():
    """Kept elements are the input's own; their number is binomial, false alarm 1 in 10**6."""
    layer, x = Dropout(0.3, scale="test"), sample(200, 300)
    torch.manual_seed(0)
    y = layer(x)
    kept = y != 0
    assert torch.equal(y, torch.where(kept, x, 0.0))
    n = x.numel()
    assert abs(kept.sum() - 0.7 * n) < 4.9 * math.sqrt(0.3 * 0.7 * n)
    assert torch.equal(layer.eval()(x), x * 0.7)


@pytest.mark.parametrize("scale", ["train", "test"])
def test_evaluation_is_the_mean_of_training(scale):
    """10,000 draws of each element: five standard errors, for 60 elements."""
    layer, x, draws = Dropout(0.4, scale=scale), sample(60), 10_000
    torch.manual_seed(0)
    mean = layer(x.expand(draws, 60)).mean(0)
    factor = 1 / 0.6 if scale == "train" else 1.0
    error = x.abs() * factor * math.sqrt(0.4 * 0.6 / draws)
    assert ((mean - layer.eval()(x)).abs() <= 5 * error).all()


def test_the_conventions_drop_the_same_elements():
    x = sample(40, 50)
    torch.manual_seed(0)
    early = Dropout(0.25)(x)
    torch.manual_seed(0)
    late = Dropout(0.25, scale="test")(x)
    torch.testing.assert_close(early * 0.75, late)


@pytest.mark.parametrize("inplace", [False, True])
def test_gradient(inplace):
    layer = Dropout(0.5, inplace, scale="test")
    x = sample(40, 50).requires_grad_()
    torch.manual_seed(0)
    y = layer(x * 1)
    (y * 3).sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 3.0))
    x.grad = None
    layer.eval()(x * 1).sum().backward()
    assert (x.grad == 0.5).all()


def test_inplace_writes_into_the_input():
    for training in (True, False):
        layer = Dropout(0.5, inplace=True, scale="test").train(training)
        x = sample(4, 5)
        assert layer(x) is x


def test_the_extremes():
    x = sample(30, 40)
    none, everything = Dropout(0, scale="test"), Dropout(1, scale="test")
    for training in (True, False):
        assert torch.equal(none.train(training)(x), x)
        assert not everything.train(training)(x).any()


def test_dtypes_formats_and_copies():
    layer = Dropout(0.3, scale="test")
    assert repr(layer) == "Dropout(p=0.3, inplace=False, scale=test)"
    x = sample(2, 3, 4, 5).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    for twin in (layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        y = twin(x)
        assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    assert layer(torch.empty(0, 3)).shape == (0, 3)


def test_compiles():
    layer, x = Dropout(0.3, scale="test"), sample(4, 5)
    for training in (True, False):
        layer.train(training)
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        torch.manual_seed(0)
        expected = layer(x)
        torch.manual_seed(0)
        assert torch.equal(compiled(x), expected)


def test_wrong_options():
    cases = [
        ({"p": 1.5}, "Dropout: p must be a probability within [0, 1] (got p=1.5)"),
        ({"p": -0.1}, "Dropout: p must be a probability within [0, 1] (got p=-0.1)"),
        ({"p": math.nan}, "Dropout: p must be a probability within [0, 1] (got p=nan)"),
        ({"scale": "both"}, "Dropout: scale must be 'train' or 'test' (got scale='both')"),
    ]
    assert_refuses([(Dropout, (), options, text) for options, text in cases])
