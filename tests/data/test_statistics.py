"""Statistics against numpy in double precision over the same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastconv.data import DatasetError, compute_statistics, open_dataset
from fastconv.data.statistics import principal_components, zca_matrix


def pixels_of(dataset, size, mode="RGB"):
    """Every image of the dataset as Pillow resizes and crops it, (N, S, S, C), in [0, 1]."""
    arrays = []
    for index in range(len(dataset)):
        image = Image.open(dataset.path(index)).convert(mode)
        width, height = image.size
        wide = int(size * width / height)
        image = image.resize((wide, size), Image.Resampling.BILINEAR)
        left = round((wide - size) / 2)
        array = np.asarray(image.crop((left, 0, left + size, size)), dtype=np.float64) / 255
        arrays.append(array.reshape(size, size, -1))
    return np.stack(arrays)


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_statistics_are_those_of_numpy(make_folder, channels, mode):
    dataset = open_dataset(make_folder(images=13), "train")
    got = compute_statistics(dataset, 20, channels=channels)
    pixels = pixels_of(dataset, 20, mode)
    assert len(pixels) == 39
    colors = pixels.reshape(-1, channels)
    values, vectors = np.linalg.eigh(np.cov(colors.T, bias=True).reshape(channels, channels))
    expected = {
        "mean_image": pixels.mean(0).transpose(2, 0, 1),
        "mean_color": colors.mean(0),
        "std": np.array([np.sqrt(((colors - colors.mean(0)) ** 2).mean())]),
        "pca_values": values[::-1],
    }
    assert set(got) == {*expected, "pca_vectors"}
    for name, value in expected.items():
        assert got[name].dtype == torch.float32
        # The folded resize may differ from the whole one by a grey level here and there.
        np.testing.assert_allclose(got[name].numpy(), value, rtol=0, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(
        np.abs(got["pca_vectors"].numpy()), np.abs(vectors[:, ::-1]), rtol=0, atol=2e-3
    )
    assert got["mean_image"].shape == (channels, 20, 20)


def test_statistics_are_exact_where_nothing_is_resized(tmp_path, make_picture):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    images = [make_picture(16, 16, seed) for seed in range(40)]
    for number, image in enumerate(images):
        image.save(folder / f"{number:02}.png")
    got = compute_statistics(open_dataset(tmp_path, "train"), 16)
    pixels = np.stack([np.asarray(image) for image in images]) / 255
    colors = pixels.reshape(-1, 3)
    for name, value in {
        "mean_image": pixels.mean(0).transpose(2, 0, 1),
        "mean_color": colors.mean(0),
        "std": np.sqrt([((colors - colors.mean(0)) ** 2).mean()]),
    }.items():
        np.testing.assert_allclose(got[name].numpy(), value, rtol=2e-7, err_msg=name)
    vectors, values = got["pca_vectors"].double().numpy(), got["pca_values"].double().numpy()
    covariance = vectors @ np.diag(values) @ vectors.T
    np.testing.assert_allclose(covariance, np.cov(colors.T, bias=True), rtol=0, atol=1e-8)


def test_workers_order_and_transform_change_no_bit(make_folder):
    root = make_folder(images=15)
    dataset = open_dataset(root, "train", transform=lambda image: 1 / 0)
    first = compute_statistics(dataset, 20)
    second = compute_statistics(open_dataset(root, "train"), 20, workers=2)
    reverse = open_dataset(root, "train", classes=["cat", "bee", "ant"])
    third = compute_statistics(reverse, 20)
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert torch.equal(value, third[name])


def test_unreadable_images_are_left_out(make_folder):
    root = make_folder()
    for number in range(3):
        (root / "train" / "ant" / f"{number}.jpg").write_bytes(b"")
    dataset = open_dataset(root, "train")
    got = compute_statistics(dataset, 20)
    assert len(dataset.unreadable) == 3
    for number in range(3):
        (root / "train" / "ant" / f"{number}.jpg").unlink()
    expected = compute_statistics(open_dataset(root, "train"), 20)
    assert all(torch.equal(got[name], expected[name]) for name in got)


def test_progress_counts_every_image(make_folder):
    calls = []
    root = make_folder(images=20)
    (root / "train" / "ant" / "0.jpg").write_bytes(b"")
    compute_statistics(open_dataset(root, "train"), 8, lambda *call: calls.append(call))
    assert calls == [(32, 60), (60, 60)]


def test_principal_components_of_a_known_covariance():
    angle = 0.3
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    values, vectors = principal_components(turn @ np.diag([1.0, 4.0, 0.25]) @ turn.T)
    np.testing.assert_allclose(values, [4, 1, 0.25])
    # The axes in falling order, each turned so that its largest entry is positive.
    np.testing.assert_allclose(vectors, turn[:, [1, 0, 2]], atol=1e-12)
    assert (principal_components(np.zeros((3, 3)))[0] == 0).all()


def test_zca_is_that_of_numpy(tmp_path, make_picture):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    images = [make_picture(5, 5, seed) for seed in range(70)]
    for number, image in enumerate(images):
        image.save(folder / f"{number:02}.png")
    dataset = open_dataset(tmp_path, "train")
    got = compute_statistics(dataset, 5, whiten=True)
    assert set(got) - set(compute_statistics(dataset, 5)) == {"zca_matrix"}
    flat = np.stack([np.asarray(i) for i in images]).transpose(0, 3, 1, 2).reshape(70, 75) / 255
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    expected = vectors @ np.diag((values + 0.01 * values.mean()) ** -0.5) @ vectors.T
    assert got["zca_matrix"].dtype == torch.float32
    np.testing.assert_allclose(got["zca_matrix"].numpy(), expected, rtol=0, atol=1e-4)


def test_zca_of_a_known_covariance():
    random = np.random.default_rng(0)
    turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
    values = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.1])
    covariance = turn @ np.diag(values) @ turn.T
    matrix = zca_matrix(covariance, epsilon=0)
    np.testing.assert_allclose(matrix @ covariance @ matrix, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)  # which makes it ZCA, not PCA
    softened = zca_matrix(covariance, epsilon=0.5)
    kept = turn.T @ softened @ covariance @ softened @ turn
    np.testing.assert_allclose(np.diag(kept), values / (values + 0.5 * values.mean()))


def test_zca_refuses_large_images(make_folder):
    dataset = open_dataset(make_folder(images=1), "train")
    message = r"at most 5,000 values \(got 196,608 for 3x256x256\).*154.6 GB.*7,600 times 10\^12"
    with pytest.raises(ValueError, match=message):
        compute_statistics(dataset, 256, whiten=True)


def test_errors(make_folder):
    root = make_folder(images=1)
    dataset = open_dataset(root, "train")
    with pytest.raises(ValueError, match=r"channels must be 1 or 3 \(got 4\)"):
        compute_statistics(dataset, 8, channels=4)
    with pytest.raises(TypeError, match=r"images must have 8 bits \(got mode F\)"):
        compute_statistics(open_dataset(None, "val"), 8)
    for image in root.glob("train/*/*"):
        image.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"ImageFolder\(.*no image could be read"):
        compute_statistics(dataset, 8)
