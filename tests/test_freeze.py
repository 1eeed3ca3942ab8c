"""fastconv.freeze: the same results from kept filters, and never from filters of another weight."""

import copy
import io

import pytest
import torch
from op_testing import assert_refuses, assert_within_policy, sample, standard_proofs
from torch import nn
from torch.profiler import profile

import fastconv
from fastconv import nn as fnn

ops = torch.ops.fastconv

# Arguments of a layer, and the height and width of its images.
LAYERS = {
    "3x3": ((40, 72, 3, 1, 1), {}, (13, 13)),
    "5x5 in groups": ((32, 96, 5, 1, 2), {"groups": 2}, (27, 26)),
    "folded": ((24, 40, 5, 2, 0), {}, (23, 22)),
    "one block of columns in many": ((64, 330, 3), {"bias": False}, (6, 9)),
    "many tiles": ((16, 33, 3, 1, (2, 0)), {}, (90, 70)),
}


def prepared_calls(function):
    with profile() as events:
        function()
    return sum(event.name == "fastconv::conv2d_prepared" for event in events.events())


def frozen_and_plain(name, **options):
    torch.manual_seed(0)
    arguments, keywords, size = LAYERS[name]
    plain = fnn.Conv2d(*arguments, **keywords, **options)
    return fastconv.freeze(copy.deepcopy(plain)), plain, size


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_same_as_without(name, batch, threads):
    frozen, plain, size = frozen_and_plain(name, activation="relu", algorithm="fastconv")
    exact_layer = copy.deepcopy(plain).double()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = sample(batch, plain.in_channels, *size, memory_format=memory_format)
            exact_layer.algorithm = "library"
            exact = exact_layer(x.double()).detach()
            peer = nn.Conv2d._conv_forward(plain, x, plain.weight, plain.bias).relu().detach()
            for _ in range(2):
                assert_within_policy(frozen(x), peer, exact)
            assert prepared_calls(lambda x=x: frozen(x)) == 1
    finally:
        torch.set_num_threads(before)


def test_a_changed_weight():
    frozen, plain, size = frozen_and_plain("3x3", algorithm="fastconv")
    x = sample(1, 40, *size)

    def assert_follows():
        with torch.no_grad():
            expected = nn.functional.conv2d(x, frozen.weight, frozen.bias, padding=1)
            torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-4)

    assert_follows()
    with torch.no_grad():
        frozen.weight.mul_(2)
    assert_follows()
    frozen.load_state_dict({k: v + 1 for k, v in plain.state_dict().items()})
    assert_follows()
    frozen.load_state_dict({k: v - 1 for k, v in plain.state_dict().items()}, assign=True)
    assert_follows()
    frozen.weight = nn.Parameter(torch.flip(frozen.weight.detach(), [0]))
    assert_follows()
    frozen.to(memory_format=torch.channels_last)
    assert_follows()
    with torch.inference_mode():
        frozen.weight = nn.Parameter(torch.zeros(72, 40, 3, 3), requires_grad=False)
    assert_follows()


def test_models_keep_their_answers_and_keys():
    torch.manual_seed(0)
    model = fastconv.fuse(fastconv.create_model("alexnet", init="he")).eval()
    frozen = fastconv.freeze(copy.deepcopy(model))
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
    assert list(frozen.state_dict()) == list(model.state_dict())
    assert all(type(m) is not fnn.Conv2d for m in frozen.modules())
    x = sample(1, 3, 224, 224)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-4)
        assert prepared_calls(lambda: frozen(x)) == 5
    assert fastconv.freeze(frozen) is frozen


def test_what_is_kept_is_neither_saved_nor_copied():
    frozen, _, size = frozen_and_plain("3x3", algorithm="fastconv")
    frozen(sample(1, 40, *size))
    assert frozen._kept is not None
    memory = io.BytesIO()
    torch.save(frozen, memory)
    memory.seek(0)
    loaded = torch.load(memory, weights_only=False)
    for copied in (loaded, copy.deepcopy(frozen)):
        assert copied._kept is None and type(copied) is type(frozen)
        torch.testing.assert_close(copied(sample(1, 40, *size)), frozen(sample(1, 40, *size)))
    assert len(memory.getvalue()) < 2 * frozen.weight.numel() * 4


def test_gradients_autocast_dilation_and_compiled_graphs_go_the_usual_way():
    frozen, plain, size = frozen_and_plain("3x3", algorithm="fastconv")
    x = sample(1, 40, *size).requires_grad_()
    (got,) = torch.autograd.grad(frozen(x).sum(), x)
    (expected,) = torch.autograd.grad(plain(x).sum(), x)
    torch.testing.assert_close(got, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert prepared_calls(lambda: frozen(x.detach())) == 0
    compiled = torch.compile(frozen, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x.detach()), plain(x).detach(), rtol=1e-4, atol=1e-4)
    dilated = fastconv.freeze(fnn.Conv2d(8, 8, 3, dilation=2, algorithm="fastconv"))
    assert prepared_calls(lambda: dilated(sample(1, 8, 9, 9))) == 0
    padded = fastconv.freeze(fnn.Conv2d(40, 72, 3, padding=1, padding_mode="reflect"))
    reflected = nn.functional.pad(x.detach(), (1, 1, 1, 1), mode="reflect")
    expected = nn.functional.conv2d(reflected, padded.weight, padded.bias)
    torch.testing.assert_close(padded(x.detach()), expected, rtol=1e-4, atol=1e-4)


def test_nan_stays_where_it_is_seen():
    frozen, _, size = frozen_and_plain("3x3", algorithm="fastconv")
    x = sample(1, 40, *size)
    x[0, 3, 5, 6] = torch.nan
    assert frozen(x).isnan().sum() == 72 * 9


def test_the_ops():
    x, weight, bias = sample(2, 8, 9, 9), sample(40, 4, 3, 3, seed=1), sample(40, seed=2)
    filters = ops.conv2d_filters(weight, [1, 2], 2)
    standard_proofs(ops.conv2d_filters, weight, [1, 2], 2)
    window = [1, 2], [1, 0, 2, 1], 2
    standard_proofs(ops.conv2d_prepared, x, weight, filters, bias, *window, True)
    assert_refuses(
        [
            (ops.conv2d_filters, (weight[0], [1, 1], 2), {}, "conv2d_filters: weight must have 4"),
            (ops.conv2d_filters, (weight, [1, 17], 2), {}, "conv2d_filters: stride must be at mo"),
            (ops.conv2d_filters, (weight, [1, 1], 3), {}, "conv2d_filters: groups must divide"),
            (ops.conv2d_prepared, (x, weight, filters[1:], bias, *window, True), {},
             "conv2d_prepared: filters must be what conv2d_filters makes of the weight"),
            (ops.conv2d_prepared, (x, weight, filters.double(), bias, *window, True), {},
             "conv2d_prepared: filters must be what conv2d_filters makes of the weight"),
        ]
    )  # fmt: skip
