"""The shelf on the command line: ``python -m arrowpool ls``, ``info KEY``, ``rm KEY...``, ``clean``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from arrowpool import shelf
from arrowpool.cli.output import printable
from arrowpool.errors import ShelfKeyError
from arrowpool.stats import aligned, show_bytes

_REFUSALS = (ShelfKeyError, PermissionError, TimeoutError)


def ls() -> int:
    """Print one line for each object of this user."""
    rows = [
        (one.key, printable(one.kind), show_bytes(one.nbytes), f"{one.created:%Y-%m-%d %H:%M:%S}", _life(one))
        for one in sorted(shelf.list_infos(), key=lambda one: one.created)
    ]
    print("\n".join(aligned([("KEY", "KIND", "SIZE", "PUT (UTC)", "LIVES"), *rows])))
    return 0


def info(key: str) -> int:
    """Print the facts about one object."""
    try:
        one = shelf.info(key)
    except _REFUSALS as error:
        print(error, file=sys.stderr)
        return 1
    facts = [
        ("key", one.key),
        ("kind", printable(one.kind)),
        ("size", f"{show_bytes(one.nbytes)} ({one.nbytes:,} bytes)"),
        ("put", f"{one.created:%Y-%m-%d %H:%M:%S} UTC"),
        ("lives", _life(one)),
        ("Arrow file", one.path or "none: not a table"),
    ]
    if one.arrow:
        table = shelf.get_arrow(key)
        facts.append(("rows", f"{table.num_rows:,}"))
        facts += [("column", f"{printable(field.name)}: {field.type}") for field in table.schema]
    print("\n".join(aligned(facts)))
    return 0


def rm(keys: Sequence[str]) -> int:
    """Delete objects; return 1 if one of them could not be deleted."""
    failed = 0
    for key in keys:
        try:
            shelf.delete(key)
        except _REFUSALS as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


def clean() -> int:
    """Remove the unfinished objects of killed processes."""
    removed = shelf.remove_unfinished()
    print(f"{len(removed)} unfinished objects removed")
    return 0


def _life(one: shelf.Info) -> str:
    return "until it is deleted" if one.persistent else f"with process {one.owner}"
