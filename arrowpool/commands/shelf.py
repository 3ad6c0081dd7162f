"""The shelf on the command line: ``python -m arrowpool ls``, ``info KEY``, ``rm KEY...``, ``clean``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from arrowpool import shelf
from arrowpool.errors import ShelfKeyError
from arrowpool.shelf import store
from arrowpool.stats import show_bytes


def ls() -> int:
    """One line for every object of this user."""
    rows = [
        (one.key, one.kind, show_bytes(one.nbytes), f"{one.created:%Y-%m-%d %H:%M:%S}", _life(one))
        for one in sorted(shelf.list_infos(), key=lambda one: one.created)
    ]
    _print_table(("KEY", "KIND", "SIZE", "PUT (UTC)", "LIVES"), rows)
    return 0


def info(key: str) -> int:
    """All that is known of one object."""
    try:
        one = shelf.info(key)
    except ShelfKeyError as error:
        print(error, file=sys.stderr)
        return 1
    facts = [
        ("key", one.key),
        ("kind", one.kind),
        ("size", f"{show_bytes(one.nbytes)} ({one.nbytes:,} bytes)"),
        ("put", f"{one.created:%Y-%m-%d %H:%M:%S} UTC"),
        ("lives", _life(one)),
        ("Arrow file", one.path or "none: not a table"),
    ]
    if one.arrow:
        table = shelf.get_arrow(key)
        facts.append(("rows", f"{table.num_rows:,}"))
        facts += [("column", f"{field.name}: {field.type}") for field in table.schema]
    _print_table((), facts)
    return 0


def rm(keys: Sequence[str]) -> int:
    """Delete objects; 1 if there was nothing under one of the keys."""
    failed = 0
    for key in keys:
        try:
            shelf.delete(key)
        except ShelfKeyError as error:
            print(error, file=sys.stderr)
            failed = 1
    return failed


def clean() -> int:
    """Remove what processes that were killed have left half-written."""
    removed = [place for name in store.stores() for place in store.Store(name).clean()]
    print(f"{len(removed)} half-written objects removed")
    return 0


def _life(one: shelf.Info) -> str:
    return "until it is deleted" if one.persistent else f"with process {one.owner}"


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    lines = [head, *rows] if head else list(rows)
    if not lines:
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
