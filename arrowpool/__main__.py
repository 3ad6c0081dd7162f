"""The command line: ``python -m arrowpool demo``, and the shelf's ``ls``, ``info``, ``rm`` and ``clean``."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m arrowpool", description="multiprocessing.Pool for data frames")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="a pandas job on real data, with multiprocessing.Pool and with arrowpool.Pool"
    )
    demo.add_argument("--rows", type=int, default=1_000_000, help="flights; 336,776 are real (default: %(default)s)")
    demo.add_argument("--processes", type=int, help="workers of each pool (default: one per core)")
    demo.add_argument("--start-method", choices=multiprocessing.get_all_start_methods(), help="how workers start")
    top = commands.add_parser("top", help="what the pools of this user hold just now")
    top.add_argument("--interval", type=float, metavar="SECONDS", help="again and again, until Ctrl-C")
    commands.add_parser("ls", help="what is on the shelf")
    info = commands.add_parser("info", help="what is known of one object on the shelf")
    info.add_argument("key", metavar="KEY")
    rm = commands.add_parser("rm", help="delete objects from the shelf")
    rm.add_argument("keys", metavar="KEY", nargs="+")
    commands.add_parser("clean", help="remove what killed processes have left half-written on the shelf")
    chosen = parser.parse_args(arguments)
    if chosen.command == "demo":
        if chosen.rows < 1:
            demo.error("--rows must be at least 1")
        return _demo(chosen)
    if chosen.command == "top":
        if chosen.interval is not None and chosen.interval <= 0:
            top.error("--interval must be positive")
        from arrowpool.top import run

        return run(chosen.interval)
    from arrowpool.shelf import commands as shelf

    if chosen.command == "info":
        return shelf.info(chosen.key)
    if chosen.command == "rm":
        return shelf.rm(chosen.keys)
    return shelf.ls() if chosen.command == "ls" else shelf.clean()


def _demo(chosen: argparse.Namespace) -> int:
    from arrowpool.demo import run  # pandas is imported only when it is needed

    try:
        run(chosen.rows, chosen.processes, chosen.start_method)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
