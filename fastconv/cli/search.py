"""``fastconv search``: find good settings for ``fastconv train``."""

from __future__ import annotations

import argparse
import json

from fastconv.cli._common import hint, positive

_EPILOG = """\
space.yaml, a range or choices for each setting of fastconv train:
  lr: {low: 0.001, high: 0.3, log: true}
  batch_size: [16, 32, 64]
  model_kwargs.dropout: {low: 0.0, high: 0.7, points: 4}
An interrupted search goes on where it was when the command is given again.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "search",
        help="find good settings for train",
        description="Try settings of fastconv train by grid, random or Bayesian search.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", nargs="?", help="image folder; none: the digits")
    parser.add_argument("--space", required=True, metavar="FILE", help="YAML file of the space")
    parser.add_argument(
        "--strategy",
        choices=("grid", "random", "bayes"),
        default="random",
        help="grid: all combinations; random; bayes: a Gaussian process (default: random)",
    )
    parser.add_argument(
        "--trials", type=positive, default=30, metavar="N", help="in all (default: 30)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        default=0,
        metavar="K",
        help="cross-validation on the training images; 0: judge by the validation images",
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="trials at once")
    parser.add_argument("--config", metavar="FILE", help="YAML file of the other settings")
    parser.add_argument("--model", metavar="NAME", help="as for train")
    parser.add_argument("--epochs", type=positive, metavar="N", help="as for train")
    parser.add_argument("--device", metavar="NAME", help="as for train")
    parser.add_argument("--threads", type=positive, metavar="N", help="as for train")
    parser.add_argument(
        "--prune",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="stop trials that are worse than half of the others (default)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the weights of the trials")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the strategy and the folds"
    )
    parser.add_argument("--output", default="search", metavar="DIR", help="folder (search)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.cli.train import read_config
    from fastconv.search import Search, read_space

    fixed = read_config(args.config) if args.config else {}
    given = {name: getattr(args, name) for name in ("data", "model", "epochs", "device", "threads")}
    fixed |= {name: value for name, value in given.items() if value is not None}
    search = Search(
        args.output,
        read_space(args.space),
        fixed,
        strategy=args.strategy,
        folds=args.folds,
        prune=args.prune,
        keep=args.keep,
        seed=args.seed,
    )
    say = None if args.json else lambda line: print(line, flush=True)
    search.run(args.trials, jobs=args.jobs, say=say)
    trials = search.trials
    pruned = sum(t.state.name == "PRUNED" for t in trials)
    best = search.open().best_trial
    if args.json:
        result = {"trials": len(trials), "pruned": pruned, "top1": best.value}
        result |= {"params": best.params, "importance": search.importance()}
        print(json.dumps({"folder": args.output, **result}))
        return 0
    print(f"best top-1 {100 * best.value:.2f} % in trial {best.number} of {len(trials)}", end="")
    print(f", {pruned} pruned; {args.output}/best.yaml has its settings")
    for name, share in search.importance().items():
        print(f"  {100 * share:5.1f} % of the variance is {name}'s")
    hint(f"fastconv train --config {args.output}/best.yaml")
    return 0
