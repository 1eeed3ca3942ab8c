"""Transforms against numpy and Pillow; folded pipelines against the same steps one by one."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import fastconv
from fastconv.data import recipe
from fastconv.data import transforms as T
from fastconv.data._picture import Parts, Picture

MEAN = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
VALUES = torch.tensor([0.2, 0.05, 0.01])
VECTORS = torch.linalg.qr(torch.rand(3, 3, generator=torch.Generator().manual_seed(2)))[0]
STATISTICS = {
    "mean_image": MEAN,
    "mean_color": MEAN.mean((1, 2)),
    "pca_values": VALUES,
    "pca_vectors": VECTORS,
    "zca_matrix": torch.rand(192, 192, generator=torch.Generator().manual_seed(3)),
}
STATISTICS_OF = {
    3: {**STATISTICS, "std": torch.tensor([0.3])},
    1: {
        "mean_image": MEAN[:1],
        "mean_color": MEAN[:1].mean((1, 2)),
        "pca_values": VALUES[:1],
        "pca_vectors": torch.ones(1, 1),
        "std": torch.tensor([0.3]),
    },
}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def reference(image):
    """Pillow image to (C, H, W) in [0, 1], the obvious way."""
    array = np.asarray(image, dtype=np.float32) / np.float32(255)
    return torch.from_numpy(np.atleast_3d(array).transpose(2, 0, 1).copy())


def test_to_tensor(make_picture):
    image = make_picture()
    assert torch.equal(T.ToTensor()(image), reference(image))
    assert torch.equal(T.ToTensor()(np.asarray(image)), reference(image))
    grey = make_picture(channels=1)
    assert torch.equal(T.ToTensor()(grey), reference(grey))
    assert torch.equal(T.ToTensor()(np.asarray(grey)[:, :, None]), reference(grey))
    values = np.array([[0.25, 7.0]], np.float32)
    assert T.ToTensor()(Image.fromarray(values)).tolist() == [values.tolist()]
    result = T.ToTensor()(image)
    assert result.dtype == torch.float32
    assert result.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize(
    ("size", "expected"), [((60, 40), (48, 32)), ((40, 60), (32, 48)), ((333, 500), (32, 48))]
)
def test_resize_of_the_shortest_side(make_picture, size, expected):
    image = make_picture(size[1], size[0])
    result = T.Resize(32)(image)
    assert result.size == expected
    np.testing.assert_array_equal(
        np.asarray(result), np.asarray(image.resize(expected, Image.Resampling.BILINEAR))
    )


def test_resize_to_height_and_width(make_picture):
    assert T.Resize((10, 20))(make_picture()).size == (20, 10)


def test_center_crop(make_picture):
    image = make_picture(41, 60)
    window = np.asarray(image)[round((41 - 20) / 2) :][:20, 15:45]
    np.testing.assert_array_equal(np.asarray(T.CenterCrop((20, 30))(image)), window)
    tensor = T.CenterCrop((20, 30))(reference(image))
    assert torch.equal(tensor, reference(Image.fromarray(window)))


def test_random_crop_is_a_window_and_reaches_every_place():
    image = np.arange(6 * 7, dtype=np.uint8).reshape(6, 7)
    places = set()
    for seed in range(300):
        window = np.asarray(T.RandomCrop((4, 4))(image, generator(seed)))
        top, left = divmod(int(window[0, 0]), 7)
        np.testing.assert_array_equal(window, image[top : top + 4, left : left + 4])
        places.add((top, left))
    assert places == {(top, left) for top in range(3) for left in range(4)}


def test_random_crop_pads_with_zeros(make_picture):
    image = make_picture(8, 8)
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)))
    whole = T.RandomCrop(12, padding=2)
    np.testing.assert_array_equal(np.asarray(whole(image)), padded)
    assert torch.equal(whole(reference(image)), reference(Image.fromarray(padded)))


def test_random_flip_mirrors_with_probability_p(make_picture):
    image = make_picture()
    mirrored = np.asarray(image)[:, ::-1]
    np.testing.assert_array_equal(np.asarray(T.RandomHorizontalFlip(1)(image)), mirrored)
    np.testing.assert_array_equal(np.asarray(T.RandomHorizontalFlip(0)(image)), np.asarray(image))
    assert torch.equal(T.RandomHorizontalFlip(1)(reference(image)), reference(image).flip(-1))
    flip = T.RandomHorizontalFlip(0.25)
    g = generator(0)
    image = image.crop((0, 0, 2, 1))
    original = np.asarray(image)
    flips = sum(not np.array_equal(np.asarray(flip(image, g)), original) for _ in range(2000))
    # Binomial(2000, 1/4): 5 standard deviations, a false alarm in 1.7 million.
    assert abs(flips - 500) < 5 * math.sqrt(2000 * 0.25 * 0.75)


def test_random_resized_crop_stays_within_scale_and_ratio(make_picture):
    image = make_picture(80, 100)
    step = T.RandomResizedCrop(24, scale=(0.2, 0.5), ratio=(0.5, 2))
    for seed in range(100):
        top, left, height, width = step._window(80, 100, generator(seed))
        assert top + height <= 80 and left + width <= 100 and min(top, left) >= 0
        assert 0.19 < height * width / 8000 < 0.51
        assert 0.48 < width / height < 2.1
        window = image.crop((left, top, left + width, top + height))
        expected = window.resize((24, 24), Image.Resampling.BILINEAR)
        result = step(image, generator(seed))
        np.testing.assert_array_equal(np.asarray(result), np.asarray(expected))


def test_random_resized_crop_falls_back_to_the_largest_centred_window():
    step = T.RandomResizedCrop(8, scale=(1, 1), ratio=(0.5, 1.0))
    assert step._window(10, 100, generator(0)) == (0, 45, 10, 10)
    assert step._window(100, 10, generator(0)) == (40, 0, 20, 10)


def test_grayscale(make_picture):
    image = make_picture()
    np.testing.assert_array_equal(np.asarray(T.Grayscale()(image)), np.asarray(image.convert("L")))
    assert T.Compose([T.Grayscale(), T.ToTensor()])(image).shape == (1, 40, 60)
    digits = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert T.Compose([T.Grayscale(), T.ToTensor()])(digits).unique().tolist() == [0.5]


def test_subtract_mean(make_picture):
    x = reference(make_picture(32, 32))
    assert torch.equal(T.SubtractMean(MEAN)(x), x - MEAN)
    color = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(T.SubtractMean(color)(x), x - color[:, None, None])


def test_normalize(make_picture):
    x = reference(make_picture(32, 32))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    expected = (x - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(T.Normalize(mean, std)(x), expected)
    assert torch.equal(T.Normalize([0.1, 0.2, 0.3], 0.5)(x), (x - mean[:, None, None]) / 0.5)
    assert torch.equal(T.Normalize(0, torch.tensor([0.3]))(x), x / 0.3)


def test_inputs_are_left_as_they_were(make_picture):
    image, tensor = make_picture(32, 32), reference(make_picture(32, 32))
    before, kept = np.array(image), tensor.clone()
    steps = [T.SubtractMean(MEAN), T.PCANoise(VALUES, VECTORS), T.Normalize(0.5, 0.5)]
    T.Compose([T.ToTensor(), *steps])(image)
    T.Compose(steps)(tensor)
    for step in steps:
        step(tensor)
    assert torch.equal(tensor, kept)
    np.testing.assert_array_equal(np.asarray(image), before)


def test_pca_noise_has_the_covariance_of_its_definition():
    noise = T.PCANoise(VALUES, VECTORS, sigma=0.1)
    zero = torch.zeros(3, 1, 1)
    g = generator(0)
    n = 4000
    shifts = torch.stack([noise(zero, g).flatten() for _ in range(n)]).double()
    expected = 0.01 * VECTORS.double() @ torch.diag(VALUES.double()) @ VECTORS.double().T
    # Along each axis shift / (sigma sqrt(value)) is standard normal; n times its mean square is
    # chi-squared with n degrees of freedom, nearly N(n, 2n), and its mean is N(0, 1/n).
    axes = shifts @ VECTORS.double() / (0.1 * VALUES.double().sqrt())
    assert axes.mean(0).abs().max() < 5 / math.sqrt(n)
    assert ((axes**2).mean(0) - 1).abs().max() < 5 * math.sqrt(2 / n)
    torch.testing.assert_close(shifts.T @ shifts / n, expected, rtol=0, atol=2e-4)


def test_pca_noise_shifts_all_pixels_alike_and_not_at_all_with_sigma_0(make_picture):
    x = reference(make_picture(32, 32))
    shift = T.PCANoise(VALUES, VECTORS)(torch.zeros(3, 1, 1), generator(4))
    assert shift.abs().max() > 0
    assert torch.equal(T.PCANoise(VALUES, VECTORS)(x, generator(4)), x + shift)
    assert torch.equal(T.PCANoise(VALUES, VECTORS, sigma=0)(x), x)


PIPELINES = {
    "classic": [
        T.Resize(32),
        T.CenterCrop(32),
        T.ToTensor(),
        T.SubtractMean(MEAN),
        T.RandomCrop(28),
        T.RandomHorizontalFlip(),
        T.PCANoise(VALUES, VECTORS),
        T.Normalize([0.1, 0.2, 0.3], [0.5, 0.25, 0.3]),
    ],
    "mirrored before the mean": [
        T.RandomCrop((36, 40)),
        T.RandomHorizontalFlip(),
        T.RandomCrop((32, 32)),
        T.ToTensor(),
        T.SubtractMean(MEAN),
        T.RandomCrop(20),
        T.RandomHorizontalFlip(),
        T.RandomCrop(17),
    ],
    "resized twice": [
        T.Resize(40),
        T.RandomCrop(40),
        T.RandomHorizontalFlip(),
        T.Resize((64, 64)),
        T.RandomCrop((32, 32)),
        T.ToTensor(),
        T.SubtractMean(MEAN),
    ],
    "resized back to the size it had": [T.Resize(80), T.CenterCrop((40, 60)), T.Resize((20, 30))],
    "padded": [
        T.RandomCrop(32, padding=3),
        T.ToTensor(),
        T.RandomHorizontalFlip(),
        T.SubtractMean(MEAN),
        T.RandomCrop(32, padding=4),
    ],
    "grey": [T.Resize(32), T.Grayscale(), T.RandomCrop(16), T.ToTensor(), T.Normalize(0.5, 0.25)],
    "ten": [
        T.Resize(40),
        T.ToTensor(),
        T.RandomCrop(32),
        T.SubtractMean(MEAN),
        T.RandomTenCrop(28),
    ],
    "contrast": [
        T.Resize(40),
        T.RandomCrop(32),
        T.ToTensor(),
        T.LocalContrast(5),
        T.RandomCrop(28),
    ],
    "whitened": [
        *(T.RandomHorizontalFlip(), T.Resize((8, 8)), T.ToTensor()),
        *(T.Whiten(STATISTICS["zca_matrix"]), T.RandomCrop(6), T.Normalize(0, 2)),
    ],
    "area": [T.RandomHorizontalFlip(), T.RandomResizedCrop(32), T.ToTensor(), T.SubtractMean(MEAN)],
}


def test_ten_crops_are_all_drawn_alike():
    """Corners and centre of a picture whose pixels are all different, mirrored and not."""
    image = torch.arange(9.0 * 11).view(1, 9, 11)
    windows = [image[:, y : y + 5, x : x + 6] for y, x in ((0, 0), (0, 5), (4, 0), (4, 5), (2, 2))]
    windows += [window.flip(2) for window in windows]
    found = [0] * 10
    for seed in range(1000):
        crop = T.RandomTenCrop((5, 6))(image, generator(seed))
        (which,) = [i for i, window in enumerate(windows) if torch.equal(crop, window)]
        found[which] += 1
    # 9 degrees of freedom: chi squared above 33.7 in one of ten thousand.
    assert sum((n - 100) ** 2 / 100 for n in found) < 33.7


def test_whitening_multiplies_by_its_matrix():
    x = torch.randn(3, 4, 5, generator=generator(1))
    matrix = torch.randn(60, 60, generator=generator(2))
    got = T.Whiten(matrix)(x)
    torch.testing.assert_close(got.flatten(), matrix @ x.flatten())


def test_local_contrast_is_the_ops():
    x = torch.randn(3, 12, 15, generator=generator(1))
    for across in (True, False):
        expected = fastconv.local_contrast_norm(x[None], 5, across_maps=across)[0]
        torch.testing.assert_close(T.LocalContrast(5, across)(x), expected)


RECIPES = {
    f"{channels} channels, {'training' if train else 'evaluation'}, {options}": recipe(
        "classic", (channels, 28, 28), STATISTICS_OF[channels], train, **options
    )
    for channels in (1, 3)
    for train in (False, True)
    for options in (
        {"mean": "image"},
        {"mean": "color", "units": "pixels"},
        {"crops": "ten", "pca_noise": 0.0},
    )
}


@pytest.mark.parametrize("kind", ["Pillow", "array", "mirrored array"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_classic_recipe_is_one_pass_and_numpys_bits(make_picture, name, kind, monkeypatch):
    transform, one_pass, passes = RECIPES[name], Parts.prepare, []
    monkeypatch.setattr(Parts, "prepare", lambda parts: passes.append(1) or one_pass(parts))
    for seed in range(10):
        image = make_picture(32, 41, seed)
        if kind != "Pillow":
            image = np.asarray(image)
        if kind == "mirrored array":
            image = image[:, ::-1]
        got = transform(image, generator(seed))
        assert len(passes) == seed + 1
        with monkeypatch.context() as patch:
            patch.setattr(Picture, "parts", lambda picture: None)
            assert torch.equal(got, transform(image, generator(seed)))


@pytest.mark.parametrize("name", PIPELINES)
def test_folding_changes_no_bit(make_picture, name):
    """The sizes are such that Pillow resizes window and whole alike, see the next test."""
    steps = PIPELINES[name]
    for seed in range(40):
        image = make_picture(40, 60, seed)
        folded = T.Compose(steps)(image, generator(seed))
        g = generator(seed)
        for step in steps:
            image = step(image, g)
        if isinstance(image, Image.Image):
            np.testing.assert_array_equal(np.asarray(folded), np.asarray(image))
        else:
            assert torch.equal(folded, image)


def test_the_window_of_a_resize_is_that_of_the_whole_resize(make_picture):
    """Up to rounding: Pillow picks the order of its two passes by size and rounds in between."""
    crop = T.RandomCrop(24)
    differences = []
    for seed in range(200):
        g = generator(1000 + seed)
        height, width = torch.randint(30, 90, (2,), generator=g).tolist()
        image = make_picture(height, width, seed)
        folded = T.Compose([T.Resize(33), crop])(image, generator(seed))
        whole = crop(T.Resize(33)(image), generator(seed))
        differences.append(np.abs(np.asarray(folded).astype(int) - np.asarray(whole)))
    assert np.max(differences) <= 2
    assert np.mean(differences) < 0.05


def test_classic_pipeline_against_numpy(make_picture):
    """The whole of it once more, without any of the package's machinery."""
    image = make_picture(50, 40)
    g = generator(3)
    top, left = (torch.randint(5, (), generator=g).item() for _ in range(2))
    flipped = torch.rand((), generator=g).item() < 0.5
    factors = torch.randn(3, generator=g, dtype=torch.float64).numpy()
    x = np.asarray(image.resize((32, 40), Image.Resampling.BILINEAR))[4:36] / 255.0
    x = (x - MEAN.numpy().transpose(1, 2, 0))[top : top + 28, left : left + 28]
    x = x[:, ::-1] if flipped else x
    x = x + VECTORS.numpy() @ (0.1 * factors * np.sqrt(VALUES.numpy()))
    x = (x - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.3]
    result = T.Compose(PIPELINES["classic"])(image, generator(3))
    np.testing.assert_allclose(result.numpy(), x.transpose(2, 0, 1), rtol=0, atol=2e-6)


