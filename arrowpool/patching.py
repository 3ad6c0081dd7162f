"""arrowpool in unmodified programs: `install` and `uninstall`.

`install` replaces three names:

- `multiprocessing.pool.Pool`. `multiprocessing.Pool` and the `Pool` of every context look this name up at each call, so they use the new
  class even where they were imported before. Code that has imported the class `multiprocessing.pool.Pool` itself before keeps the old
  class.
- `concurrent.futures.ProcessPoolExecutor`, also in `concurrent.futures.process`. Code that has imported the class before keeps the old one.
- joblib's default backend, when joblib is imported, or at once if it is.

Under spawn and forkserver, the preparation data that `multiprocessing` sends to new processes makes them install too.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import process as executors
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing import pool as stdlib
from multiprocessing import spawn
from types import ModuleType
from typing import Any, NamedTuple

from arrowpool.executor import ProcessPoolExecutor
from arrowpool.forking import run_in_children
from arrowpool.pool import ArrowPool


class Kinds(NamedTuple):
    """What is replaced."""

    pools: bool = True
    executors: bool = True
    joblib: bool = True


#: The originals of the replaced names; and what is replaced now, if anything. The last two change with `_changing` held.
_Pool = stdlib.Pool
_Executor = executors.ProcessPoolExecutor
_prepare: Callable[..., dict[str, Any]] = spawn.get_preparation_data
_installed: Kinds | None = None
_changing = threading.Lock()

#: How many of each kind this process has used: "pool", "executor", "joblib call" and others. Any thread adds and reads, with `_counting` held.
_counted: Counter[str] = Counter()
_counting = threading.Lock()


#: A call of joblib that names joblib's own processes as its backend: these are not replaced.
LOKY_CALL = "joblib call with backend='loky'"


def count(kind: str) -> None:
    """Note that something of a kind was used."""
    with _counting:
        _counted[kind] += 1


def counted() -> Counter[str]:
    """What was used in this process, by kind."""
    with _counting:
        return Counter(_counted)


class _Standing(type):
    """Metaclass of the classes that replace others: every instance and subclass of the original is also one of the replacement."""

    def __instancecheck__(cls, instance: Any) -> bool:
        original = vars(cls).get("_original")
        return super().__instancecheck__(instance) if original is None else isinstance(instance, original)

    def __subclasscheck__(cls, subclass: type) -> bool:
        original = vars(cls).get("_original")
        return super().__subclasscheck__(subclass) if original is None else issubclass(subclass, original)


class Pool(ArrowPool, metaclass=_Standing):
    """`ArrowPool` in place of `multiprocessing.pool.Pool`."""

    _original = _Pool

    def __init__(self, *args: Any, **kwargs: Any):
        # `ThreadPool`, and subclasses that were defined before `install`, call this constructor by the replaced name.
        is_ours = ArrowPool in type(self).__mro__
        (ArrowPool.__init__ if is_ours else _Pool.__init__)(self, *args, **kwargs)
        if is_ours:
            count("pool")


class Executor(ProcessPoolExecutor, metaclass=_Standing):
    """arrowpool's `ProcessPoolExecutor` in place of that of `concurrent.futures`."""

    _original = _Executor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        count("executor")


def install(*, pools: bool = True, executors: bool = True, joblib: bool = True) -> None:
    """Use arrowpool in place of three others: here, and in processes started from now on.

    Thread pools and existing pools do not change. Can be called again; `uninstall` undoes it.

    Parameters
    ----------
    pools : bool
        Whether `multiprocessing.Pool`, and the `Pool` of every context, is an `ArrowPool`.
    executors : bool
        Whether `concurrent.futures.ProcessPoolExecutor` is arrowpool's. Code that has imported the class before keeps the old one.
    joblib : bool
        Whether joblib's default backend is arrowpool's, here and in libraries that use joblib. Calls that name a backend use that.

    Examples
    --------
    >>> import multiprocessing
    >>> import arrowpool
    >>> arrowpool.install()
    >>> with multiprocessing.Pool(2) as pool:
    ...     isinstance(pool, arrowpool.ArrowPool)
    True
    >>> arrowpool.uninstall()
    """
    global _installed, _prepare
    wanted = Kinds(pools, executors, joblib)
    with _changing:
        if _installed == wanted:
            return
        if _installed is not None:
            _restore()
        # A child that was forked in the middle of `install` may find this done already.
        if spawn.get_preparation_data is not _prepare_and_install:
            _prepare = spawn.get_preparation_data
        spawn.get_preparation_data = _prepare_and_install
        if pools:
            stdlib.Pool = Pool  # type: ignore[misc]
        if executors:
            _set_executor(Executor)
        if joblib:
            _joblib.replace()
        _installed = wanted


def _renew_locks() -> None:
    """Called in a forked child, which has none of the threads that may have held a lock."""
    global _changing, _counting
    _changing, _counting = threading.Lock(), threading.Lock()


run_in_children(_renew_locks)


def uninstall() -> None:
    """Undo `install`: the three names are the originals again, also where they were imported in the meantime."""
    global _installed
    with _changing:
        if _installed is not None:
            _restore()
            _installed = None


def _restore() -> None:
    stdlib.Pool = _Pool  # type: ignore[misc]
    _set_executor(_Executor)
    _joblib.restore()
    spawn.get_preparation_data = _prepare


def _set_executor(kind: type[futures.ProcessPoolExecutor]) -> None:
    futures.ProcessPoolExecutor = kind  # type: ignore[misc]
    executors.ProcessPoolExecutor = kind  # type: ignore[misc]


def _prepare_and_install(name: str) -> dict[str, Any]:
    # First, so that it is unpickled before the child imports the main module. `multiprocessing` ignores keys that it does not know.
    return {"arrowpool": _Install(_installed or Kinds()), **_prepare(name)}


class _Install:
    """Calls `install` when it is unpickled."""

    def __init__(self, kinds: Kinds):
        self._kinds = kinds

    def __reduce__(self) -> tuple[Any, ...]:
        return _install, tuple(self._kinds)


def _install(pools: bool, executors: bool, joblib: bool) -> None:
    install(pools=pools, executors=executors, joblib=joblib)


class _Joblib(MetaPathFinder):
    """joblib's default backend. Nothing is imported: if joblib is not, this waits on `sys.meta_path` until the program imports it."""

    #: Restores the default backend, while it is replaced. Changes with `_changing` held, or while joblib is imported.
    _undo: Callable[[], None] | None = None

    def replace(self) -> None:
        if "joblib" in sys.modules:
            try:
                from arrowpool.integrations.joblib import make_default
            except ImportError:  # joblib is older than the backend
                return
            self._undo = make_default(lambda: count("joblib call"), lambda: count(LOKY_CALL))
        elif self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def restore(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "joblib":
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader, self.replace)
        return spec


class _Loader(Loader):
    """A module's own loader, which calls a function when the module is loaded."""

    def __init__(self, loader: Loader, then: Callable[[], None]):
        self._loader = loader
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()


_joblib = _Joblib()
