"""What other programs compute from an exported run: onnxruntime, torch without our ops."""

import copy
import json

import numpy as np
import pytest
import torch
from op_testing import assert_within_policy
from PIL import Image
from torch import nn

import fastconv
from fastconv import data, export
from fastconv import nn as fnn
from fastconv.cli import main
from fastconv.data import transforms
from fastconv.run import Run


def photographs(count, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        coarse = random.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize((310, 280), Image.Resampling.BICUBIC)


def classic_run(folder, model, size):
    """A run of `model` with the papers' preprocessing and weights at which classes differ."""
    torch.manual_seed(0)
    square = data.recipe_size("classic", (3, size, size))
    statistics = {
        "mean_image": torch.rand(3, square, square),
        "std": torch.tensor([0.27]),
    }
    pipeline = data.recipe("classic", (3, size, size), statistics, units="std")
    run = Run.create(
        folder,
        model=model,
        model_kwargs={"init": "he"},
        classes=[f"class {i}" for i in range(20)],
        input_size=(3, size, size),
        transforms={k: transforms.to_config(pipeline) for k in ("train", "eval")},
        statistics=statistics,
        settings={},
    )
    nn.init.normal_(run.model.fc8.weight, std=0.05)
    run.weights = "best"
    return run


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    return classic_run(tmp_path_factory.mktemp("runs") / "alexnet", "alexnet", 224)


@pytest.fixture(scope="module")
def alexnet_onnx(alexnet):
    return export.export_run(alexnet, alexnet.path / "model.onnx")


def onnx_outputs(path, array):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": array})[0]


def test_alexnet_is_standard_nodes(alexnet_onnx):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(alexnet_onnx).graph
    kinds = [node.op_type for node in graph.node]
    assert {node.domain for node in graph.node} == {""}
    assert [kinds.count(kind) for kind in ("Conv", "MaxPool", "LRN", "Relu", "Gemm")] == [
        *(5, 3, 2, 7, 3)
    ]
    (norm, _) = (node for node in graph.node if node.op_type == "LRN")
    constants = {a.name: onnx.helper.get_attribute_value(a) for a in norm.attribute}
    # ONNX divides alpha by the size, the paper's reading does not.
    assert constants == pytest.approx({"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0})


def test_onnxruntime_gives_the_same_top_5_from_pixels(alexnet, alexnet_onnx):
    """As a program would use it: resize and crop as the metadata say, and no more."""
    onnx = pytest.importorskip("onnx")
    (entry,) = (p for p in onnx.load(alexnet_onnx).metadata_props if p.key == "fastconv")
    described = json.loads(entry.value)
    geometry = transforms.from_config(described["input"]["steps"])
    pictures = list(photographs(7))
    pixels = np.stack([np.asarray(geometry(p)).transpose(2, 0, 1) for p in pictures])
    logits = onnx_outputs(alexnet_onnx, pixels.astype(np.float32))
    for guesses, row in zip(alexnet.predict(pictures), logits, strict=True):
        ranked = [described["classes"][i] for i in np.argsort(-row)[:5]]
        assert ranked == [guess.label for guess in guesses]
        exponents = np.exp(row - row.max())
        probabilities = np.sort(exponents / exponents.sum())[::-1][:5]
        np.testing.assert_allclose(probabilities, [g.probability for g in guesses], rtol=1e-3)
    assert len({g[0].label for g in alexnet.predict(pictures)}) > 1, "the classes should differ"
    assert export.check_onnx(alexnet_onnx, alexnet) < 1e-5


def test_zfnet_through_torch_export_without_fastconv(tmp_path):
    run = classic_run(tmp_path / "zfnet", "zfnet", 96)
    path = export.export_run(run, tmp_path / "model.pt2", "torch-export", input="tensor")
    extra = {"fastconv.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["fastconv.json"])["classes"] == run.classes
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not [name for name in targets if "fastconv" in name]
    images = torch.stack([run.preprocess(p) for p in photographs(3)])
    exact = copy.deepcopy(run.model).double()(images.double())
    for module in run.model.modules():
        if hasattr(module, "algorithm"):
            module.algorithm = "library"  # as exported
    with torch.no_grad():
        assert_within_policy(program.module()(images), run.model(images), exact)


def test_safetensors_load_into_the_model(alexnet, tmp_path):
    path = export.export_run(alexnet, tmp_path / "model.safetensors", "safetensors")
    from fastconv._files import read_tensors

    tensors, metadata = read_tensors(path)
    model = fastconv.create_model("alexnet", num_classes=20)
    model.load_state_dict(tensors)
    assert torch.equal(model.conv1.weight, alexnet.model.conv1.weight)
    assert json.loads(metadata["fastconv"])["model"]["name"] == "alexnet"


@pytest.mark.parametrize(
    "layer",
    [
        fnn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2, activation="relu"),
        fnn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        fnn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        fnn.AvgPool2d(3, stride=2, padding=1, divisor_override=5),
        fnn.AvgPool2d(4, stride=3, padding=1, ceil_mode=True),
        fnn.SumPool2d(2),
        fnn.SumPool2d(4, stride=3, padding=1, ceil_mode=True),
        fnn.StochasticPool2d(3, 2),
        fnn.Maxout(2),
        fnn.LocalResponseNorm(3, alpha=2.0, alpha_mode="sum"),
        fnn.LocalResponseNorm(4, alpha=2.0, k=2.0),
        fnn.LocalResponseNorm(3, alpha=2.0, region="within"),
        fnn.LocalContrastNorm(5),
        fnn.TiledConv2d(4, 6, 3, tile_size=2),
        nn.Sequential(nn.Flatten(), fnn.DropConnectLinear(4 * 9 * 9, 5, activation="relu")),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer_becomes_standard_nodes(layer, tmp_path):
    # A linear layer before it, so that there are parameters, and a batch other than the example's.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 4, 1), layer).eval()
    images = torch.randn(3, 4, 9, 9)
    with torch.no_grad():
        expected = network(images)
    program = export.standard_program(network, (4, 9, 9))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), expected)
    program = export.standard_program(network, (4, 9, 9), keep_norms=True)
    pytest.importorskip("onnxscript")
    export._write_onnx(program, tmp_path / "model.onnx", "{}")
    onnx = pytest.importorskip("onnx")
    assert {n.domain for n in onnx.load(tmp_path / "model.onnx").graph.node} == {""}
    got = torch.from_numpy(onnx_outputs(tmp_path / "model.onnx", images.numpy()))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_command(tmp_path, capsys):
    run = tmp_path / "digits"
    assert main(["train", "--epochs", "1", "--output", str(run)]) == 0
    for format, name in (("onnx", "onnx"), ("torch-export", "pt2"), ("safetensors", "safetensors")):
        assert main(["export", str(run), "--format", format]) == 0
        assert (run / f"model.{name}").stat().st_size > 1000
    text = capsys.readouterr().out
    assert "onnxruntime's logits differ from the run's by" in text
    assert "input: batches of 1x8x8 pixels of 0 to 255" in text
    assert main(["export", str(tmp_path / "nothing")]) == 2
    assert "no such run" in capsys.readouterr().err


def test_what_is_no_arithmetic_is_refused(alexnet, tmp_path):
    run = classic_run(tmp_path / "run", "alexnet", 64)
    run.transform.transforms.append(transforms.RandomHorizontalFlip())
    with pytest.raises(export.ExportError, match=r"RandomHorizontalFlip.*input 'tensor'"):
        export.export_run(run, tmp_path / "model.onnx")
    with pytest.raises(export.ExportError, match="format: must be one of onnx, torch-export"):
        export.export_run(run, tmp_path / "model", "caffe")
    with pytest.raises(export.ExportError, match="input: must be pixels or tensor"):
        export.export_run(run, tmp_path / "model", input="bytes")
