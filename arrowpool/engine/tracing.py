"""What the parent notes about workers and their tasks on the tape of a trace."""

from __future__ import annotations

from collections.abc import Iterable

from arrowpool.engine.calls import Task, name_of
from arrowpool.engine.naming import items_of, numbers_of
from arrowpool.engine.recorder import Activity, Cut, Link, Ran, Tape, now
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.errors import describe_exit
from arrowpool.transport import protocol
from arrowpool.transport.protocol import TaskDone, TaskFailed, Times, Traced

#: Setting a result, where callbacks of the user run, is shown from this time on, in nanoseconds.
_NOTABLE_NS = 100_000


def note_ran(
    tape: Tape, worker: WorkerHandle, task: Task, traced: Traced, reply: TaskDone | TaskFailed, read: int
) -> None:
    """Note a task that was answered."""
    tape.note_ran(
        Ran(
            pid=_pid(worker),
            number=reply.number,
            what=name_of(task),
            item=_items(task),
            times=Times(*reply.times),
            began=round(traced.began * 1e9),
            apart=traced.apart,
            sent_before=round(traced.sent * 1e9),
            read=read,
            failed=isinstance(reply, TaskFailed),
        )
    )


def note_received(
    tape: Tape, worker: WorkerHandle, task: Task, reply: TaskDone | TaskFailed, began: int, rebuilt: int
) -> None:
    """Note that the result of a task was rebuilt, at `rebuilt` if that is not 0, and that it was set, if that took long."""
    what, item = name_of(task), _items(task)
    if rebuilt:
        link = Link(_pid(worker), reply.number)
        tape.note(Activity.REBUILD, began, what, item, protocol.segment_bytes(reply.body), link, ended=rebuilt)
    if now() - (rebuilt or began) >= _NOTABLE_NS:
        tape.note(Activity.DELIVER, rebuilt or began, what, item)


def note_end(tape: Tape, worker: WorkerHandle, exitcode: int | None, tasks: Iterable[Task]) -> None:
    """Note the end of a worker, and of the tasks that it had begun."""
    ended = describe_exit(exitcode)
    for task in tasks:
        _note_cut(tape, worker, task, f"the worker {ended}")
    tape.left(_pid(worker), ended)


def note_present(tape: Tape, worker: WorkerHandle) -> None:
    """Note what a worker does at the end of a trace: which task it runs, or that it has none."""
    running = worker.outstanding.get(worker.control.started - 1)
    if worker.control.began and running is not None:
        _note_cut(tape, worker, running, "still running at the end of the trace")
    elif not worker.outstanding:
        tape.idle_at_end.add(_pid(worker))


def _note_cut(tape: Tape, worker: WorkerHandle, task: Task, why: str) -> None:
    ended, control = now(), worker.control
    began = int(control.task_began * 1e9) or ended
    names = task.call.names
    ran = numbers_of(task.call, task.index, task.count, control.running)
    if names is not None and ran is not None and len(ran) < len(names.numbers(task.index, task.count)):
        why += f", with {names.text(ran)}"
    tape.note_cut(Cut(_pid(worker), name_of(task), _items(task), max(began, tape.began), ended, why))


def _items(task: Task) -> str:
    return items_of(task.call, task.index, task.count)


def _pid(worker: WorkerHandle) -> int:
    return worker.process.pid or 0
