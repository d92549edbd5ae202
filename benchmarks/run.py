"""The benchmark suite: install peers, run studies, write tables.

    python benchmarks/run.py install magic scvi dca deepimpute
    python benchmarks/run.py list
    python benchmarks/run.py truth --data DIR [--cases PATTERN ...] [--methods A B] [--seeds 0 1]
    python benchmarks/run.py paper --data DIR
    python benchmarks/run.py hyper --data DIR
    python benchmarks/run.py scale
    python benchmarks/run.py tables                 # write all tables again, run nothing

Each study goes on where it stopped and says so when nothing is left to do. Runs are kept in
``benchmarks/.work``, tables go to ``benchmarks/results``. See ``benchmarks/README.md``.
"""

import argparse
import fnmatch
import sys
from collections.abc import Callable
from pathlib import Path

from suite import cases, environments, truth
from suite.methods import HERE, METHODS
from suite.running import WORK, Limits


def main() -> None:
    """Parse the command line and run one command."""
    args = _parser().parse_args()
    args.run(args)


def _install(args: argparse.Namespace) -> None:
    for environment in args.environments:
        environments.install(environment)


def _list(args: argparse.Namespace) -> None:
    del args
    for name, method in METHODS.items():
        ready = environments.installed(method.environment)
        print(f"{name:30} {'ready' if ready else f'install {method.environment}':20} {method.note}")
    print("cases:", ", ".join(cases.all_names()))


def _truth(args: argparse.Namespace) -> None:
    truth.study(_request(args))


def _paper(args: argparse.Namespace) -> None:
    from suite import paper

    paper.study(_request(args))


def _hyper(args: argparse.Namespace) -> None:
    from suite import hyper

    hyper.study_hyper(_request(args))


def _scale(args: argparse.Namespace) -> None:
    from suite import scale

    scale.study_scale(_request(args))


def _tables(args: argparse.Namespace) -> None:
    """Write every study's tables again: `truth` and `paper` from kept runs too, others from CSV."""
    from suite import hyper, paper, records, scale, tables, written

    if not (args.work / "records").is_dir():
        sys.exit(f"--work: {args.work / 'records'} is no folder of kept runs.")
    records.look_in(args.work)
    found = records.everything()
    studies = {
        "truth": lambda: tables.write_truth(found),
        "paper": lambda: paper.write(found),
        "hyper": lambda: hyper.write([]),
        scale.TABLE: lambda: scale.write([]),
    }
    changed = [write() for name, write in studies.items() if written.is_there(name)]
    if not any(changed):
        print("Every table is as it was.")


def _request(args: argparse.Namespace) -> truth.Request:
    """Return what the options ask for; those that a study lacks keep their defaults."""
    return truth.Request(
        data=getattr(args, "data", Path()),
        cases=_chosen(getattr(args, "cases", ["*"])),
        methods=getattr(args, "methods", list(METHODS)),
        seeds=getattr(args, "seeds", [0]),
        source=getattr(args, "source", HERE).resolve(),
        limits=Limits(getattr(args, "cpu_limit", Limits().cpu_s), args.threads),
        retry=getattr(args, "retry", False),
    )


def _chosen(patterns: list[str]) -> list[str]:
    """Return the cases that patterns such as ``held-out/*`` stand for."""
    names = cases.all_names()
    found = [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]
    if not found:
        sys.exit(f"cases: none of {', '.join(names)} fits {' '.join(patterns)}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("install", help="make peers' environments")
    make.add_argument("environments", nargs="+", choices=environments.PEER_ENVIRONMENTS)
    make.set_defaults(run=_install)
    commands.add_parser("list", help="methods, cases, what is installed").set_defaults(run=_list)
    study = commands.add_parser("truth", help="every method against what is known")
    study.add_argument("--cases", nargs="+", default=["*"], help="names or patterns, see `list`")
    _add_data(study, _truth)
    _add_methods(study)
    study = commands.add_parser("paper", help="the paper's tables beside ours")
    _add_data(study, _paper)
    _add_methods(study)
    # it trains the imported package in this process: there is no other method, source or limit
    _add_data(commands.add_parser("hyper", help="the paper's hyper-parameters"), _hyper)
    study = commands.add_parser("scale", help="cost against size")
    study.set_defaults(run=_scale)
    _add_methods(study)
    study.add_argument("--threads", type=int, default=1)
    again = commands.add_parser("tables", help="write all tables again, run nothing")
    again.add_argument(
        "--work", type=Path, default=WORK, help="folder of the kept runs, of any checkout"
    )
    again.set_defaults(run=_tables)
    return parser


def _add_data(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Add the options of a study on data."""
    parser.set_defaults(run=run)
    parser.add_argument("--data", type=Path, required=True, help="with h5ad/, sim/, truth/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)


def _add_methods(parser: argparse.ArgumentParser) -> None:
    """Add the options of a study that runs methods in processes of their own."""
    parser.add_argument("--retry", action="store_true", help="run again what failed before")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cpu-limit", type=float, default=3600, help="CPU seconds of one run")
    parser.add_argument(
        "--source", type=Path, default=HERE, help="checkout whose src/graphsci runs; this one"
    )


if __name__ == "__main__":
    main()
