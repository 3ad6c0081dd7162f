"""The command line: ``python -m arrowpool``, or ``arrowpool``. The commands are in `cli`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence

from arrowpool import portable
from arrowpool.cli.output import until_not_read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["run"]:  # the other arguments belong to the program
        return _run(words[1:])
    chosen = _parser().parse_args(words)
    return until_not_read(lambda: chosen.do(chosen))


def _parser() -> argparse.ArgumentParser:
    """The parser. It sets `do` to the function of the command. That function imports the command's module, and with it pandas."""
    name = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser(
        prog=name if name == "arrowpool" else "python -m arrowpool", description="multiprocessing.Pool for data frames"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    methods = multiprocessing.get_all_start_methods()

    demo = commands.add_parser(
        "demo", help="a pandas job on real data, with multiprocessing.Pool and with arrowpool.Pool"
    )
    demo.add_argument(
        "--rows", type=_positive, default=1_000_000, help="number of flights; 336,776 are real (default: 1000000)"
    )
    demo.add_argument("--processes", type=_positive, help="workers of each pool (default: one per core)")
    demo.add_argument("--start-method", choices=methods, help="how workers start")
    demo.set_defaults(do=_demo)

    bench = commands.add_parser("bench", help="measure both pools on this machine, with generated or your own data")
    file = bench.add_mutually_exclusive_group()
    file.add_argument("--csv", metavar="FILE", help="measure with this file")
    file.add_argument("--parquet", metavar="FILE", help="measure with this file")
    bench.add_argument("--function", metavar="MODULE:NAME", help="your own function, to measure with the file")
    bench.add_argument(
        "--by",
        metavar="COLUMN",
        nargs="+",
        default=[],
        help="call it with each group (default: with parts of the rows)",
    )
    bench.add_argument(
        "--dates",
        metavar="COLUMN",
        nargs="+",
        default=[],
        help="columns of the CSV file to read as dates (parse_dates)",
    )
    bench.add_argument("--megabytes", type=_positive, default=160, help="size of generated frames (default: 160)")
    bench.add_argument("--seconds", type=_positive, default=120, help="about how long to measure (default: 120)")
    bench.add_argument("--processes", type=_positive, help="workers of each pool (default: one per core)")
    bench.add_argument("--start-method", choices=methods, help="how workers start")
    bench.set_defaults(do=_bench)

    doctor = commands.add_parser("doctor", help="what this machine lacks, what that costs, and how to fix it")
    doctor.set_defaults(do=_doctor)

    top = commands.add_parser("top", help="open pools of this user: what each worker runs, and the memory in use")
    top.add_argument(
        "--interval",
        type=_seconds,
        metavar="SECONDS",
        help="time between two looks (on a terminal: 1; elsewhere it is printed once without this)",
    )
    top.add_argument("--once", action="store_true", help="print it once, also on a terminal")
    top.set_defaults(do=_top)

    # For the help only: `main` handles this command itself.
    run = commands.add_parser(
        "run",
        help="run a program with arrowpool in place of multiprocessing.Pool, ProcessPoolExecutor and joblib's backend",
        add_help=False,
    )
    run.add_argument("program", nargs=argparse.REMAINDER, metavar="SCRIPT | -m MODULE [ARGUMENT...]")

    ls = commands.add_parser("ls", help="list the objects on the shelf")
    info = commands.add_parser("info", help="show the facts about one object on the shelf")
    info.add_argument("key", metavar="KEY")
    rm = commands.add_parser("rm", help="delete objects from the shelf")
    rm.add_argument("keys", metavar="KEY", nargs="+")
    clean = commands.add_parser("clean", help="remove unfinished objects of killed processes from the shelf")
    for of_the_shelf in (ls, info, rm, clean):
        of_the_shelf.set_defaults(do=_shelf)
    return parser


def _run(words: Sequence[str]) -> int:
    from arrowpool.running import run

    if words[:1] != ["--scheduler"]:
        return run(words)
    if len(words) < 3:
        return run([])  # says how
    try:
        from distributed import Client

        from arrowpool.integrations.dask.program import pool_class
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dask", "distributed"):
            raise
        print("a cluster needs Dask: pip install 'arrowpool[dask]'", file=sys.stderr)
        return 1
    from arrowpool.patching import count

    try:
        client = Client(words[1])  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        print(f"cannot reach the scheduler at {words[1]}: {error}", file=sys.stderr)
        return 1
    with client:
        return run(words[2:], pool_class(client, lambda: count("pool")))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError("must be positive")
    return number


def _demo(chosen: argparse.Namespace) -> int:
    from arrowpool.cli.demo import run

    try:
        run(chosen.rows, chosen.processes, chosen.start_method)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _bench(chosen: argparse.Namespace) -> int:
    from arrowpool.cli.bench import run

    if chosen.function and not (chosen.csv or chosen.parquet):
        print("--function needs a file: --csv FILE or --parquet FILE", file=sys.stderr)
        return 2
    if chosen.by and not chosen.function:
        print("--by needs --function MODULE:NAME", file=sys.stderr)
        return 2
    if chosen.dates and not chosen.csv:
        print("--dates needs --csv FILE", file=sys.stderr)
        return 2
    try:
        return run(
            csv=chosen.csv,
            parquet=chosen.parquet,
            megabytes=chosen.megabytes,
            seconds=chosen.seconds,
            processes=chosen.processes,
            method=chosen.start_method,
            by=chosen.by,
            dates=chosen.dates,
            function=chosen.function,
        )
    except BrokenPipeError:  # the output is no longer read; `until_not_read` handles that
        raise
    except (OSError, ValueError) as error:  # also pandas' and pyarrow's own
        print(f"cannot measure with {chosen.csv or chosen.parquet or 'generated frames'}: {error}", file=sys.stderr)
        return 1


def _doctor(_: argparse.Namespace) -> int:
    if portable.missing() is not None:
        from arrowpool.portable import commands

        return commands.doctor()
    from arrowpool.cli.doctor import run

    return run()


def _top(chosen: argparse.Namespace) -> int:
    if portable.missing() is not None:
        from arrowpool.portable import commands

        return commands.top()
    from arrowpool.cli.top import run

    return run(chosen.interval, chosen.once)


def _shelf(chosen: argparse.Namespace) -> int:
    from arrowpool.cli import shelf

    if chosen.command == "info":
        return shelf.info(chosen.key)
    if chosen.command == "rm":
        return shelf.rm(chosen.keys)
    return shelf.ls() if chosen.command == "ls" else shelf.clean()


if __name__ == "__main__":
    sys.exit(main())
