"""``fastconv export``: a run's network for programs that know nothing of fastconv."""

from __future__ import annotations

import argparse

from fastconv.cli._common import hint

_EPILOG = """\
onnx: standard nodes (Conv, MaxPool, LRN, ...), for onnxruntime, TensorRT, OpenVINO.
torch-export: torch's own ops; torch.export.load(FILE).module() runs it without fastconv.
safetensors: the weights alone, for fastconv.create_model and others that know the names.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a run's network as ONNX, torch.export or safetensors",
        description="Write a run's network into one file, with classes and input described in it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--weights", choices=("best", "last"), default="best", help="which weights (default: best)"
    )
    # The lists stand in fastconv.export too, which would cost the help an import of torch.
    parser.add_argument(
        "--format",
        choices=("onnx", "torch-export", "safetensors"),
        default="onnx",
        help="kind of file, see below (default: onnx)",
    )
    parser.add_argument(
        "--input",
        choices=("pixels", "tensor"),
        default="pixels",
        help="what the network gets: pixels of 0 to 255, the mean subtracted inside (default), or "
        "what the run's transform gives",
    )
    parser.add_argument("--output", metavar="FILE", help="default: RUN/model.onnx and so on")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv import export
    from fastconv.run import Run

    run = Run.open(args.path, weights=args.weights)
    output = args.output or run.path / f"model{export.SUFFIXES[args.format]}"
    path = export.export_run(run, output, args.format, input=args.input)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {run.weights} weights")
    if args.format != "safetensors":
        size = "x".join(map(str, run.config["input_size"]))
        print(f"input: batches of {size} {_input_words(run, args.input)}; output: logits")
    if args.format == "onnx":
        try:
            print(f"checked: {_check(path, run, args.input)}")
        except ImportError as error:
            print(f"not checked: {error}")
    hint(f"fastconv eval {run.path}")
    return 0


def _input_words(run, input: str) -> str:
    from fastconv.export import geometry_of

    if input == "tensor":
        return "as the run's transform gives"
    steps = ", ".join(map(repr, geometry_of(run).transforms)) or "as they are"
    return f"pixels of 0 to 255 ({steps})"


def _check(path, run, input: str) -> str:
    from fastconv.export import ExportError, check_onnx

    difference = check_onnx(path, run, input=input)
    if not difference < 1e-3:
        raise ExportError(
            f"{path}: onnxruntime's logits differ from the run's by {difference:.1e} of the largest"
        )
    return f"onnxruntime's logits differ from the run's by {difference:.1e} of the largest at most"
