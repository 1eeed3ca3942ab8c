"""Dense evaluation against the classifier itself, crop by crop."""

import pytest
import torch
from torch import nn

import fastconv
from fastconv.detection import dense_scores, to_dense
from fastconv.detection.dense import DenseLinear


def valid_net(pool, size):
    """No padding, so that a window sees what a crop of it sees. In float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 4, stride=2), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), pool]
    maps = nn.Sequential(*layers)(torch.zeros(1, 2, size, size))
    inputs = maps[0].numel()
    head = [nn.Flatten(), nn.Linear(inputs, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 4)]
    return nn.Sequential(*layers, *head).double().eval()


def crops(images, dense, size, fine=False):
    """Every window, cut out: (h * w, N, C, ...), in the order of the scores."""
    boxes = dense.windows(size, fine=fine).reshape(-1, 4).tolist()
    return [images[:, :, top:bottom, left:right] for left, top, right, bottom in boxes]


@pytest.mark.parametrize("name", fastconv.list_models())
def test_every_model_gives_the_same_scores_at_its_own_size(name):
    torch.manual_seed(1)
    model = fastconv.create_model(name, num_classes=7).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the papers' small weights give scores near 0
            parameter.mul_(3)
    for module in model.modules():
        if isinstance(module, fastconv.nn.DropConnectLinear):
            module.inference = "mean"
    images = torch.randn(2, *model.input_size)
    dense = to_dense(model)
    assert dense.window == model.input_size[1:] and dense.num_classes == 7
    with torch.no_grad():
        expected = model(images)
        scores = dense(images)
        fine = dense.fine(images)
    assert scores.shape == (2, 7, 1, 1)
    scale = expected.abs().max()
    assert (scores[:, :, 0, 0] - expected).abs().max() < 1e-5 * scale
    assert (fine[:, :, 0, 0] - expected).abs().max() < 1e-5 * scale


@pytest.mark.parametrize(
    ("pool", "size"),  # such that the network uses each pixel of its window
    [(nn.MaxPool2d(2), 22), (nn.MaxPool2d(3, 2), 20), (nn.AvgPool2d(3), 18)],
    ids=["max 2", "max 3, 2", "average 3"],
)
@pytest.mark.parametrize("fine", [False, True])
def test_without_padding_each_score_is_the_crops(pool, size, fine):
    model = valid_net(pool, size)
    dense = to_dense(model, (2, size, size))
    step = pool.stride
    assert dense.stride == (2 * step, 2 * step) and dense.fine_stride == (2, 2)
    images = torch.randn(3, 2, 41, 36, dtype=torch.float64)
    with torch.no_grad():
        scores = dense.fine(images) if fine else dense(images)
        windows = crops(images, dense, scores.shape[2:], fine)
        expected = torch.stack([model(crop) for crop in windows], 2).unflatten(2, scores.shape[2:])
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)
    # No window that fits is missing.
    boxes = dense.windows(scores.shape[2:], fine=fine)
    stride = (dense.fine_stride if fine else dense.stride)[0]
    assert boxes[-1, -1, 2] <= 36 < boxes[-1, -1, 2] + stride
    assert boxes[-1, -1, 3] <= 41 < boxes[-1, -1, 3] + stride


def test_fine_scores_contain_the_coarse_ones():
    model = fastconv.create_model("digits_convnet").eval()
    dense = to_dense(model)
    images = torch.randn(2, 1, 21, 17)
    with torch.no_grad():
        coarse, fine = dense(images), dense.fine(images)
    assert dense.stride == (4, 4) and dense.fine_stride == (2, 2)
    assert torch.equal(fine[:, :, ::2, ::2], coarse)


@pytest.mark.parametrize("size", [3, 5, 1])
def test_fitted_maps_become_part_of_the_kernel(size):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(size), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4 * size * size, 3)).double().eval()
    dense = to_dense(model, (2, 12, 9))  # maps of 10x7
    images = torch.randn(2, 2, 15, 11, dtype=torch.float64)
    with torch.no_grad():
        scores = dense(images)
        expected = [model(crop) for crop in crops(images, dense, scores.shape[2:])]
    assert scores.shape == (2, 3, 4, 3)
    torch.testing.assert_close(scores.flatten(2), torch.stack(expected, 2))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_few_places_and_many_give_the_same(kernel):
    torch.manual_seed(0)
    layer = DenseLinear(4, 5, kernel, dtype=torch.float64)
    images = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        few = layer(images)
        layer.few = 0
        torch.testing.assert_close(few, layer(images), rtol=1e-12, atol=1e-12)


def test_a_network_trained_at_another_size():
    model = fastconv.create_model("digits_convnet").eval()
    images = torch.randn(2, 1, 15, 15)
    dense = to_dense(model, (1, 15, 15))  # maps of 4x4, averaged to 2x2
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[:, :, 0, 0], model(images))


def test_fused_models():
    torch.manual_seed(1)
    for name in ("digits_convnet", "cifar_dropconnect"):
        options = {"regulariser": None} if name == "cifar_dropconnect" else {}
        model = fastconv.create_model(name, **options).eval()
        images = torch.randn(2, *model.input_size)
        with torch.no_grad():
            expected = model(images)
            dense = to_dense(fastconv.fuse(model))
            torch.testing.assert_close(dense(images)[:, :, 0, 0], expected)


def test_memory_is_shared_and_the_model_stays_as_it_was():
    model = fastconv.create_model("digits_convnet").train()
    dense = to_dense(model)
    assert dense.fc3.weight.data_ptr() == model.fc3.weight.data_ptr()
    assert dense.conv1 is model.conv1
    assert isinstance(model.fc3, nn.Linear) and not dense.training


def test_dense_scores_average_what_they_say():
    dense = to_dense(fastconv.create_model("digits_convnet"))
    images = torch.rand(2, 1, 12, 14)
    found = dense_scores(dense, images, sizes=[12, 16], flip=True, fine=True)
    larger = nn.functional.interpolate(images, (16, 19), mode="bilinear", antialias=True)
    with torch.no_grad():
        views = [images, images.flip(3), larger, larger.flip(3)]
        expected = [dense.fine(view).softmax(1).mean((2, 3)) for view in views]
    torch.testing.assert_close(found, torch.stack(expected).mean(0))
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    best = dense_scores(dense, images, reduce="max")
    with torch.no_grad():
        torch.testing.assert_close(best, dense(images).softmax(1).amax((2, 3)))


def test_what_cannot_be_dense_is_named():
    conv = nn.Conv2d(3, 4, 3)
    cases = [
        (nn.Linear(3, 2), "must be an nn.Sequential"),
        (nn.Sequential(conv), "must have a Flatten"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "must have layers on maps"),
        (nn.Sequential(conv, nn.Flatten(), nn.ReLU()), "must have a linear layer"),
        (
            nn.Sequential(conv, nn.Flatten(), nn.BatchNorm1d(144), nn.Linear(144, 2)),
            r"2 \(BatchNorm1d\) has no dense form",
        ),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(8), conv, nn.Flatten(), nn.Linear(144, 2)),
            "0 fits maps to a size",
        ),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=message):
            to_dense(model, (3, 8, 8))
    with pytest.raises(ValueError, match="input_size is needed"):
        to_dense(cases[1][0])
    with pytest.raises(ValueError, match="fc4 draws at inference"):
        to_dense(fastconv.create_model("cifar_dropconnect"))
    dense = to_dense(fastconv.create_model("digits_convnet"))
    with pytest.raises(ValueError, match=r"window's size of 8x8 \(got \(1, 1, 7, 9\)\)"):
        dense(torch.zeros(1, 1, 7, 9))
    with pytest.raises(ValueError, match="sizes must be at least the window's 8 pixels"):
        dense_scores(dense, torch.zeros(1, 1, 9, 9), sizes=[6])