def test_randomness_comes_from_the_generator_alone(make_picture):
    image, t = make_picture(), T.Compose(PIPELINES["classic"])
    torch.manual_seed(0)
    first = t(image, generator(5))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(t(image, generator(5)), first)
    assert not torch.equal(t(image, generator(6)), first)
    torch.set_rng_state(state)
    torch.manual_seed(7)
    a = t(image)
    torch.manual_seed(7)
    assert torch.equal(t(image), a), "without a generator, torch's default one"


def test_compose_runs_plain_callables_and_unfolds_compose(make_picture):
    image = make_picture()
    t = T.Compose(
        [T.Compose([T.CenterCrop(20)]), lambda im: im.rotate(90), T.ToTensor(), torch.neg]
    )
    expected = -reference(image.crop((20, 10, 40, 30)).rotate(90))
    assert torch.equal(t(image), expected)
    assert len(t.transforms) == 4
    assert T.Compose([])(image) is image


@pytest.mark.parametrize("name", PIPELINES)
def test_config_round_trip_gives_equal_results(make_picture, name):
    t = T.Compose([*PIPELINES[name]])
    config = json.loads(json.dumps(T.to_config(t)))
    again = T.from_config(config, STATISTICS)
    assert T.to_config(again) == config
    image = make_picture()
    one, two = t(image, generator(9)), again(image, generator(9))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    assert "tensor" not in json.dumps(config)


