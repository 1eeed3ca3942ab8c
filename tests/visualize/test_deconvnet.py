"""The deconvnet against a step-by-step computation, captum, and definitions."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import nn as fnn
from fastconv.ops.tiled_conv2d import tiled_conv2d_ref
from fastconv.visualize import Deconvnet, features, main_layers


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def mixed_net():
    """fastconv's and torch's layers, a fused ReLU, both norms, overlapping pools."""
    torch.manual_seed(0)
    return nn.Sequential(
        fnn.Conv2d(3, 8, 5, stride=2, padding=1, activation="relu"),
        fnn.LocalResponseNorm(3, alpha=0.5),
        fnn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        fnn.LocalContrastNorm(3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 4 * 4, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    ).double()


def step_by_step(stages, x, top, map, unpool="accumulate"):
    """The paper's way: up through `stages`, then down by the inverse of each, one by one.

    Only with fully connected layers behind a flattened map, in evaluation mode.
    """
    down = []
    for stage in stages:
        below = x
        if isinstance(stage, nn.Conv2d):
            x = F.conv2d(x, stage.weight, stage.bias, stage.stride, stage.padding, 1, stage.groups)
            spare = [
                (size + 2 * p - k) % s
                for size, p, k, s in zip(
                    below.shape[2:], stage.padding, stage.kernel_size, stage.stride, strict=True
                )
            ]
            down.append(
                lambda s, stage=stage, spare=spare: F.conv_transpose2d(
                    s, stage.weight, None, stage.stride, stage.padding, spare, stage.groups
                )
            )
            if getattr(stage, "activation", "none") == "relu":
                x = x.relu()
                down.append(torch.relu)
        elif isinstance(stage, fnn.TiledConv2d):
            window = (None, stage.stride, stage.padding, stage.groups)
            filter = lambda v, w=stage.weight, o=window: tiled_conv2d_ref(v, w, *o)  # noqa: E731
            x = stage(below)
            down.append(lambda s, f=filter, b=below: torch.func.vjp(f, b)[1](s)[0])
        elif isinstance(stage, nn.ReLU):
            x = x.relu()
            down.append(torch.relu)
        elif isinstance(stage, nn.MaxPool2d):
            window = (stage.kernel_size, stage.stride, stage.padding)
            x, switches = fastconv.max_pool2d_with_switches(below, *window, stage.ceil_mode)
            down.append(
                lambda s, w=window, sw=switches, size=below.shape: fastconv.max_unpool2d(
                    s, sw, *w, output_size=size, mode=unpool
                )
            )
        elif isinstance(stage, nn.AvgPool2d):
            window = (stage.kernel_size, stage.stride, stage.padding, stage.ceil_mode)
            pool = lambda v, w=window: F.avg_pool2d(v, *w)  # noqa: E731
            x = pool(below)
            down.append(lambda s, p=pool, b=below: torch.func.vjp(p, b)[1](s)[0])
        elif isinstance(stage, fnn.StochasticPool2d):
            x = stage(below)
            window = (stage.kernel_size, stage.stride, stage.padding)
            _, switches = fastconv.max_pool2d_with_switches(below, *window, stage.ceil_mode)
            down.append(
                lambda s, w=window, sw=switches, size=below.shape: fastconv.max_unpool2d(
                    s, sw, *w, output_size=size
                )
            )
        elif isinstance(stage, fnn.DropConnectLinear):
            keep = 1 - stage.p
            x = (F.linear(x, stage.weight, stage.bias) * keep).relu()
            down += [lambda s, stage=stage, keep=keep: keep * s @ stage.weight, torch.relu]
        elif isinstance(stage, nn.Linear):
            x = F.linear(x, stage.weight, stage.bias)
            down.append(lambda s, stage=stage: s @ stage.weight)
        elif isinstance(stage, nn.Flatten):
            x = x.flatten(1)
            down.append(lambda s, shape=below.shape: s.view(shape))
        elif isinstance(stage, nn.LocalResponseNorm | fnn.LocalContrastNorm):
            x = stage(x)
            down.append(lambda s: s)
        elif type(stage).__name__ == "CeilPad2d":
            x = stage(x)
            down.append(lambda s, h=below.shape[2], w=below.shape[3]: s[:, :, :h, :w])
        elif type(stage).__name__ == "FitMap2d":
            x = F.adaptive_avg_pool2d(below, stage.size)
            if x.shape == below.shape:
                down.append(lambda s: s)
            else:
                pool = lambda v, size=stage.size: F.adaptive_avg_pool2d(v, size)  # noqa: E731
                down.append(lambda s, p=pool, b=below: torch.func.vjp(p, b)[1](s)[0])
        else:
            assert isinstance(stage, nn.Dropout), stage
        if stage is top:
            break
    flat = x[:, map].reshape(len(x), -1)
    start = torch.zeros_like(flat)
    where = flat.argmax(1)
    start[range(len(x)), where] = flat[range(len(x)), where]
    signal = torch.zeros_like(x)
    signal[:, map] = start.view_as(signal[:, map])
    for step in reversed(down):
        signal = step(signal)
    return signal.detach()


@pytest.mark.parametrize("unpool", ["accumulate", "overwrite"])
@pytest.mark.parametrize("layer", [0, 2, 3, 4, 6, 9, 10])
def test_equals_the_way_back_layer_by_layer(layer, unpool):
    net, x = mixed_net(), images(2, 3, 35, 35)
    got = Deconvnet(net, unpool=unpool)(x, str(layer), 3)
    expected = step_by_step(net, x, net[layer], 3, unpool)
    assert unpool == "overwrite" or expected.abs().max() > 0  # a neighbour's 0 may overwrite
    torch.testing.assert_close(got.pixels, expected, rtol=1e-12, atol=1e-14)


HE = {"init": "he"}


@pytest.mark.parametrize(
    ("name", "shape", "kwargs"),
    [
        ("alexnet", (1, 3, 67, 75), HE),
        (
            "alexnet",
            (1, 3, 67, 64),
            {**HE, "variant": "code", "tile_size": (1, 2, 1, 1, 1)},
        ),
        ("alexnet", (1, 3, 67, 64), {**HE, "norm": "contrast", "drop_layers": (3, 4, 7)}),
        ("caffenet", (1, 3, 67, 70), {**HE, "pooling": "stochastic"}),
        ("alexnet_owt", (1, 3, 63, 70), {}),
        ("zfnet", (1, 3, 80, 64), HE),
        ("zfnet_wide", (1, 3, 64, 64), {**HE, "regulariser": "dropconnect"}),
        ("digits_convnet", (3, 1, 8, 8), {}),
        ("cifar_stochastic_pooling", (2, 3, 32, 32), {}),
        ("cifar_dropconnect", (2, 3, 32, 32), {}),
        ("mnist_dropconnect", (2, 1, 28, 28), {}),
    ],
)
def test_on_every_model_of_the_package(name, shape, kwargs):
    assert len(fastconv.list_models()) == 9, "a new model belongs here"
    torch.manual_seed(0)
    net = fastconv.create_model(name, **kwargs).double().eval()
    x = images(*shape)
    for layer in main_layers(net):
        got = Deconvnet(net)(x, layer, 2)
        leaves = [m for m in net.modules() if not list(m.children())]
        expected = step_by_step(leaves, x, net.get_submodule(layer), 2)
        assert got.pixels.shape == x.shape
        torch.testing.assert_close(got.pixels, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("backward", "name"), [
    ("deconvnet", "Deconvolution"), ("guided", "GuidedBackprop"), ("gradient", "Saliency"),
])  # fmt: skip
def test_equals_captum(backward, name):
    attr = pytest.importorskip("captum.attr")
    net, x = mixed_net(), images(2, 3, 35, 35)
    # captum sees ReLU modules only, and none in place.
    plain = nn.Sequential(net[0], nn.ReLU(), *net[1:])
    plain[0].activation = "none"
    plain[5].inplace = False
    peer = getattr(attr, name)(plain)
    options = {"abs": False} if name == "Saliency" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = peer.attribute(x.clone(), target=2, **options)
    got = Deconvnet(plain, backward, norms="gradient")(x, "11", 2, signal="one")
    torch.testing.assert_close(got.pixels, expected.detach(), rtol=1e-10, atol=1e-12)
    fused = Deconvnet(mixed_net(), backward, norms="gradient")(x, "10", 2, signal="one")
    torch.testing.assert_close(fused.pixels, got.pixels, rtol=1e-10, atol=1e-12)


def test_gradient_is_the_gradient():
    net, x = mixed_net(), images(1, 3, 35, 35)
    got = Deconvnet(net, "gradient")(x, "10", 1, signal="one")
    leaf = x.clone().requires_grad_()
    copy.deepcopy(net)(leaf)[0, 1].backward()
    torch.testing.assert_close(got.pixels, leaf.grad)


def test_the_three_ways_differ_by_their_masks():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)).double()
    net = nn.Sequential(nn.Flatten(), *net)
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(4))
        net[1].bias.zero_()
        net[3].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))
    x = torch.tensor([1.0, 1.0, -1.0, -1.0]).double().view(1, 1, 2, 2)
    fused = fastconv.fuse(fastconv.convert(copy.deepcopy(net)))
    assert fused[1].activation == "relu"
    for way_of in (net, fused):
        found = {
            b: Deconvnet(way_of, b)(x, "3", 0, signal="one").pixels.flatten().tolist()
            for b in ("deconvnet", "guided", "gradient")
        }
        assert found == {
            "deconvnet": [1, 0, 1, 0],
            "guided": [1, 0, 0, 0],
            "gradient": [1, -1, 0, 0],
        }


def test_which_map_and_where():
    net, x = mixed_net(), images(3, 3, 35, 35)
    (out,) = features(net, x, ["4"]).values()
    strongest = Deconvnet(net)(x, "4")
    assert strongest.maps.tolist() == out.amax((2, 3)).argmax(1).tolist()
    assert torch.equal(strongest.values, out.amax((1, 2, 3)))
    each = Deconvnet(net)(x, "4", [0, 5, 7])
    for i, m in enumerate([0, 5, 7]):
        y, x_ = each.positions[i].tolist()
        assert out[i, m, y, x_] == each.values[i] == out[i, m].max()
        alone = Deconvnet(net)(x[i], "4", m, at=(y, x_))
        torch.testing.assert_close(alone.pixels[0], each.pixels[i])
    # No rectifier stands between the whole map and a linear layer's pixels, so the parts add up.
    linear = nn.Sequential(net[0])
    whole = Deconvnet(linear, norms="gradient")(x[:1], "0", 2, at="all").pixels
    (maps,) = features(linear, x[:1], ["0"]).values()
    parts = sum(
        Deconvnet(linear)(x[:1], "0", 2, at=(i, j)).pixels
        for i in range(maps.shape[2])
        for j in range(maps.shape[3])
    )
    torch.testing.assert_close(whole, parts)


def test_stochastic_pooling_goes_back_through_its_switches():
    x = images(2, 3, 9, 9).abs()
    net = nn.Sequential(fnn.StochasticPool2d(3, 2))
    sampled = Deconvnet(net, stochastic="sample", generator=torch.Generator().manual_seed(5))
    got = sampled(x, "0", 1, at="all")
    drawn, switches = fastconv.stochastic_pool2d(
        x, 3, 2, return_switches=True, generator=torch.Generator().manual_seed(5)
    )
    keep = torch.zeros_like(drawn)
    keep[:, 1] = drawn[:, 1]
    expected = fastconv.max_unpool2d(keep, switches, 3, 2, output_size=x.shape)
    assert torch.equal(got.pixels, expected)
    likeliest = Deconvnet(net)(x, "0", 1, at=(0, 0))
    assert likeliest.pixels[0, 1].argmax() == x[0, 1].clone()[:3, :3].argmax().div(
        3, rounding_mode="floor"
    ) * 9 + x[0, 1, :3, :3].argmax().remainder(3)
    mean = fastconv.stochastic_pool2d(x, 3, 2, training=False)
    assert torch.equal(likeliest.values, mean[:, 1, 0, 0])


def test_branches_and_a_converted_net():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return x + self.relu(self.conv(x))

    torch.manual_seed(1)
    net = nn.Sequential(Residual(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    x = images(1, 3, 12, 12)
    got = Deconvnet(net)(x, "3", 1)
    y = net[0](x)
    _, switches = fastconv.max_pool2d_with_switches(y, 2)
    (out,) = features(net, x, ["3"]).values()
    start = torch.where(out[:, 1:2] == out[:, 1].max(), out, 0)
    start[:, [0, 2, 3]] = 0
    signal = F.conv_transpose2d(start, net[2].weight)
    signal = fastconv.max_unpool2d(signal, switches, 2, output_size=y.shape)
    through = F.conv_transpose2d(signal.relu(), net[0].conv.weight, padding=1)
    torch.testing.assert_close(got.pixels, (signal + through).detach())
    converted = fastconv.convert(copy.deepcopy(net))
    torch.testing.assert_close(Deconvnet(converted)(x, "3", 1).pixels, got.pixels)


def test_leaves_the_model_as_it_was():
    net = mixed_net().train()
    net[4].eval()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    Deconvnet(net, unpool="overwrite")(images(1, 3, 35, 35), "9")
    with pytest.raises(ValueError, match="layer"):
        Deconvnet(net)(images(1, 3, 35, 35), "nothing")
    with pytest.raises(ValueError, match="channels"):
        Deconvnet(net)(images(1, 4, 35, 35), "9")
    assert net.training and net[0].training and not net[4].training
    assert net[4].inplace and net[0].activation == "relu"
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_works_under_no_grad_and_with_frozen_weights():
    net, x = mixed_net(), images(1, 3, 35, 35)
    expected = Deconvnet(net)(x, "9", 1).pixels
    for p in net.parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(Deconvnet(net)(x, "9", 1).pixels, expected)


def test_wrong_uses_are_named():
    net, x = mixed_net(), images(2, 3, 35, 35)

    class Functional(nn.Module):
        def forward(self, x):
            return F.relu(x)

    hidden = nn.Sequential(nn.Conv2d(3, 4, 3), Functional(), nn.Conv2d(4, 4, 3)).double()
    for call, text in (
        (lambda: Deconvnet(net, "up"), "backward must be 'deconvnet' or 'guided' or 'gradient'"),
        (lambda: Deconvnet(net, unpool="x"), "unpool must be 'accumulate' or 'overwrite'"),
        (lambda: Deconvnet(net, norms="x"), "norms must be"),
        (lambda: Deconvnet(net, stochastic="x"), "stochastic must be"),
        (lambda: Deconvnet(net)(x, "44"), "the model has no '44'; closest: 4"),
        (lambda: Deconvnet(net)(x, "4", 12), "maps must be from 0 to 11 in 4 (got 12)"),
        (lambda: Deconvnet(net)(x, "4", [1, 2, 3]), "one for each of 2 images"),
        (lambda: Deconvnet(net)(x, "4", 0.5), "maps must be an int"),
        (lambda: Deconvnet(net)(x, "4", 0, at="top"), "at must be 'max', 'all' or positions"),
        (lambda: Deconvnet(net)(x, "4", 0, at=(0, 9)), "inside 4's maps of 8x8"),
        (lambda: Deconvnet(net)(x, "4", 0, signal="two"), "signal must be"),
        (lambda: Deconvnet(net)(x[0, 0], "4"), "images must be floating point of shape"),
        (lambda: Deconvnet(net)(x.byte(), "4"), "got torch.uint8"),
        (lambda: Deconvnet(hidden)(x, "2"), "rectifies by a function call"),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert text in str(caught.value)
    Deconvnet(hidden, "gradient")(x, "2")


def test_main_layers():
    assert main_layers(mixed_net()) == ["0", "4", "9", "10"]
    assert main_layers(fastconv.create_model("digits_convnet"))[:3] == ["relu1", "relu2", "relu3"]
    assert main_layers(mixed_net(), (nn.Conv2d,)) == ["0", "4"]
