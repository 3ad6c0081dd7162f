"""``python -m arrowpool doctor``: print what arrowpool needs and this machine lacks, and how to fix it.

Called by `__main__`; the checks are in `doctor_checks`. Guarantees: anything that is missing is a finding, never an error.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import platform
import textwrap
from collections.abc import Callable, Iterator, Sequence

from arrowpool.cli.doctor_checks import CHECKS, round_trip
from arrowpool.cli.findings import Finding, Grade

_WIDTH = 110


def run(methods: Sequence[str] | None = None) -> int:
    """Print the findings; return 0 unless something is wrong.

    Parameters
    ----------
    methods : sequence of str, optional
        Start methods to test pools with. The default is all start methods of this platform.
    """
    print(_versions())
    print()
    counts = dict.fromkeys(Grade, 0)
    for check in (*CHECKS, *(round_trip(method) for method in methods or multiprocessing.get_all_start_methods())):
        for finding in _tried(check):
            counts[finding.grade] += 1
            print(_line(finding), flush=True)
    print()
    if counts[Grade.WRONG]:
        print(f"{counts[Grade.WRONG]} wrong, {counts[Grade.SLOW]} slow: arrowpool cannot do its work here.")
    elif counts[Grade.SLOW]:
        print(f"{counts[Grade.SLOW]} slow: arrowpool works, with less speed, memory or protection than possible.")
    else:
        print("No problems found.")
    return 1 if counts[Grade.WRONG] else 0


def _tried(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check. A check that fails is a finding as well, so that the other checks still run."""
    try:
        return list(check())
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        advice = "An unexpected error. Fix the findings above first."
        return [Finding(Grade.WRONG, check.__name__.replace("_", " "), found, advice)]


def _line(finding: Finding) -> str:
    head = f"{finding.grade.value:5}  {finding.subject:17}  "
    text = textwrap.fill(finding.found, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    if not finding.advice:
        return text
    arrow = " " * len(head) + "-> "
    return text + "\n" + textwrap.fill(finding.advice, _WIDTH, initial_indent=arrow, subsequent_indent=" " * len(arrow))


def _versions() -> str:
    names = ("arrowpool", "pandas", "pyarrow", "numpy", "cloudpickle")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    where = f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}"
    return f"{', '.join(found)}\n{where}"