def test_config_of_one_step():
    assert T.to_config(T.Resize(7)) == {"name": "Resize", "size": 7}
    assert T.to_config(T.SubtractMean(STATISTICS["mean_color"])) == {
        "name": "SubtractMean",
        "statistics": {"mean": "mean_color"},
    }
    assert isinstance(T.from_config({"name": "Resize", "size": 7}), T.Resize)
    std = torch.tensor([0.1]) / 3
    again = T.from_config(json.loads(json.dumps(T.to_config(T.Normalize(0, std)))))
    assert torch.equal(torch.tensor(again.std), std)


def test_transforms_can_be_pickled(make_picture):
    t = T.Compose(PIPELINES["classic"])
    again = pickle.loads(pickle.dumps(t))
    assert torch.equal(again(make_picture(), generator(0)), t(make_picture(), generator(0)))


def test_repr_shows_the_arguments():
    assert repr(T.Resize(256)) == "Resize(size=256)"
    assert repr(T.SubtractMean(MEAN)) == "SubtractMean(mean=mean_image)"
    assert repr(T.Compose([T.ToTensor()])) == "Compose([\n    ToTensor(),\n])"


def test_decode_size():
    assert T.decode_size(T.Compose([T.Resize(256), T.ToTensor()])) == 256
    assert T.decode_size(T.Resize(64)) == 64
    assert T.decode_size(T.Compose([T.Resize((64, 64))])) is None
    assert T.decode_size(T.Compose([T.CenterCrop(9), T.Resize(64)])) is None
    assert T.decode_size(None) is None
    assert T.decode_size(T.Compose([])) is None


