"""The shelf: put an object once, and read it from any process of the same user under a short key.

>>> import pandas as pd
>>> import arrowpool
>>> key = arrowpool.put(pd.DataFrame({"close": [1.0, 2.0]}))

The key may go anywhere: into argv, an environment variable, a message. Any process of the same user reads the frame by it:

>>> arrowpool.get(key)
   close
0    1.0
1    2.0

There is no daemon and nothing to clean up: an object stays until it is deleted or the process that put it ends, and readers that
already opened it keep it. With ``persist=True`` it stays until it is deleted.

Keys
----
`Shelf("features").put(rsi, "rsi")` returns the key ``features/rsi``; on that shelf, ``get("rsi")`` finds the object too. Module
functions use the shelf ``default``. Of two writers of one key, the last one wins.

Storage
-------
- Tables and frames are stored as an Arrow IPC file, each column contiguous. Properties that Arrow cannot express exactly are stored
  exactly next to it. A small object's file is made when `Info.path` is first read.
- Frames that Arrow cannot express at all are stored without such a file, and their `Info.path` is None: frames with columns of mixed
  objects, with sparse columns, with two columns of one name, or without columns. The same holds for objects that are neither tables
  nor frames.
- A frame whose columns alternate between types comes back with one block for each run of neighbouring columns of one type, without a
  copy. pandas calls that fragmented (``PerformanceWarning``) when columns are added to more than a hundred blocks; ``frame.copy()``
  consolidates them.
- Arrays of foreign byte order come back in native order, as with pickle protocol 4.
- Persistent objects lie in ``/dev/shm``, else in ``XDG_RUNTIME_DIR``, else in the temporary directory; ``ARROWPOOL_SHELF_DIR``
  chooses another directory.

Memory and descriptors
----------------------
- Readers map objects of more than 256 kB, and copy smaller ones.
- Thousands of objects need few descriptors: fewer than 300 in the process that holds them.
- Memory of deleted objects is freed. Up to four large files stay warm for the next objects for half a minute, unless memory or
  descriptors are short.

Processes and users
-------------------
- Readers need nothing from the process that holds an object. `delete` from another process does need it: it waits up to a minute,
  then raises TimeoutError.
- Data of other users' processes is never unpickled. Files and sockets of other users under arrowpool's names, in ``/dev/shm`` or
  among the sockets, are ignored.
- After ``setuid``, a process can no longer get objects that it put before.
- The `Info.path` of an object in another container names that container's process: read such objects with `get`.
"""

from __future__ import annotations

from arrowpool.shelf.api import (
    delete,
    delete_all,
    exists,
    get,
    get_arrow,
    get_many,
    get_numpy,
    info,
    list_keys,
    memory_usage,
    put,
    put_many,
)
from arrowpool.shelf.info import Info, list_infos
from arrowpool.shelf.shelf import Shelf
from arrowpool.shelf.store import remove_unfinished

__all__ = [
    "Info",
    "Shelf",
    "delete",
    "delete_all",
    "exists",
    "get",
    "get_arrow",
    "get_many",
    "get_numpy",
    "info",
    "list_infos",
    "list_keys",
    "memory_usage",
    "put",
    "put_many",
    "remove_unfinished",
]
