"""``fastconv detect``: train a detector on a run's features, test it, find things in pictures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fastconv.cli._common import add_run_arguments, hint, positive

_EPILOG = """\
fastconv detect RUN --train DATA --output DETECTOR    train, test on the pictures held out
fastconv detect DETECTOR --test DATA                  test on other pictures
fastconv detect DETECTOR IMAGE...                     find things
DATA is a folder with annotations/*.xml (Pascal VOC) and images/, or a COCO JSON file.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "detect",
        help="find things in pictures",
        description="Train a detector on the features of a run, and find things with it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="pictures to look at")
    parser.add_argument("--train", metavar="DATA", help="annotated pictures to learn from")
    parser.add_argument("--test", metavar="DATA", help="annotated pictures to be measured on")
    parser.add_argument(
        "--holdout",
        type=float,
        default=0.2,
        metavar="X",
        help="share of --train kept for the test where --test is not given (default: 0.2)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is held out")
    parser.add_argument("--output", metavar="DIR", help="folder of the detector (RUN/detector)")
    parser.add_argument("--draw", metavar="DIR", help="write the IMAGEs with their boxes there")
    parser.add_argument(
        "--top", type=positive, default=5, metavar="N", help="findings a picture (default: 5)"
    )
    group = parser.add_argument_group("training")
    group.add_argument(
        "--method",
        choices=("rcnn", "dense"),
        default="rcnn",
        help="rcnn: proposals and non-maximum suppression; dense: sliding windows and merging",
    )
    group.add_argument("--layer", default="relu7", metavar="NAME", help="features (relu7)")
    group.add_argument(
        "--proposals",
        choices=("selective", "grid"),
        default="selective",
        help="rcnn: selective search (needs OpenCV) or a grid of boxes",
    )
    group.add_argument(
        "--most", type=positive, default=2000, metavar="N", help="rcnn: proposals (default: 2000)"
    )
    group.add_argument(
        "--sizes",
        type=_sizes,
        default=[224, 320, 448],
        metavar="N,N",
        help="dense: shortest sides in pixels (default: 224,320,448)",
    )
    group.add_argument(
        "--fine",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="dense: offset pooling, four times the windows",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.train and args.images:
        raise ValueError("--train takes no IMAGE; find things with the detector that it makes")
    if not (args.train or args.test or args.images):
        raise ValueError("give --train DATA, --test DATA or pictures")
    detector = _train(args) if args.train else _open(args)
    if args.test or args.train:
        return _test(args, detector)
    return _find(args, detector)


def _train(args: argparse.Namespace):
    from fastconv.cli._common import open_run
    from fastconv.detection import annotations, detector, study
    from fastconv.training.progress import make_progress

    run, _ = open_run(args)
    pictures = annotations.read_annotations(args.train)
    if args.test:
        args.pictures = annotations.read_annotations(args.test)
    else:
        pictures, args.pictures = study.hold_out(pictures, args.holdout, args.seed)
    options = detector.Options(
        method=args.method,
        layer=args.layer,
        proposals=args.proposals,
        most=args.most,
        sizes=args.sizes,
        fine=args.fine,
    )
    progress = make_progress()
    progress.start("training pictures", len(pictures))
    try:
        made = detector.train_detector(
            run, pictures, options, progress=lambda done, total: progress.update(done)
        )
    finally:
        progress.finish()
    args.output = args.output or str(run.path / "detector")
    made.save(args.output)
    return made


def _open(args: argparse.Namespace):
    import torch

    from fastconv.detection import annotations
    from fastconv.detection.detector import Detector
    from fastconv.training.devices import pick_device

    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    detector = Detector.open(args.path)
    detector.candidates.model.to(device)
    args.output = args.output or args.path
    if args.test:
        args.pictures = annotations.read_annotations(args.test)
    return detector


def _test(args: argparse.Namespace, detector) -> int:
    from fastconv.detection.study import evaluate_detector
    from fastconv.training.progress import make_progress

    progress = make_progress()
    progress.start("test pictures", len(args.pictures))
    try:
        evaluation = evaluate_detector(
            detector, args.pictures, progress=lambda done, total: progress.update(done)
        )
    finally:
        progress.finish()
    folder = Path(args.output) / "test"
    evaluation.write(folder, detector)
    summary = evaluation.summary()
    if args.json:
        print(json.dumps({"detector": str(args.output), **summary}))
        return 0
    print(
        f"AP {100 * summary['AP']:.1f} % at IoU 0.5 ({100 * summary['AP11']:.1f} % by 11 points)  "
        f"{summary['seconds_per_picture']:.2f} s a picture  "
        f"({summary['pictures']} pictures, {summary['objects']} objects)"
    )
    print(f"curve, boxes and pictures are in {folder}")
    hint(f"fastconv detect {args.output} IMAGE...")
    return 0


def _find(args: argparse.Namespace, detector) -> int:
    from fastconv.data import ImageError, open_image
    from fastconv.detection.study import draw

    results, failed = [], 0
    for path in args.images:
        try:
            picture = open_image(path)
        except (ImageError, FileNotFoundError, IsADirectoryError) as error:
            failed += 1
            results.append({"image": path, "error": str(error)})
            print(f"fastconv detect: {error}", file=sys.stderr)
            continue
        found = detector.detect(picture)[: args.top]
        results.append({"image": path, "found": [f._asdict() for f in found]})
        if args.draw:
            target = Path(args.draw) / f"{Path(path).stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            draw(picture, found).save(target)
        if not args.json:
            print(path)
            for label, score, box in found:
                corners = ", ".join(f"{v:.0f}" for v in box)
                print(f"  {score:7.3f}  {label}  left, top, right, bottom: {corners}")
    if args.json:
        print(json.dumps(results))
    return 2 if failed else 0


def _sizes(text: str) -> list[int]:
    return [positive(part.strip()) for part in text.split(",")]
