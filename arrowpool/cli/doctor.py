"""``python -m arrowpool doctor``: whether this machine gives arrowpool what it needs, and how to mend what it does not.

Called by `__main__`; the checks are in `doctor_checks`. Assumes nothing: what is missing is a finding, not an error.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import platform
import textwrap
from collections.abc import Callable, Iterator, Sequence

from arrowpool.cli.doctor_checks import CHECKS, Finding, Grade, round_trip

_WIDTH = 110


def run(methods: Sequence[str] | None = None) -> int:
    """Print the findings; return 0 unless something is wrong.

    Parameters
    ----------
    methods : sequence of str, optional
        Start methods that pools are tried with; the default is all that this platform has.
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
        print(f"{counts[Grade.WRONG]} wrong, {counts[Grade.SLOW]} slow: arrowpool does not do here what it is for.")
    elif counts[Grade.SLOW]:
        print(f"{counts[Grade.SLOW]} slow: arrowpool works, with less speed, room or protection than it could have.")
    else:
        print("All is well.")
    return 1 if counts[Grade.WRONG] else 0


def _tried(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """A check that fails is a finding too: the others are still of use."""
    try:
        return list(check())
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        return [
            Finding(
                Grade.WRONG, check.__name__.replace("_", " "), found, "Not foreseen; mend what is said above first."
            )
        ]


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
