"""The two queues between a pool and its workers. After the end of all workers, they are given up without waiting for a lock.

A worker that is killed may hold the lock of a queue, or may have written half a message. The standard library's pool then waits
indefinitely, also in `terminate`.
"""

from __future__ import annotations

from multiprocessing.connection import wait
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Base = SimpleQueue[Any]
else:
    _Base = SimpleQueue


class Queue(_Base):
    """`multiprocessing.SimpleQueue`. In the pool's process, one thread uses it, without its locks.

    Workers use `get` and `put`, as of any such queue.
    """

    _reader: Any
    _writer: Any

    def send(self, message: Any) -> None:
        """Put a message for a worker.

        Raises
        ------
        OSError
            When the workers have ended: see `stop_sending`.
        """
        self._writer.send(message)

    def receive(self, *others: Any) -> Any:
        """Take a message of a worker. None when there is none, and one of the other connections is readable.

        Raises
        ------
        OSError, EOFError
            When the workers have ended: see `stop_receiving`.
        """
        if self._reader not in wait([self._reader, *others]):
            return None
        try:
            return self._reader.recv()
        except (OSError, EOFError):
            raise
        except Exception as error:
            # Every message of a worker can be rebuilt: its content stays packed. So this one was cut off.
            raise EOFError("a worker ended in the middle of a message") from error

    def stop_sending(self) -> None:
        """No worker takes messages any more: a thread that waits in `send` gets an OSError."""
        self._reader.close()

    def stop_receiving(self) -> None:
        """No worker puts messages any more: a thread that waits in `receive` gets those that are there, then EOFError."""
        self._writer.close()
