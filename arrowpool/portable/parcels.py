"""What travels between processes: pickled by reference if that works, otherwise by value.

An object that arrives stays packed until `Parcel.open` is called. So an object that cannot be rebuilt is an error of its own call.
The standard library rebuilds a task with the message that it comes in; if that fails, the worker ends, and the call waits
indefinitely.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import sys
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle

from arrowpool.transport.by_value import came_by_value, reduce_known_class, reducers


class _ByValue(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, with the reducers of `multiprocessing`: locks and connections travel as they do without it."""

    def __init__(self, file: io.BytesIO):
        # Before the constructor, which reads it.
        self.dispatch_table = ChainMap(vars(ForkingPickler)["_extra_reducers"], reducers(), copyreg.dispatch_table)
        # Not the newest protocol, with which read-only arrays stay read-only.
        super().__init__(file, protocol=pickle.DEFAULT_PROTOCOL)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and type(obj) in self.dispatch_table:  # a metaclass with a reducer
            return NotImplemented
        return super().reducer_override(obj)


class _Known(ForkingPickler):
    """For values: classes that came by value go back as the sender's own. Functions that a task has made do not travel."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and came_by_value(obj):
            return reduce_known_class(obj)
        return NotImplemented


def dumps_value(obj: Any) -> bytes:
    """Pickle the value of a task.

    Raises
    ------
    Exception
        The exception of pickling it by reference.
    """
    try:
        return bytes(ForkingPickler.dumps(obj))
    except Exception:
        file = io.BytesIO()
        with contextlib.suppress(Exception):
            _Known(file).dump(obj)
            return file.getvalue()
        raise


def has_importable_main() -> bool:
    """Whether a new process can import the main module. It cannot in a notebook, and with ``python -c``."""
    main = sys.modules.get("__main__")
    return getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")


def dumps(obj: Any) -> bytes:
    """Pickle an object for another process.

    Raises
    ------
    Exception
        The exception of pickling it by value, if it cannot be pickled by reference either.
    """
    if has_importable_main():
        with contextlib.suppress(Exception):
            return bytes(ForkingPickler.dumps(obj))
    file = io.BytesIO()
    _ByValue(file).dump(obj)
    return file.getvalue()


class Parcel:
    """An object on its way to another process, or one that has arrived and is still packed.

    Not changed after construction, except that `nbytes` is set by the thread that pickles it.
    """

    __slots__ = ("_content", "_packed", "nbytes")

    def __init__(self, content: Any, packed: bool = False):
        self._content = content
        self._packed = packed
        #: Bytes of its pickle; 0 before it is pickled.
        self.nbytes = len(content) if packed else 0

    def __reduce__(self) -> tuple[Any, ...]:
        packed = self._content if self._packed else dumps(self._content)
        self.nbytes = len(packed)
        return Parcel, (packed, True)

    @property
    def packed(self) -> bytes:
        """The pickle of an object that has arrived."""
        assert self._packed
        return self._content  # type: ignore[no-any-return]

    def open(self) -> Any:
        """The object. If it has arrived from another process, it is rebuilt now."""
        return pickle.loads(self._content) if self._packed else self._content
