"""A run's network for programs that know nothing of fastconv: ONNX, torch.export, safetensors.

The ops become standard ones: in a ``torch.export`` program torch's own, in ONNX the nodes Conv,
MaxPool, LRN and so on. The exported network takes batches of any size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastconv._files import atomic_path, write_tensors
from fastconv._version import __version__
from fastconv.data import transforms
from fastconv.ops._arguments import window_output_size
from fastconv.ops.local_contrast_norm import local_contrast_norm_ref
from fastconv.ops.local_response_norm import local_response_norm_ref
from fastconv.ops.stochastic_pool2d import stochastic_pool2d_mean_ref
from fastconv.ops.tiled_conv2d import tiled_conv2d_ref
from fastconv.run import Run

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
FORMATS = tuple(SUFFIXES)
INPUTS = ("pixels", "tensor")
# What the exported network can do itself, being the same for every image: it is affine.
_ARITHMETIC = (transforms.ToTensor, transforms.SubtractMean, transforms.Normalize)
_GEOMETRY = (transforms.Resize, transforms.CenterCrop, transforms.Grayscale)


class ExportError(ValueError):
    """A run that cannot be exported in this way; the message says why."""


class FromPixels(nn.Module):
    """A run's network behind the arithmetic of its transform.

    ``forward`` takes pixels (N, C, H, W) of 0 to 255, uint8 or floating, RGB or grey: what the
    transform's resizing and cropping leave of a picture, see `geometry_of`.
    """

    def __init__(self, run: Run):
        super().__init__()
        self.network = run.model
        offset = _transformed(run, 0)
        self.offset: Tensor
        self.scale: Tensor
        self.register_buffer("offset", offset)
        self.register_buffer("scale", (_transformed(run, 255) - offset) / 255)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.to(self.scale.dtype) * self.scale + self.offset)


def geometry_of(run: Run) -> transforms.Compose:
    """The steps of the run's evaluation transform that move pixels: resizing, cropping, greying.

    Raises:
        ExportError: a step is neither one of these nor the same arithmetic for every image.
    """
    steps = getattr(run.transform, "transforms", [run.transform])
    for step in steps:
        if not isinstance(step, _ARITHMETIC + _GEOMETRY):
            raise ExportError(
                f"input 'pixels': the run's transform has {step!r}, which is no arithmetic that "
                "is the same for every image; export with input 'tensor'"
            )
    return transforms.Compose([step for step in steps if not isinstance(step, _ARITHMETIC)])


def export_run(
    run: Run, path: str | os.PathLike, format: str = "onnx", *, input: str = "pixels"
) -> Path:
    """Write a run's network, with what is needed to use it, into one file.

    The file's metadata (ONNX: ``metadata_props``, torch.export: the extra file ``fastconv.json``,
    safetensors: the header) hold classes, model and the steps from a picture to the input, as JSON
    under ``fastconv``. Outputs are logits (N, classes).

    Args:
        run: opened with weights.
        path: the file; it is replaced if there.
        format: "onnx", "torch-export" or "safetensors" (the weights alone, for `create_model`).
        input: what the network gets. "pixels": 0 to 255, resized and cropped; subtracting the mean
            and scaling are part of the network. "tensor": what ``run.transform`` gives.

    Raises:
        ExportError: this run cannot be written so.
        ImportError: ONNX needs ``pip install "fastconv[onnx]"``.
    """
    if format not in FORMATS:
        raise ExportError(f"format: must be one of {', '.join(FORMATS)} (got {format!r})")
    if input not in INPUTS:
        raise ExportError(f"input: must be pixels or tensor (got {input!r})")
    path = Path(path)
    if format == "safetensors":
        write_tensors(path, run.model.state_dict(), {"fastconv": _description(run, "tensor")})
        return path
    description = _description(run, input)
    network = FromPixels(run).eval() if input == "pixels" else run.model.eval()
    program = standard_program(network, run.config["input_size"], keep_norms=format == "onnx")
    with atomic_path(path) as temporary:
        if format == "onnx":
            _write_onnx(program, temporary, description)
        else:
            with open(temporary, "wb") as file:
                torch.export.save(program, file, extra_files={"fastconv.json": description})
    return path


def standard_program(
    network: nn.Module, input_size: tuple[int, int, int], *, keep_norms: bool = False
) -> torch.export.ExportedProgram:
    """`network` traced by torch.export for (N, *input_size), with torch's ops in place of ours.

    Args:
        network: in eval mode.
        input_size: (C, H, W).
        keep_norms: leave ``fastconv::local_response_norm`` as it is where ONNX's LRN computes the
            same for all of them.

    Raises:
        ExportError: torch.export cannot trace it.
    """
    device = next(network.parameters()).device
    example = torch.zeros(2, *input_size, device=device)
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises of its own, none with a common base
        raise ExportError(f"torch.export cannot trace the network: {error}") from error
    table = dict(_STANDARD)
    if keep_norms and all(_is_lrn(node) for node in program.graph.nodes):
        del table[_OPS.local_response_norm.default]
    with _quiet():
        return program.run_decompositions(table)


def check_onnx(path: str | os.PathLike, run: Run, *, input: str = "pixels") -> float:
    """Run an exported file with onnxruntime beside the run's network, on noise.

    Returns:
        The largest difference of their logits, as a share of the largest logit.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError('the check needs onnxruntime: pip install "fastconv[onnx]"') from None
    noise = torch.rand(2, *run.config["input_size"], generator=torch.Generator().manual_seed(0))
    noise = (noise * 255).round() if input == "pixels" else noise * 2 - 1
    network = FromPixels(run).eval() if input == "pixels" else run.model
    with torch.inference_mode():
        expected = network(noise)
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: noise.numpy()})
    return ((torch.from_numpy(got) - expected).abs().max() / expected.abs().max()).item()


