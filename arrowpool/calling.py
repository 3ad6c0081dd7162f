"""How a pool makes a call, waits for it, and ends it: what the methods in `call_methods` and `frame_methods` have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sized
from multiprocessing import pool as stdlib
from multiprocessing.pool import mapstar  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, TypeVar

from arrowpool.engine.calls import Call, OnError, Share, Snapshot
from arrowpool.engine.imap import IMapIterator
from arrowpool.engine.item_names import ItemNames, Names
from arrowpool.engine.recorder import Activity, Recorder
from arrowpool.engine.results import ApplyResult, MapResult
from arrowpool.engine.source import runs_code, tasks_of
from arrowpool.errors import again
from arrowpool.interrupts import check_process
from arrowpool.iterables import batches_of, checked_chunksize, expect_no_more, refuse_frame, returns_errors

if TYPE_CHECKING:  # it needs shared memory, which not every system has
    from arrowpool.engine.engine import Engine

_T = TypeVar("_T")
#: Parts of a call without a `chunksize` for each worker, as in the standard library: workers that are faster get more of them.
_PARTS_FOR_A_WORKER = 4


class Calling(stdlib.Pool):
    """Base class of `CallMethods`. `ArrowPool` sets the attributes below."""

    #: Process that made the pool. A forked child does not have the pool's threads, and cannot make calls. -1 until it is made.
    _pid = -1
    _processes: int
    _engine: Engine
    #: Notes waits for results in a trace. This one never has a tape.
    _recorder = Recorder()
    #: Objects that are shared now, oldest first. Any thread adds, removes and reads, with one atomic operation each.
    _shares: dict[Share, None]

    def __del__(
        self,
        *args: Any,
        # Arguments, since at the end of the interpreter the modules may be empty by now.
        _getpid: Callable[[], int] = os.getpid,
        _is_finalizing: Callable[[], bool] = sys.is_finalizing,
        **kwargs: Any,
    ) -> None:
        if self._pid == _getpid():
            try:
                super().__del__(*args, **kwargs)
            except Exception:
                if not _is_finalizing():
                    raise

    def _check_running(self) -> None:
        check_process(self._pid)
        super()._check_running()  # type: ignore[misc]
        if self._broken is not None:
            raise again(self._broken)

    @property
    def _broken(self) -> BaseException | None:
        """The error for all calls when no worker of this pool can run a task; None otherwise."""
        return self._engine.error

    def _parts(self) -> int:
        """In how many parts a call without a `chunksize` is cut."""
        return self._processes * _PARTS_FOR_A_WORKER

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Any,
        mapper: Any,
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        names: Names | None = None,
        on_error: str = "raise",
    ) -> MapResult[Any]:
        self._check_running()
        becomes = OnError.RETURN_EACH if returns_errors(on_error) else OnError.RAISE
        refuse_frame(iterable, "map" if mapper is mapstar else "starmap")
        # Copied also when it is a list: the caller may change that while tasks wait.
        if type(iterable) is list or not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        lazy, count = runs_code(iterable), len(iterable)
        if count == 0:
            chunksize = 0
            if lazy:
                expect_no_more(iter(iterable), 0)
        elif chunksize is None:
            chunksize = -(-count // self._parts())
        else:
            chunksize = checked_chunksize(chunksize)
        batches = batches_of(func, iterable, chunksize, count, lazy)
        result: Any = MapResult(self, chunksize, count, callback, error_callback=error_callback)
        length = result._number_left
        tasks = tasks_of(result._job, mapper, batches, length)
        items = iterable if type(iterable) in (list, tuple) else None
        shares = self._shared_now()
        names = names or ItemNames(chunksize, count)
        self._submit(
            Call(
                tasks,
                None,
                items,
                job=result._job,
                length=length,
                names=names,
                on_error=becomes,
                lazy=lazy,
                shares=shares,
            )
        )
        return result  # type: ignore[no-any-return]

    def _imap(
        self,
        kind: type[IMapIterator[_T]],
        func: Any,
        iterable: Iterable[Any],
        chunksize: Any,
        names: Names | None = None,
        on_error: str = "raise",
    ) -> IMapIterator[_T]:
        self._check_running()
        becomes = OnError.RAISE
        refuse_frame(iterable, "imap")
        chunksize = checked_chunksize(chunksize)
        chunked = chunksize != 1
        if returns_errors(on_error):
            becomes = OnError.RETURN_EACH if chunked else OnError.RETURN
        batches = stdlib.Pool._get_tasks(func, iterable, chunksize) if chunked else iterable  # type: ignore[attr-defined]
        result = kind(self, chunked)
        tasks = tasks_of(result._job, mapstar if chunked else func, batches)
        lazy, shares = runs_code(iterable), self._shared_now()
        # No `len` of the user's is called, as with the standard library.
        count = len(iterable) if not lazy and isinstance(iterable, Sized) else None
        names = names or ItemNames(chunksize, count)
        self._submit(
            Call(
                tasks,
                result.results._set_length,
                job=result._job,
                names=names,
                on_error=becomes,
                lazy=lazy,
                shares=shares,
            )
        )
        return result

    def _snapshot(
        self, func: Callable[..., Any], args: Any, kwds: Mapping[str, Any], shares: tuple[Share, ...]
    ) -> Snapshot | None:
        return self._engine.snapshot(func, args, kwds, shares)

    def _submit(self, call: Call) -> None:
        self._engine.submit(call)

    def _framed(self, activity: Activity, began: int) -> None:
        """Note that the current thread has cut a frame, or joined results, since `began` by the recorder's clock."""
        self._engine.framed(activity, began)

    def _wait_for(self, result: ApplyResult[_T]) -> _T:
        """Wait for a call and return its value. An interrupt, or another exception of a signal handler, ends the call."""
        try:
            return result.get()
        except BaseException:
            if not result.ready():
                self._cancel(result._job)  # type: ignore[attr-defined]
            raise

    def _cancel(self, job: int, error: BaseException | None = None) -> None:
        """End a call: interrupt its running tasks, drop its waiting ones. Its result is `error`, or `CancelledError`."""
        if self._pid == os.getpid():
            self._engine.cancel(job, error)

    def _give_up(self, error: Exception) -> None:
        """Replace no worker: the user is about to end them. Calls that they leave behind end with `error`."""
        if self._pid == os.getpid():
            self._engine.give_up(error)

    def _drop(self, job: int, ends: bool) -> None:
        """Note that the results of an imap will not be read. Called in finalizers, so it takes no lock."""
        if self._pid == os.getpid():
            self._engine.drop(job, ends)

    def _shared_now(self) -> tuple[Share, ...]:
        """The objects that a call made now refers to, newest last."""
        return tuple(self._shares) if self._shares else ()
