"""Messages that arrive in pieces, several at a time, or not to their end."""

from __future__ import annotations

import marshal
import os
import struct
import threading

import pytest

from arrowpool.transport.channel import Channel


@pytest.fixture
def ends():
    parent, (reader, writer) = Channel.pair()
    worker = Channel(reader, writer)
    yield parent, worker
    parent.close()
    worker.close()


MESSAGES = [(1, "two", b"three", (4.5, None, True)), (), (b"x" * 5000,)]


def receive_all(channel):
    received = []
    try:
        while True:
            received += channel.receive()
    except EOFError:
        return received


def framed(message):
    payload = marshal.dumps(message)
    return struct.pack("<Q", len(payload)) + payload


def test_both_ways(ends):
    for sender, receiver in (ends, ends[::-1]):
        sent = [sender.send(message) for message in MESSAGES]
        assert all(size > 0 for size in sent)
        assert receiver.receive() == MESSAGES


def test_a_message_larger_than_the_pipe(ends):
    parent, worker = ends
    large = (b"y" * (3 << 20),)
    thread = threading.Thread(target=parent.send, args=(large,))
    thread.start()
    received = []
    while not received:
        received = worker.receive()
    thread.join()
    assert received == [large]


def test_a_sender_that_dies_at_any_byte():
    whole = b"".join(framed(message) for message in MESSAGES)
    ends = [len(b"".join(framed(message) for message in MESSAGES[:count])) for count in range(len(MESSAGES) + 1)]
    for cut in [*range(120), *range(120, len(whole) + 1, 97), len(whole)]:
        reader, writer = os.pipe()
        channel = Channel(reader, -1)
        os.write(writer, whole[:cut])
        os.close(writer)
        received = receive_all(channel)
        complete = sum(end <= cut for end in ends) - 1
        assert received == MESSAGES[:complete], cut
        channel.close()


def test_a_receiver_that_is_gone(ends):
    parent, worker = ends
    worker.close()
    with pytest.raises(OSError, match="Broken pipe"):
        parent.send((1,))


def test_no_descriptor_is_left_when_there_are_too_few(monkeypatch):
    before = set(os.listdir("/proc/self/fd"))
    real, calls = os.pipe, []

    def pipe():
        calls.append(1)
        if len(calls) == 2:
            raise OSError(24, "Too many open files")
        return real()

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(OSError, match="Too many"):
        Channel.pair()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_being_sent_is_sent_before_the_descriptor_is_closed(ends):
    """Its number may belong to another worker's pipe a moment later."""
    parent, worker = ends
    writer = parent._writer
    message = (b"x" * 2_000_000,)  # more than a pipe holds
    sender = threading.Thread(target=parent.send, args=(message,))
    sender.start()
    assert worker.readable(30)
    parent.finish()
    os.fstat(writer)
    assert receive_all(worker) == [message]
    sender.join(30)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        parent.send(message)
