"""What the parent's threads tell each other. No process."""

from __future__ import annotations

import queue
import threading

import pytest

from arrowpool.engine.collector import Collector
from arrowpool.engine.events import Drawn, Read, Released, Releases, WorkerExited, WorkerJoined
from arrowpool.engine.inbox import Inbox
from arrowpool.engine.metrics import Metrics
from arrowpool.engine.open_calls import OpenCalls
from arrowpool.engine.parts import assemble
from arrowpool.engine.recorder import Recorder
from arrowpool.engine.replies import Replies
from arrowpool.engine.state import PoolState
from arrowpool.transport.sender import Sender
from arrowpool.tuning import HEADROOM_STEP
from tests.workers import a_worker


def test_events_are_equal_when_class_and_fields_are():
    assert Drawn(1) == Drawn(1) != Drawn(2)
    assert Drawn(1) != Read(1)
    assert repr(Drawn(1)) == "Drawn(job=1)"


def test_events_have_no_other_attributes():
    for event in (Drawn(1), Released(), WorkerExited(a_worker(), 1), WorkerJoined(a_worker())):
        with pytest.raises((AttributeError, TypeError)):
            event.other = 1


@pytest.mark.parametrize("event", [None, object(), WorkerExited, "a call"])
def test_the_feeder_raises_on_an_unknown_event(event):
    parts = assemble(
        inbox=queue.SimpleQueue(),
        tell_collector=print,
        cache={},
        sender=Sender(None),
        budget=1000,
        one_by_one=False,
        workers=[],
        metrics=Metrics(),
        rested=print,
        recorder=Recorder(),
    )
    with pytest.raises(TypeError, match="no handler"):
        parts.events.handle(event)


@pytest.mark.parametrize("event", [None, object(), WorkerExited, "a call", Drawn(1)])
def test_the_collector_raises_on_an_unknown_event(event):
    inbox = Inbox()
    try:
        open_calls = OpenCalls({})
        collector = Collector(
            inbox=inbox,
            feeder_inbox=queue.SimpleQueue(),
            answered=print,
            replies=Replies(open_calls, print, Metrics(), Recorder()),
            open_calls=open_calls,
            state=PoolState(),
            retries=0,
            task_timeout=None,
            metrics=Metrics(),
            recorder=Recorder(),
        )
        with pytest.raises(TypeError, match="no handler"):
            collector._handle(event)
    finally:
        inbox.close()


@pytest.mark.parametrize(
    ("amounts", "events"),
    [
        ([HEADROOM_STEP - 1], 0),
        ([HEADROOM_STEP], 1),
        ([HEADROOM_STEP - 1, 1], 1),
        ([HEADROOM_STEP // 2] * 5, 2),
        ([3 * HEADROOM_STEP], 1),
        ([0, 0], 0),
    ],
)
def test_releases_are_reported_after_a_number_of_bytes(amounts, events):
    inbox = queue.SimpleQueue()
    releases = Releases(inbox)
    for nbytes in amounts:
        releases(nbytes)
    assert inbox.qsize() == events


def test_releases_of_several_threads_are_all_counted():
    inbox = queue.SimpleQueue()
    releases = Releases(inbox)
    together = threading.Barrier(4)

    def release():
        together.wait(30)
        for _ in range(5000):
            releases(1)

    threads = [threading.Thread(target=release) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inbox.empty()
    releases(HEADROOM_STEP - 20_000)
    assert inbox.qsize() == 1, "20,000 bytes were released in the threads"
