"""What each reply of a worker means for the task that it answers. No process."""

from __future__ import annotations

import pytest

from arrowpool.engine.events import Short, WorkerJoined
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.replies import Replies
from arrowpool.errors import TransferError, WorkerInitError
from arrowpool.transport import protocol
from arrowpool.transport.reducer import Reducer
from tests.workers import a_task, a_worker

TIMES = (0.0, 0.0, 0.0)


class Results:
    """A result object that keeps what it gets."""

    def __init__(self):
        self.outcomes = {}

    def _set(self, index, outcome):
        self.outcomes[index] = outcome


class House:
    def __init__(self):
        self.results = Results()
        self.open_calls = OpenCalls({0: self.results})
        self.names = []
        self.replies = Replies(self.open_calls, self.names.append, Metrics(), Recorder())
        self.worker = a_worker()
        self.task = a_task()
        self.task.call.job = 0
        self.worker.outstanding[5] = self.task

    def settle(self, *messages):
        return self.replies.settle(self.worker, list(messages))


@pytest.fixture
def house():
    return House()


def test_every_reply_of_the_protocol_has_a_handler():
    assert set(Replies._handlers) == set(protocol._REPLIES)


def test_a_message_of_an_unknown_type_raises(house, monkeypatch):
    monkeypatch.setattr(protocol, "read_replies", list)
    with pytest.raises(TypeError, match="the collector has no handler for str"):
        house.settle("a reply")


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (protocol.task_done(5, TIMES, protocol.plain(7)), (True, 7)),
        (protocol.task_failed(5, TIMES, protocol.plain(7), (), "its traceback"), (False, 7)),
    ],
)
def test_a_task_that_was_run_gets_its_outcome_once(house, message, outcome):
    settled = house.settle(message, message)
    assert house.results.outcomes == {house.task.index: outcome}
    assert settled.answered == [house.task]
    assert not settled.returned
    assert not house.worker.outstanding


@pytest.mark.parametrize("kind", ["result", "exception"])
def test_what_cannot_be_rebuilt_is_an_error_of_its_task(house, kind):
    body = protocol.encoded(b"no pickle")
    done = protocol.task_done(5, TIMES, body)
    failed = protocol.task_failed(5, TIMES, body, (), "its traceback")
    settled = house.settle(done if kind == "result" else failed)
    success, error = house.results.outcomes[house.task.index]
    assert not success
    assert isinstance(error, TransferError)
    assert f"the {kind} of task" in str(error)
    assert settled.answered == [house.task]


@pytest.mark.parametrize("message", [protocol.task_skipped(5), protocol.task_unreadable(5)])
def test_a_task_that_was_not_run_is_returned(house, message):
    house.worker.may_borrow = True
    settled = house.settle(message, message)
    assert settled.returned == [house.task]
    assert not settled.answered
    assert not house.results.outcomes
    assert house.worker.may_borrow == (message == protocol.task_skipped(5)), "it has said what it cannot read"


def test_what_the_feeder_has_to_know_is_returned(house):
    settled = house.settle(protocol.hello({"f": None}, True), protocol.memory_short())
    assert settled.for_feeder == [WorkerJoined(house.worker), Short(house.worker)]
    assert house.names == [{"f": None}]
    assert house.worker.may_borrow


def test_a_failed_initializer_is_returned(house):
    stream, _ = Reducer(inline_limit=1000).reduce(ZeroDivisionError("a reason"))
    settled = house.settle(protocol.initializer_failed(stream, "its traceback"))
    assert isinstance(settled.broken, WorkerInitError)
    assert isinstance(settled.broken.__cause__, ZeroDivisionError)


def test_after_a_halt_no_result_is_set(house):
    house.open_calls.halt()
    settled = house.settle(protocol.task_done(5, TIMES, protocol.plain(7)))
    assert not house.results.outcomes
    assert settled.answered == [house.task]
