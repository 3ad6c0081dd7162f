"""Applies the function of a task to its items, and knows which of them runs, and for which one it raised.

Results, order and exceptions are those of the standard library's `mapstar` and `starmapstar`: a chunk ends with its first exception,
unless exceptions are returned (`Star.MAP_ALL`).

A chunk is run in steps, so that the parent knows what ran when this process is killed: it notes the items of each step.
A step takes about `_STEP_SECONDS`: one item, or a few short ones, so that noting them costs next to nothing.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import mapstar, starmapstar  # type: ignore[attr-defined]
from typing import Any, ClassVar

from arrowpool.frames.work import ApplyToRun
from arrowpool.transport.protocol import KEEPS_GOING, SOME_ITEM, Star
from arrowpool.transport.sent_errors import Outcomes, SentError

#: To note a step takes less than a microsecond.
_STEP_SECONDS = 100e-6
_GROWTH = 4


class Items:
    """The items of the running task. For the worker's main thread only.

    Parameters
    ----------
    note : callable
        Gets the position of the item that runs now, and how many run with it; 0 and 0 when none runs.
    note_group : callable
        As `note`, for a group: gets its position and its key.
    caught : callable
        Called with an exception that is to be returned; gives what stands for it. What it raises ends the task.
    """

    #: The one of this process, where it is a worker: for tasks that apply functions themselves. Written once, before the first task.
    own: ClassVar[Items]

    def __init__(
        self,
        note: Callable[[int, int], object],
        note_group: Callable[[int, Any], object],
        caught: Callable[[BaseException], SentError],
    ) -> None:
        self._note = note
        self._note_group = note_group
        self._caught = caught
        #: Position of the item for which the function raised; `SOME_ITEM` unless it just has.
        self._failed_at = SOME_ITEM
        #: Number of the function of the last chunk, and how many of its items make a step.
        self._function = -1
        self._size = 1

    def apply(self, number: int, function: Callable[..., Any], star: int, payload: Any) -> Any:
        """Return the value of a task.

        Parameters
        ----------
        number : int
            Number of the function: short items of one function go together in a step.
        function : callable
            The function.
        star : int
            How the function is applied: see `Star`.
        payload : tuple
            What it is applied to.
        """
        if number != self._function:
            self._function, self._size = number, 1
        if type(function) is ApplyToRun:
            return self._apply_to_run(function, star, payload)
        return self._apply(function, star, payload)

    def apply_within(self, function: Callable[..., Any], star: int, payload: Any) -> Any:
        """As `apply`, for a running task of one item that carries a task of another pool. Positions are those in that one."""
        if type(function) is ApplyToRun:
            return self._apply_to_run(function, star, payload)
        return self._apply(function, star, payload)

    def _apply_to_run(self, function: ApplyToRun, star: int, payload: Any) -> Any:
        """As `apply`, for a run of groups: its only item. A position is that of a group."""
        group = SOME_ITEM

        def begin(at: int, key: Any) -> None:
            nonlocal group
            group = at
            self._note_group(at, key)

        try:
            return self._apply(partial(function, note=begin, caught=self._caught), star, payload)
        except BaseException:
            self._failed_at = group
            raise
        finally:
            self._note(0, 0)

    def _apply(self, function: Callable[..., Any], star: int, payload: Any) -> Any:
        if star == Star.CALL:
            try:
                return function(*payload[0], **payload[1])
            except BaseException:
                self._failed_at = 0
                raise
        if star in KEEPS_GOING:
            return self._all(function, star, payload)
        apply = mapstar if star == Star.MAP else starmapstar
        if type(payload) is not tuple:  # of a call that other code has queued
            return apply((function, payload))
        items, count = iter(payload), len(payload)
        try:
            if count > self._size:
                return self._in_steps(map if star == Star.MAP else itertools.starmap, function, items, count)
            if count == 1:
                return apply((function, items))
            # One step: the parent needs no note to know the items.
            began = time.perf_counter()
            values = apply((function, items))
            self._adapt(count, time.perf_counter() - began)
            return values
        except BaseException:
            # The iterator of a tuple knows how many items it has left. That costs nothing until now.
            self._failed_at = count - 1 - operator.length_hint(items)
            raise

    def _in_steps(
        self, apply: Callable[..., Iterator[Any]], function: Callable[..., Any], items: Iterator[Any], count: int
    ) -> list[Any]:
        values: list[Any] = []
        try:
            while len(values) < count:
                done = len(values)
                size = min(self._size, count - done)
                self._note(done, size)
                began = time.perf_counter()
                values.extend(apply(function, itertools.islice(items, size)))
                self._adapt(size, time.perf_counter() - began)
                if len(values) < done + size:
                    break  # the function has raised StopIteration, which ends a chunk of the standard library, too
            return values
        finally:
            self._note(0, 0)

    def _all(self, function: Callable[..., Any], star: int, payload: Any) -> Any:
        """The values of a chunk; with exceptions in the places of some, they are `Outcomes`."""
        count, one_by_one = len(payload), star == Star.MAP_ALL
        values: list[Any] = []
        failed = False
        try:
            while len(values) < count:
                done = len(values)
                size = min(self._size, count - done)
                self._note(done, size)
                began = time.perf_counter()
                for item in payload[done : done + size]:
                    if type(item) is SentError:
                        values.append(item)
                        failed = True
                        continue
                    try:
                        values.append(function(item) if one_by_one else function(*item))
                    except BaseException as error:
                        values.append(self._caught(error))
                        failed = True
                self._adapt(size, time.perf_counter() - began)
        finally:
            self._note(0, 0)
        return Outcomes(values) if failed else values

    def _adapt(self, size: int, seconds: float) -> None:
        """Choose the number of items of the next step, after one of `size` items."""
        if seconds > _STEP_SECONDS:
            self._size = max(1, int(size * _STEP_SECONDS / seconds))
        elif size == self._size and seconds < _STEP_SECONDS / _GROWTH:
            self._size *= _GROWTH

    def failed_at(self) -> int:
        """The position of the item for which the function raised just now; `SOME_ITEM` if the error comes from elsewhere."""
        at, self._failed_at = self._failed_at, SOME_ITEM
        return at
