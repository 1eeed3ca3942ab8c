"""Occlusion, invariance, top patches, each against a plain computation or captum."""

import numpy as np
import pytest
import torch
from torch import nn

import fastconv
from fastconv import visualize
from fastconv.visualize.invariance import default_values
from fastconv.visualize.top_patches import Spread


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(12), nn.ReLU(), nn.Linear(12, 4),
    ).double().eval()  # fmt: skip


@pytest.fixture(scope="module")
def image(net):
    x = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(1)).double()
    net(x[None])  # LazyLinear takes its shape
    return x


# -- occlusion ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride"), [(5, 5), (6, 4), (7, 3), (20, 1), (2, 1)])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_occlusion_is_captums(net, image, size, stride, fill):
    attr = pytest.importorskip("captum.attr")
    found = visualize.occlusion(net, image, 2, size=size, stride=stride, fill=fill, batch_size=7)
    peer = attr.Occlusion(lambda x: net(x).softmax(1))
    with torch.no_grad():
        expected = peer.attribute(
            image[None], (3, size, size), (3, stride, stride), baselines=fill, target=2
        )
    assert found.per_pixel((20, 20)) == pytest.approx(expected[0, 0].numpy(), abs=1e-6)


def test_occlusion_maps_place_by_place(net, image):
    found = visualize.occlusion(net, image, size=6, stride=5, layer="4", fill=0.25)
    with torch.no_grad():
        maps = net[:5](image[None])[0].sum((1, 2))
        scores = net(image[None]).softmax(1)[0]
    assert found.map == maps.argmax() and found.target == found.whole_best == scores.argmax()
    assert found.whole_activation == pytest.approx(maps.max().item())
    assert found.tops.tolist() == found.lefts.tolist() == [0, 5, 10, 15]
    for i, top in enumerate(found.tops):
        for j, left in enumerate(found.lefts):
            x = image.clone()
            x[:, top : top + 6, left : left + 6] = 0.25
            with torch.no_grad():
                p = net(x[None]).softmax(1)[0]
                a = net[:5](x[None])[0, found.map].sum()
            assert found.probability[i, j] == pytest.approx(p[found.target].item(), abs=1e-6)
            assert found.best[i, j] == p.argmax()
            assert found.activation[i, j] == pytest.approx(a.item(), rel=1e-6)
    found.figure(np.zeros((20, 20, 3), np.uint8), list("abcd"), np.zeros((20, 20, 3), np.uint8))


def test_occlusion_finds_what_a_net_looks_at():
    """A net that sums one corner loses its class when that corner is covered, and else keeps it."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[3].weight.zero_()
        net[3].weight[1].view(8, 8)[:2, :2] = 2
        net[3].bias.copy_(torch.tensor([4.0, 0.0]))
    found = visualize.occlusion(net, torch.ones(1, 8, 8), size=2, stride=2)
    assert found.target == 1
    assert (found.best == np.array([[0, 1, 1, 1]] + [[1] * 4] * 3)).all()


def test_occlusion_wrong_uses(net, image):
    for kwargs, text in (
        ({"size": 21}, "size must fit 20x20 images (got size=21)"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"target": 4}, "target must be from 0 to 3 (got target=4)"),
        ({"layer": "44"}, "the model has no '44'"),
    ):
        with pytest.raises(ValueError) as caught:
            visualize.occlusion(net, image, **kwargs)
        assert text in str(caught.value)


# -- invariance -----------------------------------------------------------------------------------


def test_changes_do_what_they_are_called():
    x = torch.rand(2, 3, 12, 12).double()
    down = visualize.change(x, "translation", 3, fill=0.5)
    torch.testing.assert_close(down[:, :, 3:], x[:, :, :-3])
    torch.testing.assert_close(down[:, :, :3], torch.full_like(down[:, :, :3], 0.5))
    turned = visualize.change(x, "rotation", 90)
    torch.testing.assert_close(turned, torch.rot90(x, 1, (2, 3)))  # counter-clockwise
    for kind, value in (("translation", 0), ("scale", 1), ("rotation", 0)):
        torch.testing.assert_close(visualize.change(x, kind, value), x)
    larger = visualize.change(x, "scale", 2)
    ramp = torch.arange(12.0).double().expand(1, 1, 12, 12)
    ramp2 = visualize.change(ramp, "scale", 2)
    torch.testing.assert_close(
        ramp2[0, 0, 0, 1:] - ramp2[0, 0, 0, :-1], torch.full((11,), 0.5).double()
    )
    assert larger.shape == x.shape
    wide = torch.zeros(1, 1, 9, 21).double()
    wide[0, 0, 4, 13] = 1  # 3 right of the centre; a quarter turn brings it 3 above
    assert visualize.change(wide, "rotation", 90)[0, 0, 1, 10] == pytest.approx(1)
    with pytest.raises(ValueError, match="kind must be one of"):
        visualize.change(x, "shear", 1)
    with pytest.raises(ValueError, match="scale must be above 0"):
        visualize.change(x, "scale", 0)


@pytest.mark.parametrize("kind", ["translation", "scale", "rotation"])
def test_invariance_curves(net, image, kind):
    images = torch.stack([image, image.flip(2)])
    found = visualize.invariance(net, images, [1, 3], kind)
    values = default_values(kind, 20)
    assert np.array_equal(found.values, values)
    assert list(found.distances) == ["1", "7"]
    start = np.flatnonzero(values == {"translation": 0, "scale": 1, "rotation": 0}[kind])[0]
    k = len(values) - 1
    with torch.no_grad():
        moved = visualize.change(images, kind, float(values[k]))
        for layer, part in (("1", net[:2]), ("7", net[:8])):
            gap = (part(moved) - part(images)).flatten(1).norm(dim=1)
            assert found.distances[layer][:, k] == pytest.approx(gap.numpy())
            assert found.distances[layer][:, start] == pytest.approx([0, 0], abs=1e-9)
        p = net(moved).softmax(1)
    assert found.probability[:, k] == pytest.approx([p[0, 1].item(), p[1, 3].item()])
    visualize.invariance_figure([found], ["one", "two"])


def test_invariance_wants_a_target_an_image(net, image):
    with pytest.raises(ValueError, match="a target for each image"):
        visualize.invariance(net, image[None], [1, 2], "scale")


# -- top patches ----------------------------------------------------------------------------------


class Images:
    """Random images; each seventh cannot be read."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(2)
        self.images = torch.randn(count, 3, 20, 20, generator=generator).double()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return None if index % 7 == 3 else (self.images[index], 0)


