"""The pages' way to a kernel, past the dispatcher's autograd, against ``torch.ops.fastconv``."""

import pytest
import torch
from op_testing import sample
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv

ops = torch.ops.fastconv
POOL = [3, 3], [2, 2], [0, 0], [1, 1], False
CONV = [1, 1], [1, 1, 1, 1], [1, 1], 1, False, True, False

# What a user calls and the op behind it, each of an input and a weight.
WAYS = {
    "max_pool2d": (
        lambda x, w: fastconv.max_pool2d(x, 3, 2) * w.sum(),
        lambda x, w: ops.max_pool2d(x, *POOL)[0] * w.sum(),
    ),
    "conv2d": (
        lambda x, w: fastconv.conv2d(x, w, None, 1, 1, activation="relu", algorithm="fastconv"),
        lambda x, w: ops.conv2d(x, w, None, *CONV),
    ),
}


class Seen(TorchDispatchMode):
    """Remembers the ops that are called, as a tracer would."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def tensors():
    return sample(2, 4, 9, 9), sample(3, 4, 3, 3, seed=1)


@pytest.mark.parametrize("name", WAYS)
def test_same_bits_and_derivatives_of_both_orders(name):
    results = []
    for way in WAYS[name]:
        leaves = [t.requires_grad_() for t in tensors()]
        output = way(*leaves)
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append((output, *first, *second))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", WAYS)
def test_one_learns_and_the_other_does_not(name):
    way = WAYS[name][0]
    for learns in range(2):
        leaves = list(tensors())
        leaves[learns].requires_grad_()
        way(*leaves).sum().backward()
        assert leaves[learns].grad is not None and leaves[1 - learns].grad is None


@pytest.mark.parametrize("name", WAYS)
def test_nothing_is_recorded_where_nothing_learns(name):
    way = WAYS[name][0]
    x, w = tensors()
    assert not way(x, w).requires_grad
    x.requires_grad_()
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert not way(x, w).requires_grad


def plain_gradients(way, x, w):
    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    return torch.autograd.grad(way(*leaves).square().sum(), leaves)


@pytest.mark.parametrize("name", WAYS)
def test_function_transforms(name):
    way = WAYS[name][0]
    x, w = tensors()

    def loss(x, w):
        return way(x, w).square().sum()

    for got, expected in zip(
        torch.func.grad(loss, (0, 1))(x, w), plain_gradients(way, x, w), strict=True
    ):
        assert torch.equal(got, expected)
    twice = torch.func.grad(lambda x: torch.func.grad(loss)(x, w).square().sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf, w), leaf, create_graph=True)
    assert torch.equal(twice, torch.autograd.grad(first.square().sum(), leaf)[0])


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", WAYS)
def test_each_examples_gradient(name):
    way = WAYS[name][0]
    x, w = tensors()

    def gradient(w, image):
        return torch.func.grad(lambda w: way(image[None], w).square().sum())(w)

    each = torch.func.vmap(gradient, (None, 0))(w, x)
    for i in range(len(x)):
        torch.testing.assert_close(each[i], plain_gradients(way, x[i : i + 1], w)[1])


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_tracers_see_the_op(name, learns):
    x, w = tensors()
    with Seen() as seen:
        output = WAYS[name][0](x.requires_grad_(learns), w)
        if learns:
            output.sum().backward()
    assert f"fastconv.{name}.default" in seen.names
    backward = {"max_pool2d": "max_unpool2d", "conv2d": "conv2d_input_grad"}[name]
    assert (f"fastconv.{backward}.default" in seen.names) == learns


@pytest.mark.parametrize("name", WAYS)
def test_fake_tensors(name):
    expected = WAYS[name][0](*tensors())
    with FakeTensorMode() as mode:
        x, w = (mode.from_tensor(t) for t in tensors())
        assert WAYS[name][0](x.requires_grad_(), w).shape == expected.shape


def test_saved_tensor_hooks_see_what_is_kept():
    packed = []
    x, w = tensors()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        WAYS["conv2d"][0](x.requires_grad_(), w.requires_grad_())
    assert {tuple(t.shape) for t in packed} == {(2, 4, 9, 9), (3, 4, 3, 3), (2, 3, 9, 9)}
