"""TiledConv2d: shapes, initialisation, and what it makes of its parameters."""

import pickle

import pytest
import torch
from op_testing import FORMATS, assert_refuses, sample
from torch import nn

import fastconv

Layer = fastconv.nn.TiledConv2d


@pytest.mark.parametrize("memory_format", FORMATS)
def test_is_the_op(memory_format):
    layer = Layer(6, 4, (3, 5), (2, 3), stride=(2, 1), padding=(1, 2), groups=2)
    assert layer.weight.shape == (2, 3, 4, 3, 3, 5) and layer.bias.shape == (2, 3, 4)
    x = sample(2, 6, 9, 10, memory_format=memory_format)
    expected = fastconv.tiled_conv2d(x, layer.weight, layer.bias, (2, 1), (1, 2), 2)
    assert torch.equal(layer(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)
    assert torch.equal(layer(x[0].contiguous()), layer(x[:1].contiguous())[0])


def test_one_tile_is_torchs_layer():
    theirs = nn.Conv2d(6, 8, 3, 2, 1, groups=2).double()
    ours = Layer(6, 8, 3, 1, 2, 1, groups=2).double()
    state = {name: value[None, None] for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = sample(2, 6, 11, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_is_initialised_as_torchs_layer():
    torch.manual_seed(0)
    ours, theirs = Layer(8, 64, 5, 3), nn.Conv2d(8, 64, 5)
    for name, peer in theirs.named_parameters():
        mine = getattr(ours, name)
        bound = (8 * 25) ** -0.5
        assert mine.abs().max() <= bound and peer.abs().max() <= bound
        assert mine.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_without_bias():
    layer = Layer(3, 4, 3, 2, bias=False, dtype=torch.float64)
    assert layer.bias is None and list(layer.state_dict()) == ["weight"]
    assert layer.weight.dtype == torch.float64


def test_repr():
    assert repr(Layer(3, 4, 3, (2, 5), padding=1, bias=False)) == (
        "TiledConv2d(3, 4, kernel_size=(3, 3), tile_size=(2, 5), stride=(1, 1), "
        "padding=(1, 1), bias=False)"
    )


def test_wrong_arguments():
    assert_refuses(
        [
            (Layer, (3, 4, 3, 0), {}, "TiledConv2d: tile_size must be at least 1 (got tile_size="),
            (Layer, (3, 4, 0, 2), {}, "TiledConv2d: kernel_size must be at least 1"),
            (Layer, (3, 4, 3, "a"), {}, "TiledConv2d: tile_size must be an int or a pair of ints"),
            (Layer, (3, 4, 3, 2), {"groups": 2}, "TiledConv2d: groups must divide in_channels"),
        ]
    )


def test_learns_what_one_filter_cannot():
    """Even and odd columns want opposite filters: two tiles fit them, one does not."""
    torch.manual_seed(0)
    x = sample(16, 1, 6, 6)
    sign = torch.tensor([1.0, -1.0]).repeat(3)
    losses = {}
    for tiles in (1, (1, 2)):
        layer = Layer(1, 1, 1, tiles)
        optimizer = torch.optim.SGD(layer.parameters(), 0.5)
        for _ in range(100):
            loss = (layer(x) - x * sign).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[tiles] = loss.item()
    assert losses[1] > 0.5 and losses[1, 2] < 1e-6
