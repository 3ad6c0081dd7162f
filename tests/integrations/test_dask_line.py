"""A node's end of the link to the client, over connections of which each read and write is the test's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.integrations.conftest import library

library("distributed")
line = pytest.importorskip("arrowpool.integrations.dask.line")

LIMIT = 10


class Worker:
    """What a line looks at of a Dask worker."""

    status = line.Status.running


class Connection:
    """A connection whose other end reads what is written, until it is cut."""

    def __init__(self):
        self.written = []
        self.incoming = asyncio.Queue()
        self.is_cut = False

    async def write(self, message):
        if self.is_cut:
            raise OSError("cut")
        self.written.append(message)

    async def read(self):
        message = await self.incoming.get()
        if message is None:
            raise OSError("cut")
        return message

    def cut(self):
        self.is_cut = True
        self.incoming.put_nowait(None)

    def abort(self):
        self.is_cut = True


def with_line(test):
    """Run a test with a line, its connections, what serves these, and what it was told when it broke."""

    async def run():
        broken = threading.Event()
        subject = line.Line(Worker(), {"running": True}, lambda kind, content: None, broken.set)
        connections = {"control": Connection(), "outcomes": Connection()}
        serving = {role: asyncio.ensure_future(subject.serve(comm, role)) for role, comm in connections.items()}
        try:
            while not all(comm.written for comm in connections.values()):
                await asyncio.sleep(0)
            await asyncio.wait_for(test(subject, connections, serving, broken), LIMIT)
        finally:
            for comm in connections.values():
                comm.cut()
            await asyncio.wait_for(asyncio.gather(*serving.values()), LIMIT)

    asyncio.run(run())


def test_a_task_begins_when_the_client_says_so():
    async def test(subject, connections, serving, broken):
        control = connections["control"]
        asking = asyncio.ensure_future(asyncio.to_thread(subject.may_begin, 7, 0, 3))
        while len(control.written) < 2:
            await asyncio.sleep(0)
        assert control.written == [{"running": True}, [("begin", 0, 7, 0, 3)]]
        control.incoming.put_nowait([("answer", 0, True)])
        assert await asking is True
        subject.drain()
        assert await asyncio.to_thread(subject.may_begin, 7, 3, 1) is False
        assert not broken.is_set()

    with_line(test)


@pytest.mark.parametrize("role", ["control", "outcomes"])
def test_a_node_that_drains_does_not_wait_for_a_client_that_is_gone(role):
    """The client ends while the node drains; a task ends after that."""

    async def test(subject, connections, serving, broken):
        subject.drain()
        connections[role].cut()
        await asyncio.wait((serving[role],))
        assert broken.is_set()
        subject.put("outcomes", 7, 0, "late")
        await asyncio.sleep(0)
        await subject.flush()

    with_line(test)


def test_a_node_drains_once_its_outcomes_are_written():
    async def test(subject, connections, serving, broken):
        subject.drain()
        subject.put("outcomes", 7, 0, "in time")
        await asyncio.sleep(0)
        await subject.flush()
        ((kind, number, *_),) = connections["outcomes"].written[1]
        assert (kind, number) == ("outcomes", 7)
        assert not broken.is_set()

    with_line(test)
