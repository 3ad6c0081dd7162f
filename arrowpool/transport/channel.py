"""One duplex stream of messages between the parent and one worker, and what a forked child must not keep of it.

A message is a tuple of plain values (numbers, bytes, tuples), framed by its length. Two pipes, not a socket pair: a pipe
holds thousands of small messages, which are then read with one system call, where a socket holds 278 of whatever size.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import struct
import threading

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
        Where messages come from, and where they go to.
    """

    def __init__(self, reader: int, writer: int):
        self._reader = reader
        self._writer = writer
        self._received = bytearray()
        #: Held while the writer is written to: closed in between, its number may be that of another worker's pipe.
        self._sending = threading.Lock()
        self._finished = False

    @classmethod
    def pair(cls) -> tuple[Channel, tuple[int, int]]:
        """The parent's end, and the descriptors (reader, writer) of the worker's."""
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
            with contextlib.suppress(AttributeError, OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return cls(here_reader, here_writer), (there_reader, there_writer)

    def fileno(self) -> int:
        return self._reader

    def send(self, message: Message) -> int:
        """Send one message; return its bytes.

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
        """Wait for bytes, once; return the messages that are complete by now.

        Raises
        ------
        EOFError
            When the other end is gone and everything it sent has been returned.
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
        """Whether `receive` would not wait; waits up to `timeout` seconds for that (None: for ever)."""
        return bool(wait_readable((self._reader,), timeout))

    def finish(self) -> None:
        """Say that no more messages will be sent; the other end gets EOFError after the last one."""
        self._finished = True
        if self._sending.acquire(blocking=False):  # else whoever sends now does it after that
            try:
                # Forgotten first: a child forked in between would close by number what has been opened since.
                writer, self._writer = self._writer, -1
                if writer >= 0:
                    os.close(writer)
            finally:
                self._sending.release()

    def close_in_child(self) -> None:
        """Close all of it in a child that was forked while any thread did anything with it."""
        self._sending = threading.Lock()
        self.close()

    def close(self) -> None:
        self.finish()
        reader, self._reader = self._reader, -1
        if reader >= 0:
            os.close(reader)
