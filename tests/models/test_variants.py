"""The readings and options of the ImageNet networks, against nets written out in torch alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import nn as fnn


def images(side=96, count=2):
    return 50 * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def count(model):
    return sum(p.numel() for p in model.parameters())


def on_meta(name="alexnet", **options):
    with torch.device("meta"):
        return fastconv.create_model(name, **options)


class TorchvisionAlexNet(nn.Module):
    """The net of torchvision.models.alexnet, written down from its documentation."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(p=0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(p=0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 1000),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def test_alexnet_owt_takes_torchvisions_weights():
    torch.manual_seed(0)
    theirs, ours = TorchvisionAlexNet().eval(), fastconv.create_model("alexnet_owt").eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert count(ours) == 61_100_840
    for side in (224, 150):
        x = images(side) / 50
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_alexnet_owt_says_its_smallest_image():
    model = fastconv.create_model("alexnet_owt", num_classes=2).eval()
    assert model(torch.zeros(1, 3, 63, 63)).shape == (1, 2)
    with pytest.raises(ValueError, match="at least 63 pixels"):
        model(torch.zeros(1, 3, 62, 63))
    with pytest.raises(RuntimeError, match="fit into the padded input"):
        model.features(torch.zeros(1, 3, 62, 63))


def within(x, alpha=1e-3, beta=0.75):
    """Response normalisation over 5x5 places: zeros around, always divided by 25."""
    return x / (1 + alpha * F.avg_pool2d(x * x, 5, stride=1, padding=2)) ** beta


