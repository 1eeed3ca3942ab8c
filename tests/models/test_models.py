"""The networks against the papers' tables: sizes, parameters, multiply-adds, initialisation."""

import copy
import sys

import pytest
import torch
from torch import nn

import fastconv
from fastconv.models import registry

ALEXNET_MAPS = {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv4": 13}
ALEXNET_MAPS |= {"conv5": 13, "pool5": 6}
ZFNET_MAPS = {"conv1": 110, "pool1": 55, "conv2": 26, "pool2": 13, "conv3": 13, "conv4": 13}
ZFNET_MAPS |= {"conv5": 13, "pool5": 6}

# (name, parameters, multiply-adds in millions, map sizes), at 1000 classes and the native size
IMAGENET = [
    ("alexnet", 60_965_224, 724, ALEXNET_MAPS),
    ("zfnet", 62_357_608, 1168, ZFNET_MAPS),
    ("caffenet", 60_965_224, 724, ALEXNET_MAPS),
    ("zfnet_wide", 107_627_624, 2477, ZFNET_MAPS),
]


@pytest.fixture(scope="module")
def networks():
    """Each network once: drawing 60 million weights takes a second."""
    return {name: fastconv.create_model(name).eval() for name, *_ in IMAGENET}


def trace(model, images):
    """Each stage's output shape, and the multiply-adds of each convolution and linear stage."""
    shapes, macs, handles = {}, {}, []

    def record(name, stage):
        def hook(module, inputs, output):
            shapes[name] = tuple(output.shape[1:])
            if isinstance(module, nn.Conv2d | nn.Linear):
                per_output = module.weight[0].numel()
                macs[name] = output[0].numel() * per_output

        handles.append(stage.register_forward_hook(hook))

    for name, stage in model.named_children():
        record(name, stage)
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return shapes, macs


@pytest.mark.parametrize(("name", "parameters", "mega_macs", "maps"), IMAGENET)
def test_matches_the_papers_table(networks, name, parameters, mega_macs, maps):
    model = networks[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    side = 227 if name == "caffenet" else 224
    shapes, macs = trace(model, torch.zeros(1, 3, side, side))
    for stage, size in maps.items():
        assert shapes[stage][1:] == (size, size), stage
    assert round(sum(macs.values()) / 1e6) == mega_macs
    assert shapes["flatten"] == (512 * 36 if name == "zfnet_wide" else 9216,)
    assert shapes["fc8"] == (1000,) and model.num_classes == 1000
    assert model.input_size == (3, side, side)


def test_alexnets_groups(networks):
    groups = {n: m.groups for n, m in networks["alexnet"].named_children() if hasattr(m, "groups")}
    assert groups == {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 2}


def test_alexnets_initialisation(networks):
    model = networks["alexnet"]
    for name in ("conv1", "conv2", "fc6", "fc7", "fc8"):
        assert getattr(model, name).weight.std().item() == pytest.approx(0.01, rel=0.02), name
    for name in ("conv3", "conv4", "conv5"):
        assert getattr(model, name).weight.std().item() == pytest.approx(0.03, rel=0.02), name
    ones = {n for n, m in model.named_children() if getattr(m, "bias", None) is not None}
    ones = {n for n in ones if (getattr(model, n).bias == 1).all()}
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for name in ("conv1", "conv3", "fc8"):
        assert (getattr(model, name).bias == 0).all()


def test_zfnets_initialisation(networks):
    for name, layer in networks["zfnet"].named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02), name
            assert (layer.bias == 0).all()


def test_he_initialisation_keeps_the_scale():
    torch.manual_seed(0)
    model = fastconv.create_model("digits_convnet")
    assert model.conv2.weight.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert (model.conv2.bias == 0).all()


def test_unknown_init_is_named():
    with pytest.raises(ValueError, match="alexnet: init must be 'paper' or 'he'"):
        fastconv.create_model("alexnet", init="xavier")


def test_stages_are_the_network(networks):
    """forward is nothing but the children in order: stages can be tapped and sliced by name."""
    model = networks["alexnet"]
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = images
        for stage in model.children():
            x = stage(x)
        assert torch.equal(x, model(images))
    assert list(dict(model.named_children()))[:5] == ["pad1", "conv1", "relu1", "norm1", "pool1"]


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_large_first_maps_exist_for_a_few_images(name, memory_format, fused, monkeypatch):
    model = fastconv.create_model(name, num_classes=5, init="he").eval()
    model = fastconv.fuse(model) if fused else model
    x = torch.randn(5, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=memory_format)
    seen = []
    convolve = fastconv.nn.Conv2d._conv_forward

    def listen(layer, input, *parameters):
        if input.shape[1] == 3:
            seen.append(len(input))
        return convolve(layer, input, *parameters)

    def run(images=x):
        seen.clear()
        return model(images), list(seen)

    monkeypatch.setattr(fastconv.nn.Conv2d, "_conv_forward", listen)
    image_bytes = 96 * (96 * 96 // model.conv1.stride[0] ** 2) * 4
    with torch.no_grad():
        expected, parts = run()
        assert parts == [5]
        for room, parts in ((2 * image_bytes, [2, 2, 1]), (1, [1] * 5)):
            monkeypatch.setattr(sys.modules["fastconv.models._stages"], "_LASTING_BYTES", room)
            output, got = run()
            assert got == parts
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        assert run(x[:0])[0].shape == (0, 5)
        model.conv1.register_forward_hook(lambda *_: None)
        assert run()[1] == [5]
        model.conv1._forward_hooks.clear()
        assert run(x[:3])[1] == [1] * 3
        model.train()
        assert run()[1] == [5]
        model.eval()
    assert run()[1] == [5]  # parameters learn
    model.requires_grad_(False)
    assert run()[1] == [1] * 5
    assert run(x.clone().requires_grad_())[1] == [5]


def test_what_a_stage_gave_stays_as_it_was():
    """No stage writes into its input, or the features tapped before a ReLU would be those after."""
    model = fastconv.create_model("digits_convnet")
    tapped, copies = [], []
    for stage in model.children():
        stage.register_forward_hook(lambda m, i, output: tapped.append(output.detach()))
        stage.register_forward_hook(lambda m, i, output: copies.append(output.detach().clone()))
        stage.register_full_backward_hook(lambda *_: None)  # refuses outputs written into
    model(torch.randn(4, 1, 8, 8, requires_grad=True)).sum().backward()
    assert len(tapped) == len(model)
    for output, copied in zip(tapped, copies, strict=True):
        assert torch.equal(output, copied)


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_imagenets_stages_do_not_write_into_their_input(networks, name):
    for stage, layer in networks[name].named_children():
        assert not getattr(layer, "inplace", False), stage


def test_stages_keep_their_names_in_slices_and_after_deletions():
    model = fastconv.create_model("digits_convnet").eval()
    names = list(model._modules)
    part = model[1:4]
    assert type(part) is nn.Sequential and list(part._modules) == names[1:4]
    assert part[0] is model.relu1 and model[0] is model.conv1
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model[4:](model[:4](x)), model(x))
    del model[2]
    assert list(model._modules) == names[:2] + names[3:]
    del model[-2:]
    assert list(model._modules) == names[:2] + names[3:-2]


@pytest.mark.parametrize(("name", "smallest"), [("alexnet", 64), ("zfnet", 64)])
def test_other_sizes(networks, name, smallest):
    model = networks[name]
    assert model.minimum_size == smallest
    for height, width in ((smallest, smallest), (smallest, 300)):
        with torch.no_grad():
            assert model(torch.zeros(1, 3, height, width)).shape == (1, 1000)
    with pytest.raises(ValueError, match=rf"at least {smallest} pixels .*got {smallest - 1}x64"):
        model(torch.zeros(1, 3, smallest - 1, 64))
    # The limit is the network's own: one pixel less and a pool's window would not fit.
    with pytest.raises(RuntimeError, match="the window must fit into the padded input"):
        x = torch.zeros(1, 3, smallest - 1, smallest - 1)
        for stage in model.children():
            x = stage(x)


def test_the_map_is_not_touched_at_the_native_size(networks):
    fit = networks["alexnet"].fit6
    native = torch.randn(1, 4, 6, 6)
    assert fit(native) is native
    assert fit(torch.randn(1, 4, 3, 9)).shape == (1, 4, 6, 6)


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 1, 224, 224), (1, 224, 224, 3)])
def test_wrong_images_are_named(networks, shape):
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, H, W\) \(got"):
        networks["zfnet"](torch.zeros(shape))


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_num_classes_and_in_chans(name):
    with torch.device("meta"):
        model = fastconv.create_model(name, num_classes=7, in_chans=1)
        assert model.input_size == (1, 224, 224) and model.num_classes == 7
        assert model(torch.empty(1, 1, 224, 224)).shape == (1, 7)


def test_alexnets_own_arguments():
    model = fastconv.create_model("alexnet", num_classes=2, bias=0.1, p=0.25)
    for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        assert (getattr(model, name).bias == 0.1).all(), name
    assert model.drop6.p == model.drop7.p == 0.25


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_initial_weights_say_which_inputs_they_are_made_for(name):
    with torch.device("meta"):
        assert fastconv.create_model(name).input_units == "pixels"
        assert fastconv.create_model(name, init="he").input_units == "std"


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
@pytest.mark.parametrize("autocast", [False, True])
def test_channels_last_and_autocast_flow_through(networks, name, autocast):
    model = networks[name]
    maps = copy.deepcopy(model[: list(model._modules).index("flatten")])
    maps.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 80, 96, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = model[: len(maps)](x.contiguous())
        for stage, layer in maps.named_children():
            x = layer(x)
            assert x.is_contiguous(memory_format=torch.channels_last), stage
            if stage != "pad1":  # all that comes after the first convolution
                assert x.dtype == (torch.bfloat16 if autocast else torch.float32), stage
    tolerance = 0.02 if autocast else 1e-5  # of the largest value: a few bfloat16 roundings
    assert (x - expected).abs().max() <= tolerance * expected.abs().max()


def test_registry_lists_and_names():
    assert {"alexnet", "digits_convnet", "zfnet"} <= set(fastconv.list_models())
    assert fastconv.list_models("zf*") == ["zfnet", "zfnet_wide"]
    with pytest.raises(ValueError, match=r"unknown model 'alexnett'; closest: alexnet"):
        fastconv.create_model("alexnett")
    with pytest.raises(ValueError, match=r"num_classes must be at least 1 \(got num_classes=0\)"):
        fastconv.create_model("alexnet", num_classes=0)
    with pytest.raises(ValueError, match="zfnet has no option 'droput'"):
        fastconv.create_model("zfnet", droput=0.1)


def test_register_model():
    @fastconv.register_model
    def my_own_net(num_classes=10, in_chans=3):
        return nn.Linear(in_chans, num_classes)

    try:
        assert fastconv.create_model("my_own_net", num_classes=4).out_features == 4
        with pytest.raises(ValueError, match="the name must be new"):
            fastconv.register_model(my_own_net)
    finally:
        del registry._MODELS["my_own_net"]
