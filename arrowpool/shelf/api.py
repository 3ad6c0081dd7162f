"""The module functions of the shelf, which `arrowpool` exports: put, get, ask and delete, by key.

They are the methods of the default shelf, except for `put` and `put_many`: their objects end with the process unless they persist.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from arrowpool.shelf import layout, this_process
from arrowpool.shelf.info import Info, list_infos
from arrowpool.shelf.keys import DEFAULT
from arrowpool.shelf.shelf import Shelf, put_all

_default = Shelf(DEFAULT)


def put(obj: Any, *, persist: bool = False, key: str | None = None) -> str:
    """Put an object on the shelf, where every process of this user can get it.

    Parameters
    ----------
    obj : object
        Frames, tables and arrays are copied once, into shared memory. Any other object that can be pickled may be put as well.
    persist : bool, default False
        Keep the object until it is deleted, also after this process has ended. Otherwise it is gone when this process ends.
    key : str, optional
        A key of your choice, for a persistent object: up to 100 letters, digits, ``_``, ``-`` and ``.``, such as
        ``2024-01-15``. An object that has the key already is replaced in one step: readers get the old object or the new one,
        and readers that already opened the old one keep it. When several processes put an object under the same key, the last
        one wins.

    Returns
    -------
    str
        The key: short, and fit for argv, environment variables and JSON.

    Raises
    ------
    ValueError
        When an object cannot have that key, or is not persistent and a key is given.
    ArenaFullError
        A `MemoryError`: when there is not enough memory, or disk space.
    PermissionError
        When other users can enter the directory of persistent objects, or have taken its name.
    Exception
        Any error of pickling the object.

    See Also
    --------
    Shelf : Objects that are listed and deleted together.

    Examples
    --------
    >>> import pandas as pd
    >>> import arrowpool
    >>> frame = pd.DataFrame({"close": [1.5, 2.5]}, index=["A", "B"])
    >>> key = arrowpool.put(frame)
    >>> arrowpool.get(key)
       close
    A    1.5
    B    2.5
    >>> arrowpool.put(frame, persist=True, key="2024-01-15")
    '2024-01-15'
    >>> arrowpool.delete(key, "2024-01-15")
    """
    if persist:
        return _default.put(obj, key)
    if key is not None:
        raise ValueError("only a persistent object can have a key of your choice: put(..., persist=True)")
    return this_process.owner().put(layout.plan(obj))


def put_many(objects: Iterable[Any], *, persist: bool = False) -> list[str]:
    """Put several objects; if one of them cannot be put, none stays.

    Parameters
    ----------
    objects : iterable
        The objects, which are put one after the other.
    persist : bool, default False
        See :func:`put`.

    Returns
    -------
    list of str
        Their keys, in the same order.

    Raises
    ------
    Exception
        See :func:`put`, and any error of the iterable.

    Examples
    --------
    >>> import numpy as np
    >>> import arrowpool
    >>> keys = arrowpool.put_many([np.arange(2), "text"])
    >>> arrowpool.get_many(keys)
    [array([0, 1]), 'text']
    >>> arrowpool.delete(*keys)
    """
    return put_all(objects, functools.partial(put, persist=persist), delete)


def get(key: str) -> Any:
    """Get an object, exactly as pickling would restore it, and private to this process.

    Large buffers are not copied: they are shared memory, private once they are written to, and valid for as long as they are in
    use, also after the object was deleted or its owner has ended.

    Parameters
    ----------
    key : str
        What `put` has returned, or the key of your choice.

    Returns
    -------
    object
        A frame, table or array has the shape, types, index and names of the one that was put.

    Raises
    ------
    ShelfKeyError
        A `KeyError`: when there is no object under the key.
    PermissionError
        When the object belongs to another user.
    TimeoutError
        When the process that holds the object has to be asked, is there, and does not answer within a minute. It is asked
        where ``/proc`` does not show what it has open: in another container, for example.

    Examples
    --------
    >>> import numpy as np
    >>> import arrowpool
    >>> key = arrowpool.put(np.zeros((2, 3)))
    >>> array = arrowpool.get(key)
    >>> array[:] = 1
    >>> arrowpool.get(key)
    array([[0., 0., 0.],
           [0., 0., 0.]])
    >>> arrowpool.delete(key)
    >>> arrowpool.get(key)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    arrowpool.errors.ShelfKeyError: no key '...': it was deleted, or was never put
    """
    return _default.get(key)


def get_many(keys: Iterable[str]) -> list[Any]:
    """Get the objects under several keys, in the same order.

    Raises
    ------
    ShelfKeyError, PermissionError, TimeoutError
        See :func:`get`; at the first key that fails.

    Examples
    --------
    >>> import arrowpool
    >>> keys = [arrowpool.put("a"), arrowpool.put("b")]
    >>> arrowpool.get_many(reversed(keys))
    ['b', 'a']
    >>> arrowpool.delete(*keys)
    """
    return _default.get_many(keys)


def get_arrow(key: str) -> pa.Table:
    """Get a frame or table as an Arrow table, without a copy.

    Returns
    -------
    pyarrow.Table
        One column per column of the frame, and one per level of its index that is not a plain range.

    Raises
    ------
    ShelfKeyError, PermissionError, TimeoutError
        See :func:`get`.
    TypeError
        When Arrow cannot express the object as a table.

    Examples
    --------
    >>> import pandas as pd
    >>> import arrowpool
    >>> key = arrowpool.put(pd.DataFrame({"close": [1.5, 2.5]}))
    >>> arrowpool.get_arrow(key)["close"].to_pylist()
    [1.5, 2.5]
    >>> arrowpool.delete(key)
    """
    return _default.get_arrow(key)


def get_numpy(key: str, column: str | None = None) -> np.ndarray[Any, Any]:
    """Get an array, or a column of a frame or table as an array.

    Parameters
    ----------
    key : str
        See :func:`get`.
    column : str, optional
        Name of the column. None when the object itself is an array.

    Returns
    -------
    ndarray
        Of shape ``(rows,)`` for a column. It is writeable, and private to this process. Numbers, dates and times are not copied.

    Raises
    ------
    ShelfKeyError
        When there is no object under the key, or no such column.
    TypeError
        When the object is neither an array nor a table, as asked for, or NumPy does not have the type of the column (periods, for
        example).
    ValueError
        When the column has nulls, which NumPy's numbers cannot express. Dates and times are NaT then.
    PermissionError, TimeoutError
        See :func:`get`.

    Examples
    --------
    >>> import pandas as pd
    >>> import arrowpool
    >>> key = arrowpool.put(pd.DataFrame({"close": [1.5, 2.5]}))
    >>> arrowpool.get_numpy(key, "close")
    array([1.5, 2.5])
    >>> arrowpool.delete(key)
    """
    return _default.get_numpy(key, column)


def delete(*keys: str) -> None:
    """Delete objects. Readers that already opened one keep it.

    Raises
    ------
    ShelfKeyError
        A `KeyError`: when there is no object under one of the keys. The others are deleted.
    PermissionError
        When an object belongs to another user, or its owner cannot be identified: this process runs as ``nobody`` in a user
        namespace, where strangers have the same number.
    TimeoutError
        When the process that holds an object is there and does not answer within a minute. It may delete the object later.

    Examples
    --------
    >>> import arrowpool
    >>> key = arrowpool.put([1, 2])
    >>> arrowpool.delete(key)
    >>> arrowpool.exists(key)
    False
    """
    _default.delete(*keys)


def delete_all() -> None:
    """Delete all objects that this process has put, and all persistent objects of the default shelf.

    Examples
    --------
    >>> import arrowpool
    >>> key = arrowpool.put([1, 2])
    >>> arrowpool.delete_all()
    >>> arrowpool.exists(key)
    False
    """
    mine = this_process.current()
    if mine is not None:
        mine.delete_all()
    _default.delete_all()


def exists(key: str) -> bool:
    """Whether there is an object of this user under a key.

    Raises
    ------
    TimeoutError
        When only the process that holds the object could tell, and it does not answer; see :func:`get`.

    Examples
    --------
    >>> import arrowpool
    >>> arrowpool.exists("no-such-key")
    False
    """
    return _default.exists(key)


def info(key: str) -> Info:
    """Facts about an object, without opening it: its type, size, age and owner.

    Raises
    ------
    ShelfKeyError, PermissionError, TimeoutError
        See :func:`get`.

    Examples
    --------
    >>> import pandas as pd
    >>> import arrowpool
    >>> key = arrowpool.put(pd.DataFrame({"close": [1.5, 2.5]}))
    >>> about = arrowpool.info(key)
    >>> about.kind, about.arrow, about.persistent
    ('DataFrame', True, False)
    >>> arrowpool.delete(key)
    """
    return _default.info(key)


def list_keys() -> list[str]:
    """The keys of all objects of this user: those of running processes, and all persistent ones.

    Raises
    ------
    TimeoutError
        When a process that holds objects has to be asked, and does not answer; see :func:`get`.

    Examples
    --------
    >>> import arrowpool
    >>> key = arrowpool.put("text")
    >>> key in arrowpool.list_keys()
    True
    >>> arrowpool.delete(key)
    """
    return [one.key for one in list_infos()]


def memory_usage(key: str | None = None) -> int:
    """Bytes that one object takes, or all objects of this user, in memory and on disk.

    Raises
    ------
    ShelfKeyError, PermissionError, TimeoutError
        See :func:`get`.

    Examples
    --------
    >>> import numpy as np
    >>> import arrowpool
    >>> key = arrowpool.put(np.zeros(1_000))
    >>> 8_000 <= arrowpool.memory_usage(key) < 9_000
    True
    >>> arrowpool.delete(key)
    """
    return info(key).nbytes if key is not None else sum(one.nbytes for one in list_infos())
