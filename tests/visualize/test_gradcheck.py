"""gradcheck_layer: right gradients pass, planted mistakes are found and named."""

import math

import pytest
import torch
from torch import nn

import fastconv
from fastconv import nn as fnn


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 7, 7)),
        (fnn.Conv2d(2, 3, 3, activation="relu", algorithm="fastconv"), (2, 2, 7, 7)),
        (fnn.TiledConv2d(2, 3, 3, 2), (1, 2, 7, 7)),
        (fnn.MaxPool2d(3, 2), (1, 2, 9, 9)),
        (fnn.StochasticPool2d(3, 2), (1, 2, 9, 9)),
        (fnn.LocalResponseNorm(3, alpha=0.5), (1, 6, 4, 4)),
        (fnn.LocalContrastNorm(3), (1, 2, 6, 6)),
        (fnn.DropConnectLinear(6, 4), (3, 6)),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Dropout()), (4, 5)),
        (nn.BatchNorm2d(3), (4, 3, 5, 5)),
        (nn.LSTM(3, 4, batch_first=True), (2, 5, 3)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)  # fmt: skip
def test_right_gradients_pass(layer, shape):
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    state = torch.get_rng_state()
    result = fastconv.gradcheck_layer(layer, sample(*shape))
    assert result, f"\n{result}"
    assert len(result.rows) == 1 + len(list(layer.parameters()))
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    assert next(iter(before.values()), torch.empty(0)).dtype == torch.float32
    assert torch.equal(state, torch.get_rng_state())


class Scaled(torch.autograd.Function):
    """Multiplies by a weight; its backward is wrong by a factor where asked."""

    @staticmethod
    def forward(ctx, x, weight, wrong):
        ctx.save_for_backward(x, weight)
        ctx.wrong = wrong
        return x * weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = grad * weight, (grad * x).sum(0)
        if ctx.wrong == "input":
            grad_x = grad_x * 1.001
        elif ctx.wrong == "one element":
            grad_weight = grad_weight.clone()
            grad_weight[2] += 0.01
        elif ctx.wrong == "nan":
            grad_weight = grad_weight * float("nan")
        elif ctx.wrong == "none":
            grad_weight = None
        return grad_x, grad_weight, None


class Layer(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.wrong = wrong

    def forward(self, x):
        return Scaled.apply(x, self.weight, self.wrong)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [("input", "input 0"), ("one element", "weight"), ("nan", "weight"), ("none", "weight")],
)
def test_wrong_gradients_are_named(wrong, name):
    assert fastconv.gradcheck_layer(Layer(""), sample(4, 3))
    result = fastconv.gradcheck_layer(Layer(wrong), sample(4, 3))
    assert not result
    assert [row.name for row in result.rows if not result.is_right(row)] == [name]
    assert f"WRONG  {name}" in str(result)
    if wrong == "one element":
        (row,) = [row for row in result.rows if row.name == "weight"]
        assert row.worst == (2,)
        assert row.backward - row.difference == pytest.approx(0.01, rel=1e-5)


def test_kinks_are_left_out_and_counted():
    x = torch.tensor([[-1.0, 0.0, 0.0, 2.0]])
    result = fastconv.gradcheck_layer(nn.ReLU(), x)
    assert result and result.rows[0].kinks == 2 and result.rows[0].checked == 2
    nothing = fastconv.gradcheck_layer(nn.ReLU(), torch.zeros(3))
    assert not nothing and math.isnan(nothing.rows[0].error)


def test_several_inputs_outputs_and_integers():
    class Pick(nn.Module):
        def forward(self, x, index, y):
            return x[index] * y, (x.sum() * y).exp()

    result = fastconv.gradcheck_layer(Pick(), sample(5), torch.tensor([3, 0]), sample(2), samples=3)
    assert result and [row.name for row in result.rows] == ["input 0", "input 2"]
    assert [row.checked for row in result.rows] == [3, 2]


def test_wrong_uses_are_named():
    for kwargs, text in (
        ({"samples": 0}, "samples must be above 0 (got samples=0)"),
        ({"step": -1}, "step must be above 0"),
        ({"tolerance": 0}, "tolerance must be above 0"),
    ):
        with pytest.raises(ValueError) as caught:
            fastconv.gradcheck_layer(nn.ReLU(), sample(2), **kwargs)
        assert text in str(caught.value)
    with pytest.raises(ValueError, match="a floating point input or parameter"):
        fastconv.gradcheck_layer(nn.Identity(), torch.arange(3))
