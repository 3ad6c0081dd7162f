"""Which function and items a worker is sent: announced in its control page, for `top`."""

from __future__ import annotations

from collections.abc import Sequence

from arrowpool.engine.calls import Task, name_of
from arrowpool.engine.item_names import ItemNames
from arrowpool.memory.announcements import Announcements


def announce(announcements: Announcements, first: int, tasks: Sequence[Task]) -> None:
    """Announce tasks of one call that are sent together.

    Parameters
    ----------
    announcements : Announcements
        Of the worker.
    first : int
        Number of the first task in the worker.
    tasks : sequence of Task
        The tasks.
    """
    one, last, count = tasks[0], tasks[-1], len(tasks)
    call, size = one.call, one.count
    names, title = call.names, call.title
    if title is None:
        title = call.title = name_of(one).encode(errors="backslashreplace")
    # Tasks that were taken back need not be consecutive, and runs of groups are not of one size.
    if names is None or (count > 1 and (last.index - one.index != count - 1 or type(names) is not ItemNames)):
        announcements.write(count, first, -1, 0, 0, title)
        return
    numbers = names.numbers(one.index, size)
    size = len(numbers)
    announcements.write(
        count, first, numbers.start, size, size if count == 1 else (count - 1) * size + last.count, title
    )