def by_hand(model, x, variant):
    """The readings of AlexNet, line by line, in torch's functions."""

    def conv(number, x, **window):
        layer = model.get_submodule(f"conv{number}")
        return F.conv2d(x, layer.weight, layer.bias, **window)

    def pool(x):
        return F.max_pool2d(x, 3, 2)

    def across(x, factor=1, k=2.0):
        return F.local_response_norm(x, 5, alpha=factor * 1e-4, beta=0.75, k=k)

    if variant != "caffe":
        side = x.shape[-1]
        more = -(-(side - 11) // 4) * 4 + 11 - side  # the original counts a partial window
        x = F.pad(x, (0, more, 0, more))
    x = conv(1, x, stride=4)
    if variant == "paper":
        x = pool(across(x.relu(), factor=5))  # torch divides alpha by 5
        x = pool(across(conv(2, x, padding=2, groups=2).relu(), factor=5))
    elif variant == "code":
        x = pool(across(x)).relu()
        x = pool(within(across(conv(2, x, padding=2, groups=2).relu())))
    else:
        x = across(pool(x.relu()), k=1.0)
        x = across(pool(conv(2, x, padding=2, groups=2).relu()), k=1.0)
    x = conv(3, x, padding=1).relu()
    x = conv(4, x, padding=1, groups=2).relu()
    x = pool(conv(5, x, padding=1, groups=2).relu())
    x = F.adaptive_avg_pool2d(x, 6).flatten(1)
    return model.fc8(model.fc7(model.fc6(x).relu()).relu())


@pytest.mark.parametrize(
    ("name", "options", "variant"),
    [
        ("alexnet", {}, "paper"),
        ("alexnet", {"variant": "code"}, "code"),
        ("caffenet", {}, "caffe"),
    ],
)
def test_readings_of_alexnet(name, options, variant):
    torch.manual_seed(0)
    model = fastconv.create_model(name, num_classes=7, init="he", **options).double().eval()
    x = images().double()
    with torch.no_grad():
        got, expected = model(x), by_hand(model, x, variant)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        for other in {"paper", "code", "caffe"} - {variant}:
            assert not torch.allclose(got, by_hand(model, x, other), rtol=1e-3)


def test_the_codes_initial_biases():
    """initB of the configuration: 1 in conv2, conv4, conv5 and the hidden layers, else 0."""
    model = fastconv.create_model("alexnet", variant="code", num_classes=2)
    biases = {n: m.bias.unique().tolist() for n, m in model.named_children() if hasattr(m, "bias")}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert biases == {n: [1.0 if n in ones else 0.0] for n in biases} and len(biases) == 8


def test_caffenets_initialisation():
    model = fastconv.create_model("caffenet", num_classes=2)
    for name, std in (("conv1", 0.01), ("conv4", 0.01), ("fc6", 0.005), ("fc7", 0.005)):
        assert getattr(model, name).weight.std().item() == pytest.approx(std, rel=0.02), name
    assert model.input_size == (3, 227, 227) and model.minimum_size == 67
    with pytest.raises(RuntimeError, match="fit into the padded input"):
        x = torch.zeros(1, 3, 66, 66)
        for stage in model.children():
            x = stage(x)


# Layer by layer: inputs to a unit, and one for its bias, times units.
CONV3, CONV4, CONV5 = (256 * 9 + 1) * 384, (192 * 9 + 1) * 384, (192 * 9 + 1) * 256
FC6, FC7, FC8 = (9216 + 1) * 4096, (4096 + 1) * 4096, (4096 + 1) * 1000
CONV5_BEHIND_CONV2, FC8_BEHIND_POOL5 = (128 * 9 + 1) * 256, (9216 + 1) * 1000
WHOLE = 60_965_224


@pytest.mark.parametrize(
    ("dropped", "parameters", "tutorial"),
    [
        ((7,), WHOLE - FC7, -16e6),
        ((6,), WHOLE - FC6 - FC7 + FC6, None),
        ((6, 7), WHOLE - FC6 - FC7 - FC8 + FC8_BEHIND_POOL5, -50e6),
        ((3, 4), WHOLE - CONV3 - CONV4 - CONV5 + CONV5_BEHIND_CONV2, -1e6),
        (
            (3, 4, 6, 7),
            WHOLE - CONV3 - CONV4 - CONV5 + CONV5_BEHIND_CONV2 - FC6 - FC7 - FC8 + FC8_BEHIND_POOL5,
            None,
        ),
    ],
)
def test_parameters_of_the_ablations(dropped, parameters, tutorial):
    model = on_meta(drop_layers=dropped)
    assert count(model) == parameters
    if tutorial:  # it gives round numbers
        assert abs((parameters - WHOLE) - tutorial) < 1e6
    names = dict(model.named_children())
    for number in dropped:
        kind = "fc" if number > 5 else "conv"
        assert {f"{kind}{number}", f"relu{number}", f"drop{number}"}.isdisjoint(names)
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_ablations_in_plain_numbers():
    options = ((), (7,), (6, 7), (3, 4), (3, 4, 6, 7))
    assert [count(on_meta(drop_layers=o)) for o in options] == [
        60_965_224, 44_183_912, 11_551_080, 59_268_712, 9_854_568,
    ]  # fmt: skip
    assert count(on_meta("zfnet", drop_layers=(3, 4))) < count(on_meta("zfnet"))


def test_the_last_pool_stays_without_conv5():
    model = on_meta("zfnet", drop_layers=(5,))
    assert "pool5" in dict(model.named_children())
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def kinds(model):
    return {name: type(stage) for name, stage in model.named_children()}


def test_regularisers():
    found = kinds(on_meta(regulariser="dropconnect"))
    assert found["fc6"] is found["fc7"] is fnn.DropConnectLinear
    assert {"relu6", "drop6", "relu7", "drop7"}.isdisjoint(found)
    model = on_meta("zfnet", regulariser=(None, "dropconnect"), p=(0.5, 0.25))
    found = kinds(model)
    assert found["fc6"] is fnn.Linear and "drop6" not in found and "relu6" in found
    assert found["fc7"] is fnn.DropConnectLinear and model.fc7.p == 0.25
    model = on_meta(dropout_scale="test", p=(0.5, 0.2))
    assert model.drop6.scale == "test" and (model.drop6.p, model.drop7.p) == (0.5, 0.2)
    assert count(on_meta(regulariser="dropconnect")) == WHOLE


def test_poolings_and_norms():
    found = kinds(on_meta("zfnet", pooling="stochastic"))
    assert [found[f"pool{n}"] for n in (1, 2, 5)] == [fnn.StochasticPool2d] * 3
    found = kinds(on_meta(variant="code", norm="contrast"))
    assert found["norm1"] is found["norm2"] is fnn.LocalContrastNorm and "within2" not in found
    found = kinds(on_meta(variant="code", norm=None))
    assert {"norm1", "norm2", "within2"}.isdisjoint(found)


def test_tiled_filters():
    model = fastconv.create_model("alexnet", num_classes=2, tile_size=(1, 2, 1, 2, 3))
    assert [type(getattr(model, f"conv{n}")) for n in range(1, 6)] == [
        fnn.Conv2d, fnn.TiledConv2d, fnn.Conv2d, fnn.TiledConv2d, fnn.TiledConv2d,
    ]  # fmt: skip
    conv2 = (48 * 25 + 1) * 256
    plain = count(on_meta(num_classes=2))
    assert count(model) == plain + 3 * conv2 + 3 * CONV4 + 8 * CONV5
    assert model.conv4.weight.std().item() == pytest.approx(0.03, rel=0.02)
    assert (model.conv4.bias == 1).all() and model.conv4.bias.shape == (2, 2, 384)
    he = fastconv.create_model("alexnet", num_classes=2, tile_size=2, init="he")
    assert he.conv2.weight.std().item() == pytest.approx((2 / (48 * 25)) ** 0.5, rel=0.02)


def test_equal_tiles_are_a_convolution():
    torch.manual_seed(0)
    plain = fastconv.create_model("alexnet", num_classes=3, init="he").eval()
    tiled = fastconv.create_model("alexnet", num_classes=3, init="he", tile_size=2).eval()
    for name, layer in plain.named_children():
        if hasattr(layer, "weight"):
            ours = getattr(tiled, name)
            with torch.no_grad():
                ours.weight.copy_(layer.weight.expand_as(ours.weight))
                ours.bias.copy_(layer.bias.expand_as(ours.bias))
    x = images(80)
    with torch.no_grad():
        torch.testing.assert_close(tiled(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "code", "regulariser": ("dropconnect", "dropout"), "pooling": "stochastic"},
        {"norm": "contrast", "tile_size": (1, 2, 1, 1, 1), "drop_layers": (3, 7)},
        {"regulariser": None, "norm": None, "drop_layers": (3, 4, 6, 7)},
    ],
)
def test_options_learn_together(options):
    """A step of gradient reaches every parameter, and lowers the loss of its batch."""
    torch.manual_seed(0)
    model = fastconv.create_model("alexnet", num_classes=3, init="he", **options)
    x, y = images(67, 4) / 50, torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(2):
        torch.manual_seed(1)  # the same draws
        loss = F.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        length = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        for name, parameter in model.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
            with torch.no_grad():
                parameter -= 0.001 * parameter.grad / length
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "caffe"}, r"variant must be 'paper' or 'code' \(got variant='caffe'\)"),
        (
            {"drop_layers": (1,)},
            r"drop_layers must be .* 3, 4, 5, 6, 7 \(got drop_layers=\(1,\)\)",
        ),
        ({"drop_layers": (7, 7)}, "drop_layers must be distinct"),
        ({"regulariser": "l2"}, "regulariser must be None, 'dropout' or 'dropconnect'"),
        ({"regulariser": ("dropout",) * 3}, "regulariser must be one value or 2 of them"),
        ({"p": 1.5}, r"p must be a probability within \[0, 1\] \(got p=1.5\)"),
        ({"dropout_scale": "both"}, "dropout_scale must be 'train' or 'test'"),
        ({"pooling": "sum"}, "pooling must be 'max', 'avg' or 'stochastic'"),
        ({"norm": "batch"}, "norm must be 'lrn', 'contrast' or None"),
        ({"tile_size": 0}, "tile_size must be at least 1"),
        ({"tile_size": (2, 2)}, "tile_size must be one value or 5 of them"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"alexnet: {message}"):
        on_meta(**options)
