"""A duplex stream of messages between the parent and one worker.

A message is a tuple of plain values (numbers, bytes, tuples), preceded by its length. The stream is two pipes, not a socket pair: a
pipe holds thousands of small messages, which are then read with one system call; a socket holds 278 messages of any size.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import struct
import threading

from arrowpool.memory import platform
from arrowpool.transport.protocol import Message
from arrowpool.waiting import wait_readable

_HEADER = struct.Struct("<Q")
_READ_BYTES = 1 << 18
_PIPE_BYTES = 1 << 18


class Channel:
    """One end of the stream; owns its two descriptors.

    Parameters
    ----------
    reader, writer : int
        Descriptors for reading and writing.
    """

    def __init__(self, reader: int, writer: int):
        self._reader = reader
        self._writer = writer
        self._received = bytearray()
        #: Held while the writer is written to or closed: if it were closed during a write, its number could be another pipe's.
        self._sending = threading.Lock()
        self._finished = False

    def __repr__(self) -> str:
        finished = " | finished" if self._finished else ""
        return f"<Channel reader={self._reader} writer={self._writer} | half received: {len(self._received):,} bytes{finished}>"

    @classmethod
    def pair(cls) -> tuple[Channel, tuple[int, int]]:
        """The parent's end, and the descriptors (reader, writer) of the worker's end."""
        fds: list[int] = []
        try:
            for _ in range(2):
                fds += os.pipe()
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        here_reader, there_writer, there_reader, here_writer = fds
        for fd in (here_writer, there_writer):
            with contextlib.suppress(OSError):
                platform.enlarge_pipe(fd, _PIPE_BYTES)
        return cls(here_reader, here_writer), (there_reader, there_writer)

    def fileno(self) -> int:
        return self._reader

    def send(self, message: Message) -> int:
        """Send one message; return its size in bytes.

        Raises
        ------
        OSError
            When the other end is gone.
        """
        payload = marshal.dumps(message)
        framed = _HEADER.pack(len(payload)) + payload
        try:
            with self._sending:
                sent = os.write(self._writer, framed)
                if sent < len(framed):
                    with memoryview(framed) as rest:
                        while sent < len(framed):
                            sent += os.write(self._writer, rest[sent:])
        finally:
            if self._finished:
                self.finish()
        return len(payload)

    def receive(self) -> list[Message]:
        """Wait for bytes once; return the messages that are complete.

        Raises
        ------
        EOFError
            When the other end is gone and all its messages were returned.
        """
        chunk = os.read(self._reader, _READ_BYTES)
        if not chunk:
            raise EOFError("the other end of the channel is gone")
        received = self._received
        received += chunk
        messages: list[Message] = []
        at, end = 0, len(received)
        with memoryview(received) as view:
            while end - at >= _HEADER.size:
                start = at + _HEADER.size
                stop = start + _HEADER.unpack_from(view, at)[0]
                if stop > end:
                    break
                messages.append(marshal.loads(view[start:stop]))
                at = stop
        del received[:at]
        return messages

    def readable(self, timeout: float | None = 0) -> bool:
        """Whether `receive` would return at once. Waits up to `timeout` seconds for that; None for no limit."""
        return bool(wait_readable((self._reader,), timeout))

    def give_reader_away(self) -> int:
        """The reader, the caller's own from here on: it reports its end when no process has the other end any more."""
        reader, self._reader = self._reader, -1
        return reader

    def finish(self) -> None:
        """Close the writer: the other end gets EOFError after the last message."""
        self._finished = True
        if self._sending.acquire(blocking=False):  # else the thread that sends now closes it afterwards
            try:
                # The attribute first: a child that is forked in between would close another file that has the number by then.
                writer, self._writer = self._writer, -1
                if writer >= 0:
                    os.close(writer)
            finally:
                self._sending.release()

    def close_in_child(self) -> None:
        """Close both descriptors in a forked child. At the fork, any thread may have been in the middle of any method."""
        self._sending = threading.Lock()
        self.close()

    def close(self) -> None:
        self.finish()
        reader, self._reader = self._reader, -1
        if reader >= 0:
            os.close(reader)