def _transformed(run: Run, level: int) -> Tensor:
    """What the transform makes of a picture that is all of one grey level."""
    from PIL import Image

    _, height, width = run.config["input_size"]
    return run.transform(Image.new("RGB", (2 * width, 2 * height), (level,) * 3)).contiguous()


def _description(run: Run, input: str) -> str:
    config = run.config
    steps: Any = config["transforms"]["eval"]
    if input == "pixels":
        steps = transforms.to_config(geometry_of(run))
    description = {
        "version": __version__,
        "model": config["model"],
        "weights": run.weights,
        "classes": run.classes,
        "names": run.names,
        "input": {
            "size": config["input_size"],
            "channels": "grey" if config["input_size"][0] == 1 else "RGB",
            "values": "0 to 255" if input == "pixels" else "as the steps give",
            "steps": steps,
        },
    }
    return json.dumps(description, ensure_ascii=False)


# -- ours in torch's ops ---------------------------------------------------------------------------


def _conv2d(
    input, weight, bias, stride, padding, dilation, groups, allow_tf32, relu, warpgroups=False
):
    top, bottom, left, right = padding
    if top != bottom or left != right:
        input = F.pad(input, (left, right, top, bottom))
        top = left = 0
    output = F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)
    return output.relu() if relu else output


def _max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, with_switches=True):
    output = F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    return output, torch.zeros_like(output, dtype=torch.uint8)  # nobody asks for switches here


def _avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor):
    if divisor is None:
        return F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad)
    return _sum_pool2d(input, kernel_size, stride, padding, ceil_mode) / divisor


def _sum_pool2d(input, kernel_size, stride, padding, ceil_mode):
    # Means of whole windows: ONNX knows no other divisor, and counts cut-off windows differently.
    sides = []
    for size, k, s, p in zip(input.shape[2:], kernel_size, stride, padding, strict=True):
        outputs = window_output_size(size, k, s, p, 1, ceil_mode)
        sides.append((p, max(0, (outputs - 1) * s + k - p - size)))
    (top, bottom), (left, right) = sides
    whole = F.pad(input, (left, right, top, bottom))
    return F.avg_pool2d(whole, kernel_size, stride) * (kernel_size[0] * kernel_size[1])


def _maxout(input, pool_size, stride):
    groups = (input.shape[1] - pool_size) // stride + 1
    starts = [slice(i, i + (groups - 1) * stride + 1, stride) for i in range(pool_size)]
    output = torch.stack([input[:, start] for start in starts]).amax(0)
    return output, torch.zeros_like(output, dtype=torch.uint8)


def _local_contrast_norm(input, *arguments):
    return local_contrast_norm_ref(input, *arguments), input.new_zeros(0)


_OPS = torch.ops.fastconv
_STANDARD = {
    _OPS.avg_pool2d.default: _avg_pool2d,
    _OPS.conv2d.default: _conv2d,
    _OPS.local_contrast_norm.default: _local_contrast_norm,
    _OPS.local_response_norm.default: local_response_norm_ref,
    _OPS.max_pool2d.default: _max_pool2d,
    _OPS.maxout.default: _maxout,
    _OPS.stochastic_pool2d_mean.default: stochastic_pool2d_mean_ref,
    _OPS.sum_pool2d.default: _sum_pool2d,
    _OPS.tiled_conv2d.default: tiled_conv2d_ref,
}


# -- ONNX ------------------------------------------------------------------------------------------


def _is_lrn(node: torch.fx.Node) -> bool:
    """False for norms within maps, and even windows, which ONNX centres the other way."""
    if node.target is not _OPS.local_response_norm.default:
        return True
    arguments: Any = node.args
    _, size, *_, within = arguments
    return size % 2 == 1 and not within


def _write_onnx(program: torch.export.ExportedProgram, path: Path, description: str) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError('ONNX needs onnxscript: pip install "fastconv[onnx]"') from None
    with _quiet():
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            custom_translation_table={_OPS.local_response_norm.default: _onnx_norm()},
            verbose=False,
        )
    assert onnx_program is not None  # as always with dynamo=True
    onnx_program.model.metadata_props["fastconv"] = description
    onnx_program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words on packages that it misses and on its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _onnx_norm():
    """``fastconv::local_response_norm`` across an odd number of maps as an LRN node."""
    from onnxscript import opset18 as op

    def norm(input, size: int, alpha: float, beta: float, k: float, within: bool):
        return op.LRN(input, size=size, alpha=alpha * size, beta=beta, bias=k)

    return norm