IMAGE = Image.new("RGB", (60, 40))
TENSOR = torch.zeros(3, 40, 60)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: T.Resize(0), ValueError, r"Resize: size must be a positive int \(got 0\)"),
        (lambda: T.Resize((4, -1)), ValueError, r"Resize: width must be a positive int \(got -1\)"),
        (lambda: T.CenterCrop((1, 2, 3)), ValueError, r"CenterCrop: size must be an int or"),
        (lambda: T.RandomCrop(8, padding=-1), ValueError, r"padding must .* \(got -1\)"),
        (lambda: T.RandomHorizontalFlip(1.5), ValueError, r"between 0 and 1 \(got 1.5\)"),
        (lambda: T.RandomResizedCrop(8, scale=(0, 1)), ValueError, r"scale must .*=\(0, 1\)"),
        (lambda: T.RandomResizedCrop(8, ratio=(2, 1)), ValueError, r"ratio must .*=\(2, 1\)"),
        (lambda: T.SubtractMean(torch.zeros(2, 2)), ValueError, r"mean must .* shape \(2, 2\)"),
        (
            lambda: T.PCANoise(torch.ones(3), torch.eye(2)),
            ValueError,
            r"vectors \(C, C\) \(got \(3,\) and \(2, 2\)\)",
        ),
        (lambda: T.PCANoise(-torch.ones(1), torch.eye(1)), ValueError, r"negative \(got \[-1.0\]"),
        (lambda: T.PCANoise(torch.ones(1), torch.eye(1), -1), ValueError, r"at least 0 \(got -1\)"),
        (lambda: T.Normalize(0, [1, 0]), ValueError, r"std must be positive \(got \[1.0, 0.0\]\)"),
        (lambda: T.Compose([3]), TypeError, r"every step must be callable \(got 3\)"),
        (lambda: T.CenterCrop(50)(IMAGE), ValueError, r"at least 50x50 \(got 40x60\)"),
        (lambda: T.RandomCrop(50)(TENSOR), ValueError, r"at least 50x50 \(got 40x60\)"),
        (lambda: T.Resize(8)(TENSOR), TypeError, "Resize takes Pillow images, not tensors"),
        (lambda: T.Grayscale()(TENSOR), TypeError, "Grayscale takes Pillow images, not tensors"),
        (lambda: T.ToTensor()(TENSOR), TypeError, "ToTensor takes Pillow images, not tensors"),
        (lambda: T.Normalize(0, 1)(IMAGE), TypeError, "Normalize takes tensors, not Pillow images"),
        (lambda: T.SubtractMean(MEAN)(IMAGE), TypeError, "SubtractMean takes tensors"),
        (lambda: T.PCANoise(VALUES, VECTORS)(IMAGE), TypeError, "PCANoise takes tensors"),
        (lambda: T.SubtractMean(MEAN)(TENSOR), ValueError, r"got 40x60, mean image 32x32"),
        (
            lambda: T.SubtractMean(torch.zeros(1))(TENSOR),
            ValueError,
            r"mean must have one entry a channel \(got 1 for an image of 3 channels\)",
        ),
        (lambda: T.Normalize([0, 0], 1)(TENSOR), ValueError, r"mean must .* \(got 2 for .* 3"),
        (lambda: T.ToTensor()(IMAGE.convert("CMYK")), ValueError, r"mode RGB, L or F \(got CMYK\)"),
        (lambda: T.ToTensor()(np.zeros((4, 4, 3))), TypeError, r"got float64 \(4, 4, 3\)"),
        (lambda: T.ToTensor()(np.zeros((4, 4, 2), np.uint8)), TypeError, r"got uint8 \(4, 4, 2\)"),
        (lambda: T.CenterCrop(2)(TENSOR.double()), TypeError, r"float32 .*got torch.float64"),
        (lambda: T.CenterCrop(2)(TENSOR[0]), TypeError, r"\(C, H, W\) on the CPU .*\(40, 60\)"),
        (lambda: T.CenterCrop(2)("x.jpg"), TypeError, r"transforms take .* \(got str\)"),
        (lambda: T.Whiten(torch.zeros(2, 3)), ValueError, r"matrix must be \(D, D\) \(got .*2, 3"),
        (lambda: T.Whiten(torch.eye(5))(TENSOR), ValueError, r"\(got 3x40x60 for 5\)"),
        (lambda: T.Whiten(torch.eye(5))(IMAGE), TypeError, "Whiten takes tensors"),
        (lambda: T.LocalContrast(0), ValueError, "kernel_size must be a positive int"),
        (lambda: T.RandomTenCrop(50)(IMAGE), ValueError, r"at least 50x50 \(got 40x60\)"),
        (lambda: T.from_config({"size": 3}), ValueError, r"object with a name \(got \{'size': 3\}"),
        (
            lambda: T.from_config({"name": "Resise", "size": 3}),
            ValueError,
            "unknown transform 'Resise'; did you mean Resize?",
        ),
        (lambda: T.from_config({"name": "?"}), ValueError, "known: CenterCrop, Grayscale"),
        (lambda: T.from_config({"name": "Resize", "sise": 3}), ValueError, "Resize: .*sise"),
        (
            lambda: T.from_config(T.to_config(T.SubtractMean(MEAN)), {"std": MEAN}),
            ValueError,
            r"SubtractMean needs the statistic 'mean_image' \(got std\)",
        ),
        (lambda: T.to_config(T.Compose([torch.neg])), TypeError, "only fastconv's own transforms"),
    ],
)
def test_errors_say_what_was_wanted_and_what_was_got(act, error, message):
    with pytest.raises(error, match=message):
        act()
