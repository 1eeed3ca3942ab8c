"""Pictures, filters, feature maps, receptive fields."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastconv
from fastconv import nn as fnn
from fastconv import visualize
from fastconv.visualize.pictures import enlarge, map_picture


def test_signed_picture_puts_zero_in_the_middle():
    x = torch.tensor([[[-2.0, 0.0, 2.0]]])
    assert visualize.signed_picture(x)[0, :, 0].tolist() == [0, 128, 255]
    assert visualize.signed_picture(x, 4)[0, :, 1].tolist() == [64, 128, 192]
    assert (visualize.signed_picture(torch.zeros(3, 2, 2)) == 128).all()
    spike = torch.full((1, 100, 100), 0.5)
    spike[0, 0, 0] = 100.0  # one pixel of 10,000 does not take the contrast from the others
    assert visualize.signed_picture(spike)[5, 5, 0] == 255


def test_colour_stays_and_other_channel_counts_become_grey():
    red = torch.zeros(3, 1, 1)
    red[0] = 1
    assert visualize.pixel_picture(red)[0, 0].tolist() == [255, 0, 0]
    assert visualize.pixel_picture(torch.ones(5, 1, 1) * 0.5)[0, 0].tolist() == [128] * 3
    with pytest.raises(ValueError, match=r"shape \(C, H, W\) \(got \(2, 2\)\)"):
        visualize.pixel_picture(torch.ones(2, 2))


def test_map_picture_and_nan():
    picture = map_picture(torch.tensor([[-1.0, 1.0], [2.0, float("nan")]]))
    assert picture.tolist() == [[0, 128], [255, 0]]
    assert (map_picture(torch.zeros(2, 2)) == 0).all()


def test_grid_places_each_picture():
    tiles = [np.full((2, 3), i, np.uint8) for i in range(5)]
    whole = visualize.grid(tiles, 3, gap=1)
    assert whole.shape == (5, 11)
    assert whole[0, 4] == 1 and whole[3, 0] == 3 and whole[3, 5] == 4
    assert (whole[3:, 8:] == 255).all() and (whole[2] == 255).all()
    with pytest.raises(ValueError, match="at least one picture"):
        visualize.grid([])
    with pytest.raises(ValueError, match="must have one size"):
        visualize.grid([tiles[0], np.zeros((3, 3), np.uint8)])


def test_enlarge_and_save(tmp_path):
    picture = enlarge(np.arange(6, dtype=np.uint8).reshape(2, 3), 8)
    assert picture.shape == (8, 12) and picture[7, 11] == 5
    visualize.save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), picture)


# -- filters --------------------------------------------------------------------------------------


def grating(cycles, size=48, axis=0):
    """A smooth patch of one spatial frequency, in cycles a pixel."""
    window = torch.hann_window(size)
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(size)) * window
    plane = wave[:, None] * window
    return (plane if axis == 0 else plane.T)[None]


def net_of(filters, stride):
    conv = nn.Conv2d(1, len(filters), filters[0].shape[-1], stride=stride)
    with torch.no_grad():
        conv.weight.copy_(torch.stack(filters))
    return nn.Sequential(nn.ReLU(), conv)


def test_power_beyond_nyquist_of_gratings():
    # The stride of 4 carries up to 1/8 cycles a pixel, in both directions.
    net = net_of([grating(1 / 16), grating(3 / 16), grating(3 / 16, axis=1)], stride=4)
    found = visualize.filter_measures(net)
    assert found.layer == "1" and found.stride == (4, 4) and found.kernel_size == (48, 48)
    assert found.beyond[0] < 0.01 and found.beyond[1] > 0.99
    assert found.beyond[1] == pytest.approx(found.beyond[2])
    # A stride of 2 carries up to 1/4, a stride of 1 everything.
    assert visualize.filter_measures(net_of([grating(3 / 16)], 2)).beyond[0] < 0.01
    assert visualize.filter_measures(net_of([grating(7 / 16)], 1)).beyond[0] == 0


def test_beyond_nyquist_by_subsampling_noise():
    """The share is the part of filtered white noise that a perfect low-pass would remove."""
    torch.manual_seed(0)
    filters = [torch.randn(1, 5, 5) for _ in range(3)]
    noise = torch.randn(1, 1, 256, 256)
    net = net_of(filters, 2)
    share = visualize.filter_measures(net).beyond
    maps = torch.nn.functional.conv2d(noise, torch.stack(filters))[0, :, :250, :250]
    power = torch.fft.fft2(maps).abs() ** 2
    frequency = torch.fft.fftfreq(250).abs() > 0.25
    outside = frequency[:, None] | frequency
    expected = (power * outside).sum((1, 2)) / power.sum((1, 2))
    assert share == pytest.approx(expected.numpy(), abs=0.02)


def test_dead_filters_are_counted():
    net = net_of([torch.randn(1, 3, 3) for _ in range(9)] + [torch.zeros(1, 3, 3)], 1)
    found = visualize.filter_measures(net)
    assert found.dead.tolist() == [False] * 9 + [True] and found.dead_share == 0.1
    assert found.rms[0] == pytest.approx(net[1].weight[0].square().mean().sqrt().item())
    found.figure()


def test_noise_is_told_from_structure():
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(20, 1, 15, 15), 5, 1)
    for filters, is_noisy in ((list(torch.randn(20, 1, 11, 11)), True), (list(smooth), False)):
        found = visualize.filter_measures(net_of(filters, 4))
        assert (found.noisy_share > 0.9) == is_noisy
        assert (found.beyond_all > 0.9) == is_noisy
        assert found.beyond_noise == 1 - 1 / 16
    checks = (-1) ** torch.arange(36.0).view(6, 6) * (-1) ** torch.arange(6.0)[:, None]
    found = visualize.filter_measures(net_of([torch.ones(1, 6, 6), checks[None]], 1))
    assert found.smoothness == pytest.approx([1, -1])


def test_filters_picture_scales_each_or_all():
    filters = torch.stack([torch.full((3, 2, 2), 1.0), torch.full((3, 2, 2), 0.5)])
    each = visualize.filters_picture(filters, columns=2, side=2)
    both = visualize.filters_picture(filters, columns=2, side=2, scale="all")
    assert each[0, 0, 0] == each[0, 5, 0] == 255
    assert both[0, 0, 0] == 255 and both[0, 5, 0] == 192
    with pytest.raises(ValueError, match="scale must be 'each' or 'all'"):
        visualize.filters_picture(filters, scale="none")
    tiled = nn.Sequential(fnn.TiledConv2d(1, 4, 3, 2))
    assert visualize.first_layer_filters(tiled).shape == (16, 1, 3, 3)
    with pytest.raises(ValueError, match="must have a convolution"):
        visualize.first_layer_filters(nn.Sequential(nn.Linear(2, 2)))


# -- feature maps ---------------------------------------------------------------------------------


def test_feature_maps_are_the_layers_outputs():
    torch.manual_seed(0)
    net = fastconv.create_model("digits_convnet").eval()
    x = torch.randn(1, 8, 8)
    found = visualize.feature_maps(net, x)
    assert list(found)[:4] == ["conv1", "relu1", "norm1", "pool1"]
    assert "drop3" not in found and "flatten" not in found
    with torch.no_grad():
        assert torch.equal(found["pool1"], net[:4](x[None])[0])
        assert torch.equal(found["fc4"], net(x[None])[0])
    picture = visualize.maps_picture(found["relu1"])
    assert picture.dtype == np.uint8 and picture.max() == 255
    assert visualize.maps_picture(found["fc4"].relu()).ndim == 2
    with pytest.raises(ValueError, match=r"image must have shape \(C, H, W\)"):
        visualize.feature_maps(net, x[None])


def test_maps_are_recorded_before_a_layer_writes_over_them():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    found = visualize.feature_maps(net, torch.randn(1, 6, 6))
    assert found["0"].min() < 0 and torch.equal(found["0"].relu(), found["1"])


# -- receptive fields -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [("alexnet", "relu1", 11), ("alexnet", "relu2", 51), ("alexnet", "relu5", 163),
     ("zfnet", "relu1", 7), ("zfnet", "pool1", 11), ("zfnet", "relu5", 139)],
)  # fmt: skip
def test_receptive_fields_of_the_models(name, layer, size):
    net = fastconv.create_model(name, num_classes=2)
    field = visualize.receptive_field(net, layer, net.input_size)
    assert field.size == (size, size) and not field.whole
    assert visualize.receptive_field(net, "fc6", net.input_size).whole


def test_receptive_field_is_where_gradients_arrive():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, (3, 5), stride=2, padding=1),
        nn.AvgPool2d(2, stride=1),
        nn.Tanh(),
        nn.Conv2d(2, 2, 3, dilation=2, padding=2),
        fnn.LocalContrastNorm(3, divisor="threshold"),
    ).double()
    x = torch.randn(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
    field = visualize.receptive_field(net, "4", (1, 64, 64))
    net(x)[0, :, 15, 14].sum().backward()
    seen = x.grad[0, 0] != 0
    rows, columns = (torch.nonzero(seen.any(d)).flatten() for d in (1, 0))
    assert field.window(15, 14, (64, 64)) == (
        slice(rows[0].item(), rows[-1].item() + 1),
        slice(columns[0].item(), columns[-1].item() + 1),
    )


def test_windows_at_the_border_are_moved_inside():
    net = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2))
    field = visualize.receptive_field(net, "0", (1, 9, 9))
    assert field.window(0, 8, (9, 9)) == (slice(0, 5), slice(4, 9))
    assert field.window(4, 4, (9, 9)) == (slice(2, 7), slice(2, 7))
