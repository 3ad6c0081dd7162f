"""A node's end of the link to the client: two of Dask's connections, which the client opens.

    thread of a batch -- may_begin --> control  --> client, which notes that the tasks have begun, and permits it
    thread of a batch -- put -------> outcomes --> client

Guarantees: no task begins unless the client knows that it has. The link is a lease: once it is broken nothing begins, and what runs is
interrupted, since nobody can get its outcome.

`may_begin` and `put` are called in the threads of batches. All else runs in the event loop of the Dask worker.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from distributed.core import Status
from distributed.protocol.serialize import to_serialize

#: How often the state of the Dask worker is looked at: it has no event for that.
_LOOK_SECONDS = 0.1


class Line:
    """The link of one node to the client of one pool.

    Parameters
    ----------
    worker : distributed.Worker
        The Dask worker.
    hello : dict
        The first message to the client.
    told : callable
        Gets messages of the client: ``("cancel", call)``, ``("forget", numbers)``.
    broken : callable
        Called when the link is broken.
    """

    def __init__(
        self, worker: Any, hello: dict[str, Any], told: Callable[[str, Any], None], broken: Callable[[], None]
    ):
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._hello = hello
        self._told = told
        self._broken = broken
        self._control = _Writer()
        self._outcomes = _Writer()
        self._numbers = itertools.count()
        #: Questions that the client has not answered.
        self._asked: dict[int, concurrent.futures.Future[bool]] = {}
        #: Whether nothing begins any more. Written in the event loop, only to True; also read by the threads of batches.
        self.over = False
        #: Whether a connection has ended, so that no outcome arrives. Written and read likewise.
        self.is_broken = False

    # The threads of batches

    def may_begin(self, batch: int, start: int, count: int) -> bool:
        """Whether tasks of a batch may begin. Blocks until the client knows that they do."""
        answer: concurrent.futures.Future[bool] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._ask, batch, start, count, answer)
        except RuntimeError:  # the Dask worker has ended
            return False
        return answer.result()

    def put(self, kind: str, batch: int, *content: Any) -> None:
        """Send an outcome. The window of the client bounds what waits to be sent."""
        with contextlib.suppress(RuntimeError):
            # A list: within one process, Dask looks for what is serialized in lists and dicts only.
            self._loop.call_soon_threadsafe(self._outcomes.put, [kind, batch, *map(to_serialize, content)])

    # The event loop

    def _ask(self, batch: int, start: int, count: int, answer: concurrent.futures.Future[bool]) -> None:
        if self.over:
            answer.set_result(False)
            return
        number = next(self._numbers)
        self._asked[number] = answer
        self._control.put(("begin", number, batch, start, count))

    async def serve(self, comm: Any, role: str) -> Any:
        """Serve one of the two connections until it ends."""
        await comm.write(self._hello)
        writer = self._control if role == "control" else self._outcomes
        tasks = [asyncio.ensure_future(writer.run(comm)), asyncio.ensure_future(self._read(comm))]
        if role == "control":
            tasks.append(asyncio.ensure_future(self._look()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            comm.abort()
        return Status.dont_reply

    async def _read(self, comm: Any) -> None:
        while True:
            for kind, *content in await comm.read():
                if kind == "answer":
                    number, permitted = content
                    answer = self._asked.pop(number, None)
                    if answer is not None:
                        answer.set_result(permitted and not self.over)
                else:
                    self._told(kind, content[0])

    async def _look(self) -> None:
        """Tell the client when the Dask worker is paused, or runs again."""
        running = self._hello["running"]
        while True:
            now = self._worker.status == Status.running
            if now != running:
                running = now
                self._control.put(("running", now))
            await asyncio.sleep(_LOOK_SECONDS)

    def _end(self) -> None:
        self.stop()
        if not self.is_broken:  # also while it drains: nobody takes the outcomes any more
            self.is_broken = True
            self._broken()

    def stop(self) -> None:
        """Begin nothing any more."""
        self.over = True
        for answer in self._asked.values():
            answer.set_result(False)
        self._asked.clear()

    def drain(self) -> None:
        """Begin nothing any more, and tell the client."""
        self.stop()
        self._control.put(("draining",))

    async def flush(self) -> None:
        """Return when all outcomes are sent."""
        await self._outcomes.flushed()


class _Writer:
    """Writes messages to a connection in turn, as many at once as there are. After the end of the connection it takes none.

    A task may still end then: a node that drains would wait until its outcome is sent.
    """

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._ended = False

    def put(self, message: Any) -> None:
        if self._ended:
            return
        self._waiting.append(message)
        self._none.clear()
        self._some.set()

    async def run(self, comm: Any) -> None:
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                messages = list(self._waiting)
                self._waiting.clear()
                if messages:
                    await comm.write(messages)
                del messages
                if not self._waiting:
                    self._none.set()
        finally:
            self._ended = True
            self._waiting.clear()
            self._none.set()

    async def flushed(self) -> None:
        await self._none.wait()
