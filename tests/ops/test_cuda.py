"""Every op on a GPU against the same op on the CPU; skipped where there is none.

tests/simt runs the same kernels on every machine. What only a GPU can show is here: the processor's
own arithmetic, streams, graphs, autograd and torch.compile on CUDA tensors.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_testing import DTYPES, FORMATS, assert_within_policy, awkward, sample, standard_proofs
from PIL import Image

import fastconv
from fastconv import data

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ops = torch.ops.fastconv


def seed(device):
    return torch.tensor([1234567], device=device)


def conv2d(x, w, b):
    return fastconv.conv2d(x, w, b, padding=1, groups=2, activation="relu", algorithm="fastconv")


def strided_conv2d(x, w, b):
    return fastconv.conv2d(x, w, b, stride=(2, 3), padding=2, dilation=(1, 2), algorithm="fastconv")


def first_conv2d(x, w, b):
    return fastconv.conv2d(x, w, b, stride=4, padding=(0, 3, 0, 3), algorithm="fastconv")


def tiled_conv2d(x, w, b):
    return fastconv.tiled_conv2d(x, w, b, padding=1)


def max_pool2d(x):
    return fastconv.max_pool2d(x, 3, 2, 1, ceil_mode=True)


def max_unpool2d(x):
    output, switches = fastconv.max_pool2d_with_switches(x, 3, 2)
    return fastconv.max_unpool2d(output * 2, switches, 3, 2, output_size=x.shape[2:])


def avg_pool2d(x):
    return fastconv.avg_pool2d(x, 3, 2, 1, count_include_pad=False)


def sum_pool2d(x):
    return fastconv.sum_pool2d(x, (2, 3), ceil_mode=True)


def stochastic_pool2d(x):
    return ops.stochastic_pool2d(x, seed(x.device), [3, 3], [2, 2], [1, 1], True)[0]


def stochastic_pool2d_mean(x):
    return fastconv.stochastic_pool2d(x, 3, 2, 1, training=False)


def maxout(x):
    return fastconv.maxout(x, 3, 2)


def local_response_norm(x):
    return fastconv.local_response_norm(x, 5, alpha=0.3)


def local_response_norm_max_pool2d(x):
    return fastconv.local_response_norm_max_pool2d(x, 5, 3, 2, 1, alpha=0.3)


def local_contrast_norm(x):
    return fastconv.local_contrast_norm(x, 5)


def drop_connect(x, w, b):
    return ops.drop_connect(x, w, b, seed(x.device), 0.5)


# op: shapes of its tensors
CASES = {
    conv2d: [(3, 16, 13, 11), (32, 8, 3, 3), (32,)],
    strided_conv2d: [(3, 8, 13, 15), (16, 8, 3, 2), (16,)],
    first_conv2d: [(3, 3, 35, 39), (16, 3, 11, 11), (16,)],
    tiled_conv2d: [(2, 4, 9, 8), (2, 3, 6, 4, 3, 3), (2, 3, 6)],
    max_pool2d: [(3, 16, 13, 11)],
    max_unpool2d: [(3, 16, 13, 11)],
    avg_pool2d: [(3, 16, 13, 11)],
    sum_pool2d: [(3, 16, 13, 11)],
    stochastic_pool2d: [(3, 16, 13, 11)],
    stochastic_pool2d_mean: [(3, 16, 13, 11)],
    maxout: [(3, 17, 7, 9)],
    local_response_norm: [(3, 32, 7, 9)],
    local_response_norm_max_pool2d: [(3, 32, 13, 11)],
    local_contrast_norm: [(3, 8, 13, 11)],
    drop_connect: [(33, 300), (70, 300), (70,)],
}
EVERY_OP = pytest.mark.parametrize("op", CASES, ids=lambda op: op.__name__)


def tensors_of(op, dtype, memory_format=torch.contiguous_format):
    return [
        sample(*shape, dtype=dtype, seed=i, memory_format=memory_format)
        for i, shape in enumerate(CASES[op])
    ]


def results(op, tensors, device, dtype):
    leaves = [t.to(device, dtype).requires_grad_() for t in tensors]
    output = op(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    gradients = torch.autograd.grad((output.double() * weights.to(device)).sum(), leaves)
    return [t.detach().cpu() for t in (output, *gradients)]


@EVERY_OP
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_cpu(op, dtype, memory_format, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")
    tensors = tensors_of(op, dtype, memory_format)
    got, peer = results(op, tensors, "cuda", dtype), results(op, tensors, "cpu", dtype)
    exact = results(op, tensors, "cpu", torch.float64)
    for a, b, e in zip(got, peer, exact, strict=True):
        if dtype == torch.float64:
            torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-11)
        else:
            assert_within_policy(a, b, e)


@pytest.mark.parametrize("op", [conv2d, first_conv2d])
def test_tf32_where_torch_allows_it(op, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32")
    tensors = tensors_of(op, torch.float32, torch.channels_last)
    exact = results(op, tensors, "cpu", torch.float64)
    for a, e in zip(results(op, tensors, "cuda", torch.float32), exact, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=2e-3, atol=2e-3 * float(e.abs().max()))


def warpgroup_products_are_there():
    built = "sm_90a" in fastconv.info()["cuda_architectures"]
    return built and torch.cuda.get_device_capability() == (9, 0)


# groups, padding, stride and dilation; more than a tile of 128 x 128, and tails of 64 terms
WARPGROUP_CASES = {
    "groups": ((5, 32, 13, 11), (48, 16, 3, 3), {"padding": 1, "groups": 2}),
    "strides": (
        (3, 8, 13, 15),
        (16, 8, 3, 2),
        {"stride": (2, 3), "padding": 2, "dilation": (1, 2)},
    ),
    "first layer": ((3, 3, 35, 39), (16, 3, 11, 11), {"stride": 4, "padding": (0, 3, 0, 3)}),
    "alexnet conv3": ((8, 256, 13, 13), (384, 256, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WARPGROUP_CASES)
def test_warpgroup_products(name, dtype):
    if not warpgroup_products_are_there():
        pytest.skip("not compute capability 9.0, or built without 9.0a")
    *shapes, options = WARPGROUP_CASES[name]
    shapes.append((shapes[1][0],))
    tensors = [
        sample(*shape, dtype=dtype, seed=i, memory_format=torch.channels_last if i < 2 else None)
        for i, shape in enumerate(shapes)
    ]
    tensors[1] /= tensors[1][0].numel() ** 0.5

    def op(algorithm):
        return lambda x, w, b: fastconv.conv2d(x, w, b, **options, algorithm=algorithm)

    exact = results(op("library"), tensors, "cpu", torch.float64)
    peer = results(op("library"), tensors, "cpu", dtype)
    got = results(op("fastconv_wgmma"), tensors, "cuda", dtype)
    again = results(op("fastconv_wgmma"), tensors, "cuda", dtype)
    for a, b, e, same in zip(got, peer, exact, again, strict=True):
        assert_within_policy(a, b, e)
        assert torch.equal(a, same)


def test_warpgroup_products_are_refused_where_they_are_not():
    if warpgroup_products_are_there():
        pytest.skip("they are here")
    x = torch.zeros(1, 8, 4, 4, dtype=torch.float16, device="cuda")
    with pytest.raises(RuntimeError, match="warpgroup products"):
        fastconv.conv2d(x, x.expand(8, 8, 4, 4), algorithm="fastconv_wgmma")


def test_random_ops_draw_the_cpus_bits():
    x = sample(4, 32, 17, 19).relu()
    window = [3, 3], [2, 2], [1, 1], True
    for a, b in zip(
        ops.stochastic_pool2d(x.cuda(), seed("cuda"), *window),
        ops.stochastic_pool2d(x, seed("cpu"), *window),
        strict=True,
    ):
        assert torch.equal(a.cpu(), b)
    for p in (0.0, 0.3, 0.5, 1.0):
        mask = ops.drop_connect_mask(seed("cuda"), 5, 6, 1, 300, p)
        assert torch.equal(mask.cpu(), ops.drop_connect_mask(seed("cpu"), 5, 6, 1, 300, p))


@pytest.mark.parametrize("function", [max_pool2d, avg_pool2d, local_response_norm, maxout])
def test_awkward_memory(function):
    x = sample(2, 8, 9, 10)
    expected = function(x)
    for name, tensor in awkward(x.cuda()).items():
        torch.testing.assert_close(function(tensor).cpu(), expected, rtol=1e-5, atol=1e-6, msg=name)


@EVERY_OP
def test_opcheck_and_compile(op):
    leaves = [t.cuda().requires_grad_() for t in tensors_of(op, torch.float32)]
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves), op(*leaves))


def test_opcheck():
    x = sample(2, 8, 9, 10).cuda().requires_grad_()
    w = sample(8, 8, 3, 3).cuda().requires_grad_()
    standard_proofs(ops.max_pool2d, x, [3, 3], [2, 2], [0, 0], [1, 1], False)
    standard_proofs(ops.conv2d, x, w, None, [1, 1], [1, 1, 1, 1], [1, 1], 1, False, True)


@EVERY_OP
def test_cuda_graphs(op):
    tensors = [t.cuda() for t in tensors_of(op, torch.float16)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # warm up, as torch's documentation asks
        op(*tensors)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = op(*tensors)
    tensors[0].mul_(2)
    graph.replay()
    assert torch.equal(output, op(*tensors))


@EVERY_OP
def test_the_current_stream_is_used(op):
    tensors = [t.cuda() for t in tensors_of(op, torch.float32)]
    expected = op(*tensors)
    slow, stream = torch.zeros(4096, 4096, device="cuda"), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(t) for t in tensors]
        for _ in range(20):
            slow = slow @ slow
        for a, b in zip(late, tensors, strict=True):
            a.copy_(b)  # waits for the products; an op on another stream would see zeros
        got = op(*late)
    torch.cuda.synchronize()
    assert torch.equal(got, expected)


@EVERY_OP
def test_same_bits_every_time(op):
    tensors = tensors_of(op, torch.float32)
    first = results(op, tensors, "cuda", torch.float32)
    for _ in range(3):
        again = results(op, tensors, "cuda", torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("op", [max_pool2d, local_response_norm, conv2d])
def test_empty_batch(op):
    x, *rest = (t.cuda() for t in tensors_of(op, torch.float32))
    assert op(x[:0], *rest).shape[0] == 0


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_prepare_images_gives_the_cpus_bits(dtype, memory_format):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (5, 3, 40, 46), generator=g, dtype=torch.uint8)
    mean = torch.rand(3, 40, 46, generator=g)
    for size in ((32, 32), (31, 37)):
        rooms = (40 - size[0] + 1, 46 - size[1] + 1)
        offsets = torch.stack([torch.randint(room, (5,), generator=g) for room in rooms], 1)
        shifts = torch.randn(5, 3, generator=g)

        def run(device, size=size, given=(images, offsets, shifts, mean)):
            x, at, shift, minus = (t.to(device) for t in given)
            flips = torch.arange(5, device=device) % 2 == 0
            more = {"offsets": at, "flips": flips, "shifts": shift, "mean": minus}
            layout = {"dtype": dtype, "memory_format": memory_format}
            return fastconv.prepare_images(x, size, unit=[0.3, 0.7, 1.1], **more, **layout).cpu()

        assert torch.equal(run("cuda"), run("cpu"))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_finished_on_the_gpu_are_those_of_the_workers(tmp_path, workers):
    """Through pinned memory and without waiting, as in training."""
    generator = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "train" / "ant" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(path)
    dataset = data.ImageFolder(tmp_path / "train")
    measured = data.compute_statistics(dataset, 32)
    dataset.transform = data.recipe("classic", (3, 28, 28), measured, True)
    loaders = [
        data.build_loader(
            dataset,
            data.EpochSampler(12, seed=1),
            4,
            workers=workers,
            device="cuda",
            device_transforms=on_device,
        )
        for on_device in (True, False)
    ]
    for (images, *_), (expected, *_) in zip(*loaders, strict=True):
        assert images.device.type == "cuda" and torch.equal(images.cpu(), expected)


def test_more_than_2_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of free GPU memory")
    x = torch.zeros(2**31 // (64 * 64 * 32) + 3, 32, 64, 64, dtype=torch.float16, device="cuda")
    x[-1] = sample(32, 64, 64, dtype=torch.float16).cuda()
    output = max_pool2d(x)
    assert torch.equal(output[-1:], max_pool2d(x[-1:])) and not output[0].any()


def test_an_image_beyond_the_limit_is_refused():
    x = torch.empty(1, dtype=torch.float16, device="cuda").expand(1, 3, 32768, 32768)
    with pytest.raises(RuntimeError, match="max_pool2d: one image of input must have at most"):
        max_pool2d(x)


def test_a_window_beyond_the_limit_is_refused():
    x = torch.zeros(1, 2, 4, 4, device="cuda")
    with pytest.raises(RuntimeError, match="avg_pool2d: the padded input and the window must span"):
        fastconv.avg_pool2d(x, (2**31 - 1, 1), 1, (2**30 - 1, 0))


@pytest.mark.parametrize("shape", [(2, 4, 0, 3), (0, 4, 3, 3)])
def test_maxout_without_elements(shape):
    x = torch.zeros(shape, device="cuda", requires_grad=True)
    fastconv.maxout(x, 2).sum().backward()
    assert x.grad.shape == shape


def test_training_a_small_net_on_the_gpu():
    torch.manual_seed(0)
    model = fastconv.create_model("digits_convnet", num_classes=10).cuda()
    images = torch.randn(64, *model.input_size, device="cuda")
    targets = torch.arange(64, device="cuda") % 10
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", ["alexnet", "zfnet"])
def test_a_training_step_as_a_graph(name):
    """Convolution's measured choice, the optimizer and all ops are captured and replayed."""

    def steps(graphed):
        torch.manual_seed(0)
        model = fastconv.create_model(name, num_classes=10, init="he").cuda().eval()  # no dropout
        images = torch.randn(4, *model.input_size, device="cuda")
        labels = torch.arange(4, device="cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

        def step():
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            step = graph.replay
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        return [p.detach() for p in model.parameters()]

    for graphed, plain in zip(steps(True), steps(False), strict=True):
        torch.testing.assert_close(graphed, plain, rtol=1e-3, atol=1e-5)