@pytest.mark.parametrize(("batch_size", "workers"), [(5, 0), (64, 0), (8, 2)])
def test_top_activations_are_those_of_a_sort(net, image, batch_size, workers):
    data = Images(40)
    steps = []
    found = visualize.top_activations(
        net, data, ["1", "7"], top=4, batch_size=batch_size, workers=workers,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps[-1][0] == steps[-1][1] == len(steps)
    readable = torch.tensor([i for i in range(40) if i % 7 != 3])
    with torch.no_grad():
        maps = net[:2](data.images[readable])
        units = net[:8](data.images[readable])
    order = maps.amax((2, 3)).argsort(0, descending=True)[:4].T
    assert np.array_equal(found["1"].indices, readable[order].numpy())
    for m in range(6):
        for k in range(4):
            y, x = found["1"].positions[m, k]
            value = maps[order[m, k], m, y, x]
            assert value == maps[order[m, k], m].max()
            assert found["1"].values[m, k] == pytest.approx(value.item())
    assert found["7"].values == pytest.approx(units.sort(0, descending=True)[0][:4].T.numpy())
    assert (found["7"].positions == 0).all()
    assert found["7"].live().tolist() == np.flatnonzero(units.amax(0).numpy() > 0).tolist()


def test_ties_go_to_the_earlier_image_and_few_images_suffice(net, image):
    class Same(Images):
        def __getitem__(self, index):
            return self.images[0], 0

    found = visualize.top_activations(net, Same(5), ["1"], top=9, batch_size=2)["1"]
    assert found.indices.tolist() == [[0, 1, 2, 3, 4]] * 6
    assert Spread(range(10), 4).indices.tolist() == [0, 2, 5, 7]
    with pytest.raises(ValueError, match="a readable image"):
        visualize.top_activations(net, [None, None], ["1"])
    with pytest.raises(ValueError, match="top must be at least 1"):
        visualize.top_activations(net, Same(5), top=0)


def test_patches_are_projection_and_image_around_the_unit(net, image):
    data = Images(12)
    top = visualize.top_activations(net, data, ["4"], top=3)["4"]
    chosen = data.images[torch.from_numpy(top.indices[2])]
    pixels = chosen.sigmoid()
    deconvnet = visualize.Deconvnet(net)
    found = visualize.patches(deconvnet, "4", 2, top.positions[2], chosen, pixels)
    field = visualize.receptive_field(net, "4", (3, 20, 20))
    assert field.size == (8, 8) and found.projections.shape == found.pixels.shape == (3, 3, 8, 8)
    for k in range(3):
        y, x = (int(v) for v in top.positions[2, k])
        rows, columns = field.window(y, x, (20, 20))
        assert np.array_equal(found.pixels[k], pixels[k][:, rows, columns].numpy())
        whole = deconvnet(chosen[k], "4", 2, at=(y, x)).pixels[0]
        np.testing.assert_allclose(
            found.projections[k], whole[:, rows, columns].numpy(), atol=1e-12
        )
        outside = whole.clone()
        outside[:, rows, columns] = 0
        assert outside.abs().max() == 0  # the unit sees nothing else
    assert found.picture().ndim == 3


def test_memory_holds_no_more_than_a_batch(net, image):
    """However many the images, at most two batches of them are alive."""
    import gc
    import weakref

    alive, most = weakref.WeakSet(), 0

    class Counted(Images):
        def __getitem__(self, index):
            nonlocal most
            x = self.images[index % 4].clone()
            alive.add(x)
            most = max(most, len(alive))
            return x, 0

        def __len__(self):
            return 200

    gc.collect()
    visualize.top_activations(net, Counted(4), ["1", "4"], batch_size=10)
    assert most <= 20


def test_every_model_has_default_layers():
    model = fastconv.create_model("zfnet", num_classes=3)
    assert visualize.main_layers(model) == [f"relu{i}" for i in range(1, 8)] + ["fc8"]
