"""Calls, tasks and workers without processes, for what only decides about them."""

from __future__ import annotations

import types

import numpy as np

from arrowpool.engine.calls import Blob, Call, Task
from arrowpool.engine.worker_handle import WorkerHandle
from arrowpool.memory.announcements import END, Announcements
from arrowpool.transport.parcel import Parcel
from arrowpool.transport.protocol import encoded

NOTHING = Parcel(encoded(b""), (), 0)


class Control:
    """A control page that is looked into."""

    def __init__(self):
        self.started = 0
        self.task_began = 0.0
        self.cpu = self.delayed = 0.0
        self.running = range(0)
        self.recalled = []
        self.interrupted = []
        self.answers = []
        self.arguments = None
        self.results = types.SimpleNamespace(resident=0)
        self.announcements = Announcements(memoryview(bytearray(END)))
        self.released_by_worker = np.zeros(16, dtype=np.uint8)

    def recall(self, end):
        self.recalled.append(end)

    def interrupt(self, number):
        self.interrupted.append(number)

    def answer(self, elsewhere):
        self.answers.append(elsewhere)


class Channel:
    """Keeps what is sent; raises when the other end is gone."""

    def __init__(self):
        self.sent = []
        self.gone = False

    def send(self, message):
        if self.gone:
            raise BrokenPipeError
        self.sent.append(message)
        return 1


def a_call(job=0, *, mean=None, stateless=True, **more):
    return Call(iter(()), None, job=job, mean_seconds=mean, blobs=(Blob(0, stateless, NOTHING),), **more)


def a_task(call=None, index=0):
    return Task(call or a_call(), index, 0, NOTHING, ())


def a_worker(outstanding=0, *, pid=1, call=None, **state):
    """A worker that was sent so many tasks and has not answered them."""
    worker = WorkerHandle(
        types.SimpleNamespace(pid=pid), Channel(), Control(), types.SimpleNamespace(leased=lambda: 0), sentinel=-1
    )
    for index in range(outstanding):
        worker.outstanding[worker.sent] = a_task(call, index)
        worker.sent += 1
    for name, value in state.items():
        setattr(worker, name, value)
    return worker
