"""What is logged about workers that ended early: one record for each, with fields for programs that read logs.

The fields are attributes of the record (``extra=``): `reason`, `worker` (process id), `exitcode`, `task`; `replaces` of a worker that
replaces another one. Called by the collector and the supervisor.
"""

from __future__ import annotations

import enum
import logging

from arrowpool.errors import describe_exit
from arrowpool.threads import tell

_log = logging.getLogger(__name__)


class Reason(str, enum.Enum):
    """Why a worker ended."""

    #: It crashed, was killed, or exited.
    LOST = "lost"
    #: Its task exceeded `task_timeout`, so the pool killed it.
    TIMEOUT = "timeout"
    #: It ended before it took tasks: in the initializer, or in the import of the main module.
    UNREADY = "unready"
    #: As agreed: after `maxtasksperchild` tasks, or at the end of the pool.
    DONE = "done"


def reason_of(exitcode: int | None, *, overdue: bool, ready: bool, lost: bool) -> Reason:
    """Why a worker ended.

    Parameters
    ----------
    exitcode : int or None
        As of `Process.exitcode`.
    overdue : bool
        Whether it was killed because of `task_timeout`.
    ready : bool
        Whether it has taken tasks.
    lost : bool
        Whether a task was lost with it.
    """
    if overdue:
        return Reason.TIMEOUT
    if not ready:
        return Reason.UNREADY
    return Reason.LOST if lost or exitcode != 0 else Reason.DONE


def ended(reason: Reason, pid: int, exitcode: int | None, task: str | None, seconds: float | None) -> None:
    """Log the end of a worker.

    Parameters
    ----------
    reason, pid, exitcode
        Of the worker.
    task : str or None
        The task that it ran, in words.
    seconds : float or None
        The pool's `task_timeout`.
    """
    extra = {"reason": reason.value, "worker": pid, "exitcode": exitcode, "task": task}
    if reason is Reason.TIMEOUT:
        tell(
            _log.warning,
            "worker %d was killed: %s ran for more than %g s (task_timeout)",
            *(pid, task or "its task", seconds or 0.0),
            extra=extra,
        )
    elif reason is Reason.LOST:
        while_running = f" while it ran {task}" if task else ", without a task"
        tell(_log.warning, "worker %d was lost: it %s%s", pid, describe_exit(exitcode), while_running, extra=extra)
    elif reason is Reason.UNREADY:
        tell(_log.info, "worker %d %s before it was ready", pid, describe_exit(exitcode), extra=extra)


def replaced(reason: Reason, pid: int, exitcode: int | None, by: int) -> None:
    """Log that a worker was started in place of another one."""
    why = {Reason.TIMEOUT: "was killed for time", Reason.DONE: "ended after its last task"}
    tell(
        _log.info,
        "worker %d replaces worker %d, which %s",
        *(by, pid, why.get(reason, describe_exit(exitcode))),
        extra={"reason": reason.value, "worker": by, "replaces": pid, "exitcode": exitcode},
    )
