"""fastconv.convert: same parameters, same keys, same values and gradients."""

import copy

import pytest
import torch
from op_testing import assert_within_policy, sample
from torch import nn

import fastconv


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(3, 2)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU())

    def forward(self, x):
        pooled, indices = self.pool(x)
        return self.unpool(self.inner(pooled), indices, output_size=x.shape)


class Subclass(nn.Conv2d):
    pass


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=0.1),
        nn.Conv2d(8, 4, 3, padding=1, groups=2, padding_mode="replicate"),
        Block(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 7 * 7, 5),
    )


def values_and_gradients(model, x):
    x = x.detach().clone().requires_grad_()
    output = model(x)
    gradients = torch.autograd.grad(output.square().sum(), [x, *model.parameters()])
    return output.detach(), *gradients


@pytest.mark.parametrize("algorithm", ["auto", "fastconv"])
def test_converted_model_agrees_on_forward_and_all_gradients(algorithm):
    original = network()
    exact_model = copy.deepcopy(original).double()
    converted = fastconv.convert(copy.deepcopy(original))
    for module in converted.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.algorithm = algorithm
    # Through a chain of ops one input's largest errors are luck, ours and torch's: take many.
    inputs = [sample(2, 3, 28, 28, seed=seed) for seed in range(16)]
    runs = [
        [values_and_gradients(model, x.to(dtype)) for x in inputs]
        for model, dtype in (
            (converted, torch.float32),
            (original, torch.float32),
            (exact_model, torch.float64),
        )
    ]
    for tensors in zip(*(zip(*run, strict=True) for run in runs), strict=True):
        assert_within_policy(*map(torch.stack, tensors))


def test_parameters_keys_and_objects_stay():
    model = network()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    modules = list(model.modules())
    assert fastconv.convert(model) is model
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    kinds = {type(m) for m in model.modules()}
    assert not kinds & {nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.MaxUnpool2d, nn.LocalResponseNorm}
    assert {fastconv.nn.Conv2d, fastconv.nn.MaxPool2d, fastconv.nn.LocalResponseNorm} <= kinds


def test_a_layer_alone_shared_layers_and_twice():
    layer = nn.Conv2d(3, 3, 1)
    assert type(fastconv.convert(layer)) is fastconv.nn.Conv2d
    shared = nn.Sequential(layer, layer)
    fastconv.convert(fastconv.convert(shared))
    assert shared[0] is shared[1]


def test_hooks_training_flag_and_buffers_stay():
    model = nn.Sequential(nn.Conv2d(3, 3, 1)).eval()
    model[0].register_buffer("mark", torch.ones(1))
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    fastconv.convert(model)
    model(torch.zeros(1, 3, 2, 2))
    assert seen == [1] and not model[0].training and "0.mark" in model.state_dict()


def test_subclasses_are_left_alone():
    model = nn.Sequential(Subclass(3, 3, 1))
    assert type(fastconv.convert(model)[0]) is Subclass


def test_what_our_ops_refuse_is_left_alone():
    largest = nn.MaxPool2d(16)
    model = nn.Sequential(
        *(nn.Conv2d(2, 2, 3, dtype=torch.complex64), nn.Linear(2, 2, dtype=torch.complex64)),
        *(nn.MaxPool2d((1, 257)), nn.MaxPool2d(17), largest),
    )
    fastconv.convert(model)
    assert [type(m) for m in model[:4]] == [nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.MaxPool2d]
    assert type(largest) is fastconv.nn.MaxPool2d
    assert largest(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 2, 2)


