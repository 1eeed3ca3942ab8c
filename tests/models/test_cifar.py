"""The two regularisation papers' small networks: sizes, parameters, options, both modes."""

import pytest
import torch
from torch import nn

import fastconv

# (name, parameters, map sizes, (C, H, W))
NETWORKS = [
    (
        "cifar_stochastic_pooling",
        220_042,
        {"conv1": 32, "pool1": 16, "conv2": 16, "pool2": 8, "conv3": 8, "pool3": 4, "fit4": 4},
        (3, 32, 32),
    ),
    (
        "cifar_dropconnect",
        145_578,
        {"conv1": 32, "pool1": 16, "conv2": 16, "pool2": 8, "conv3": 8, "pool3": 4, "fit4": 4},
        (3, 32, 32),
    ),
    (
        "mnist_dropconnect",
        207_356,
        {"conv1": 24, "pool1": 12, "conv2": 8, "pool2": 4, "fit3": 4},
        (1, 28, 28),
    ),
]
NAMES = [name for name, *_ in NETWORKS]
WITH_REGULARISER = ["cifar_dropconnect", "mnist_dropconnect"]


def images(model, count=2):
    shape = (count, *model.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "parameters", "maps", "input_size"), NETWORKS)
def test_sizes_and_parameters(name, parameters, maps, input_size):
    model = fastconv.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.input_size == input_size and model.num_classes == 10
    x = torch.zeros(2, *input_size)
    for stage, layer in model.named_children():
        x = layer(x)
        if stage in maps:
            assert x.shape[2:] == (maps[stage], maps[stage]), stage
        if stage == "flatten":
            assert x.shape == (2, 1024)
    assert x.shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("cifar_stochastic_pooling", {"pooling": p}) for p in ("max", "avg", "stochastic")),
        *((n, {"regulariser": r}) for n in WITH_REGULARISER for r in (None, "dropout")),
        *((n, {"regulariser": "dropconnect"}) for n in WITH_REGULARISER),
    ],
)
def test_random_in_training_where_it_should_be(name, options):
    """Gradients reach every parameter; two passes differ exactly where something is drawn."""
    torch.manual_seed(0)
    model = fastconv.create_model(name, **options)
    x = images(model)
    first, second = model(x), model(x)
    is_random = bool({"stochastic", "dropout", "dropconnect"} & set(options.values()))
    assert torch.equal(first, second) != is_random
    nn.functional.cross_entropy(first, torch.tensor([1, 2])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), key
    model.eval()
    torch.manual_seed(1)
    evaluated = model(x)
    assert torch.equal(evaluated, first) != is_random
    torch.manual_seed(1)
    assert torch.equal(evaluated, model(x))


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_and_the_smallest(name):
    model = fastconv.create_model(name, num_classes=3, in_chans=2).eval()
    smallest = model.minimum_size
    for size in ((smallest, smallest), (smallest, 40)):
        assert model(torch.zeros(1, 2, *size)).shape == (1, 3)
    with pytest.raises(ValueError, match=f"at least {smallest} pixels high and wide"):
        model(torch.zeros(1, 2, smallest - 1, smallest))
    with pytest.raises((RuntimeError, ValueError)):  # the limit is the network's own
        nn.Sequential.forward(model, torch.zeros(1, 2, smallest - 1, smallest - 1))


def test_pooling_is_in_all_three_layers():
    types = {
        "max": fastconv.nn.MaxPool2d,
        "avg": fastconv.nn.AvgPool2d,
        "stochastic": fastconv.nn.StochasticPool2d,
    }
    for pooling, kind in types.items():
        model = fastconv.create_model("cifar_stochastic_pooling", pooling=pooling)
        for pool in (model.pool1, model.pool2, model.pool3):
            assert type(pool) is kind
            assert (pool.kernel_size, pool.stride, pool.ceil_mode) == (3, 2, True)
    norm = model.norm2
    assert (norm.size, norm.alpha, norm.beta, norm.k) == (9, 1e-3, 0.75, 1.0)


def test_dropconnects_pools_are_those_of_80sec():
    model = fastconv.create_model("cifar_dropconnect")
    kinds = [type(pool).__name__ for pool in (model.pool1, model.pool2, model.pool3)]
    assert kinds == ["MaxPool2d", "AvgPool2d", "AvgPool2d"]


@pytest.mark.parametrize(("name", "number"), [("cifar_dropconnect", 4), ("mnist_dropconnect", 3)])
def test_regularisers_are_the_papers(name, number):
    def stages(regulariser):
        model = fastconv.create_model(name, regulariser=regulariser, p=0.25)
        return dict(model.named_children())

    plain, dropout = stages(None), stages("dropout")
    assert plain.keys() ^ dropout.keys() == {f"drop{number}"}
    drop = dropout[f"drop{number}"]
    assert type(drop) is fastconv.nn.Dropout and (drop.p, drop.scale) == (0.25, "test")
    layer = stages("dropconnect")[f"fc{number}"]
    assert type(layer) is fastconv.nn.DropConnectLinear
    assert (layer.p, layer.mask, layer.mask_bias) == (0.25, "sample", True)
    assert (layer.activation, layer.inference) == ("relu", "gaussian")


def test_without_drops_all_regularisers_are_one_network():
    """At p = 0 the three variants share weights, values and gradients."""
    outputs = []
    for regulariser in (None, "dropout", "dropconnect"):
        torch.manual_seed(0)
        model = fastconv.create_model("cifar_dropconnect", regulariser=regulariser, p=0)
        outputs.append(model(images(model)))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cifar_stochastic_pooling",
            {"pooling": "sum"},
            r"cifar_stochastic_pooling: pooling must be 'max', 'avg' or 'stochastic' "
            r"\(got pooling='sum'\)",
        ),
        *(
            (
                name,
                {"regulariser": "dropblock"},
                rf"{name}: regulariser must be None, 'dropout' or 'dropconnect' "
                r"\(got regulariser='dropblock'\)",
            )
            for name in WITH_REGULARISER
        ),
        *(
            (name, {"p": 1.5, **more}, rf"{name}: p must be a probability within \[0, 1\] \(got p=")
            for name in WITH_REGULARISER
            for more in ({}, {"regulariser": None}, {"regulariser": "dropout"})
        ),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        fastconv.create_model(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_and_autocast_flow_through(name):
    torch.manual_seed(0)
    model = fastconv.create_model(name).eval().to(memory_format=torch.channels_last)
    x = images(model).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = model(x.contiguous())
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(1)
            got = model(x)
    assert got.dtype == torch.bfloat16
    # A few roundings to eight bits, and draws of the mean activation that see rounded moments.
    assert (got - expected).abs().max() <= 0.05 * expected.abs().max()
