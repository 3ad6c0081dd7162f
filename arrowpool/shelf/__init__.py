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
]
