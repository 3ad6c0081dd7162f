"""A finding of ``python -m arrowpool doctor``, and its grade. Made by `doctor_checks` and `doctor_memory`, printed by `doctor`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from arrowpool.tuning import MIB

#: Arenas and budgets below this many bytes hold only a few chunks of common size.
LITTLE = 256 * MIB


class Grade(enum.Enum):
    """The grade of a finding. The value is printed."""

    OK = "ok"
    SLOW = "slow"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    grade : Grade
    subject : str
        What was checked.
    found : str
        The result.
    advice : str
        What to do. Empty when nothing has to be done.
    """

    grade: Grade
    subject: str
    found: str
    advice: str = ""
