"""Waiting for descriptors: what is reported readable, and that a wake-up is never lost."""

import os
import threading

import pytest

from arrowpool.waiting import SelfPipe, wait_readable


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    ends = [reader, writer]
    yield ends
    for fd in ends:
        os.close(fd)


def test_only_readable_descriptors_are_returned(pipe):
    reader, writer = pipe
    other, silent = os.pipe()
    try:
        assert wait_readable([reader, other]) == []
        os.write(writer, b"x")
        assert wait_readable([reader, other], None) == [reader]
    finally:
        os.close(other)
        os.close(silent)


def test_the_end_of_a_pipe_counts_as_readable(pipe):
    os.close(pipe.pop())
    assert wait_readable([pipe[0]], None) == [pipe[0]]


def test_the_wait_ends_when_its_time_is_over(pipe):
    assert wait_readable([pipe[0]], 0.01) == []


def test_a_wake_up_before_the_wait_ends_it_and_is_forgotten_when_drained():
    waker = SelfPipe()
    try:
        for _ in range(3):
            waker.wake()
        assert wait_readable([waker.reader], None) == [waker.reader]
        waker.drain()
        assert wait_readable([waker.reader]) == []
    finally:
        waker.close()


def test_another_thread_ends_the_wait():
    waker = SelfPipe()
    thread = threading.Thread(target=waker.wake)
    try:
        thread.start()
        assert wait_readable([waker.reader], 60) == [waker.reader]
    finally:
        thread.join()
        waker.close()


def test_waking_never_waits_even_when_the_pipe_is_full():
    waker = SelfPipe()
    try:
        for _ in range(1 << 17):
            waker.wake()
        assert wait_readable([waker.reader]) == [waker.reader]
    finally:
        waker.close()


def test_waking_after_the_end_does_nothing_and_closing_twice_neither():
    waker = SelfPipe()
    waker.close()
    waker.close()
    waker.wake()