def test_an_optimizer_goes_on_after_conversion():
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    fastconv.convert(model)
    before = model[0].weight.detach().clone()
    model(sample(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_our_own_models_convert_to_themselves(name):
    with torch.device("meta"):
        model = fastconv.create_model(name)
    before = [type(m) for m in model.modules()]
    fastconv.convert(model)
    assert [type(m) for m in model.modules()] == before


@pytest.mark.parametrize("name", ["alexnet", "zfnet", "caffenet"])
def test_fused_models_compute_the_same(name):
    torch.manual_seed(0)
    model = fastconv.create_model(name, num_classes=5, init="he").eval()
    fused = fastconv.fuse(copy.deepcopy(model))
    assert list(fused.state_dict()) == list(model.state_dict())
    assert not any(isinstance(m, nn.ReLU) for m in fused.modules())
    x = sample(2, 3, 112, 112)
    results = []
    for net in (model, fused, fastconv.fuse(fused)):
        output = net(x)
        results.append((output, *torch.autograd.grad(output.square().sum(), net.parameters())))
    for others in zip(*results, strict=True):
        for other in others[1:]:
            torch.testing.assert_close(other, others[0], rtol=1e-5, atol=1e-6)


def test_fuse_joins_normalisation_and_pool():
    norm = {"alpha": 0.3, "beta": 0.6, "k": 1.5}
    for layers in (
        (fastconv.nn.LocalResponseNorm(3, **norm, alpha_mode="sum"), fastconv.nn.MaxPool2d(3, 2)),
        (nn.LocalResponseNorm(4, **norm), nn.MaxPool2d((2, 3), 2, 1, (2, 1), ceil_mode=True)),
    ):
        model = nn.Sequential(*layers)
        fused = fastconv.fuse(copy.deepcopy(model))
        assert type(fused[0]) is nn.Identity and "normalisation=(size=" in repr(fused[1])
        assert fastconv.fuse(copy.deepcopy(fused))[1].normalisation == fused[1].normalisation
        x = sample(2, 7, 9, 8).requires_grad_()
        results = []
        for net in (model, fused):
            y = net(x)
            results.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
        for ours, theirs in zip(*reversed(results), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        three = sample(1, 5, 9, 8)[0]  # to the norm (N, C, L), to the pool (C, H, W)
        torch.testing.assert_close(fused(three), model(three))


def test_fuse_leaves_alone_norms_that_it_must():
    class Pool(nn.MaxPool2d):
        pass

    hooked, hooked_pool = nn.LocalResponseNorm(3), nn.MaxPool2d(2)
    hooked.register_forward_hook(lambda *_: None)
    hooked_pool.register_forward_hook(lambda *_: None)
    norm = fastconv.nn.LocalResponseNorm
    net = nn.Sequential(
        *(norm(3, region="within"), nn.MaxPool2d(2), norm(3), nn.MaxPool2d(2, return_indices=True)),
        *(hooked, nn.MaxPool2d(2), norm(3), hooked_pool, norm(3), Pool(2), norm(3)),
        *(nn.MaxPool2d(17), norm(3), nn.AvgPool2d(2), norm(3)),
    )
    kinds = [type(m) for m in net]
    assert [type(m) for m in fastconv.fuse(net)] == kinds


def test_deconvnet_refuses_fused_norms():
    model = fastconv.fuse(fastconv.create_model("alexnet", num_classes=2))
    x = sample(1, 3, 96, 96)
    with pytest.raises(ValueError, match="the model as it was before fastconv"):
        fastconv.visualize.Deconvnet(model)(x, "pool1")


def test_fuse_leaves_alone_what_it_must():
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    net = nn.Sequential(
        *(nn.ReLU(), fastconv.nn.Conv2d(3, 4, 3), hooked, nn.Conv2d(4, 4, 3), nn.ReLU()),
        *(nn.MaxPool2d(2, return_indices=True),),
    )
    kinds = [type(m) for m in net]
    assert [type(m) for m in fastconv.fuse(net)] == kinds
    assert net[1].activation == "none"


def test_fuse_leaves_alone_what_stands_in_several_places():
    pool, convolution = nn.MaxPool2d(2), fastconv.nn.Conv2d(3, 3, 3, padding=1)
    norm_pool = nn.MaxPool2d(2)
    net = nn.Sequential(
        *(convolution, nn.Tanh(), convolution, nn.ReLU(), nn.Tanh()),
        *(pool, nn.Tanh(), nn.ReLU(), pool),
        *(norm_pool, fastconv.nn.LocalResponseNorm(3), norm_pool),
    )
    x = sample(2, 3, 32, 32)
    expected = net(x)
    assert torch.equal(fastconv.fuse(net)(x), expected)
    assert not any(isinstance(m, nn.Identity) for m in net)


def test_fuse_leaves_alone_what_a_relu_must_not_move_into():
    class Pool(nn.MaxPool2d):
        pass

    hooked, hooked_pool = fastconv.nn.Conv2d(3, 3, 3), nn.MaxPool2d(2)
    hooked.register_forward_hook(lambda *_: None)
    hooked_pool.register_forward_hook(lambda *_: None)
    for net in (
        nn.Sequential(hooked, nn.ReLU()),
        nn.Sequential(nn.ReLU(), hooked_pool),
        nn.Sequential(nn.ReLU(), Pool(2)),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(17)),
    ):
        kinds = [type(m) for m in net]
        assert [type(m) for m in fastconv.fuse(net)] == kinds
    assert hooked.activation == "none"
