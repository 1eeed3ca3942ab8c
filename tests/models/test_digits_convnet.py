"""The small network learns the real handwritten digits, and takes other sizes."""

import pytest
import torch
import torch.nn.functional as F

import fastconv


@pytest.fixture
def one_thread():
    """Work this small only waits for a second thread, long when other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_learns_the_digits(one_thread):
    """A plain loop over scikit-learn's 8x8 digits: above 98% on a fifth it has not seen."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = (images - images.mean()) / images.std()
    targets = torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(images))
    test, train = order[:360], order[360:]
    model = fastconv.create_model("digits_convnet")
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    for _ in range(15):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), targets[batch]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[test]).argmax(1) == targets[test]).float().mean().item()
    assert accuracy > 0.98


def test_parameters_and_native_size():
    model = fastconv.create_model("digits_convnet")
    assert sum(p.numel() for p in model.parameters()) == 50_866
    assert model.input_size == (1, 8, 8) and model.num_classes == 10
    native = torch.randn(1, 64, 2, 2)
    assert model.fit3(native) is native


@pytest.mark.parametrize("size", [(5, 5), (8, 8), (28, 28), (5, 40)])
def test_other_sizes(size):
    model = fastconv.create_model("digits_convnet", num_classes=3, in_chans=2)
    assert model(torch.zeros(4, 2, *size)).shape == (4, 3)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, 64), r"images must have shape \(N, 1, H, W\) \(got \(2, 64\)\)"),
        ((2, 8, 8), r"images must have shape \(N, 1, H, W\) \(got \(2, 8, 8\)\)"),
        ((2, 1, 4, 8), r"images must be at least 5 pixels high and wide \(got 4x8\)"),
    ],
)
def test_wrong_images_are_named(shape, text):
    with pytest.raises(ValueError, match=text):
        fastconv.create_model("digits_convnet")(torch.zeros(shape))
