"""arrowpool in unmodified programs that use `multiprocessing.Pool`: `install`, `uninstall`, and ``python -m arrowpool run``.

`install` replaces one name, `multiprocessing.pool.Pool`. `multiprocessing.Pool` and the `Pool` of every context look this name up
at each call, so they use the new class even where they were imported before. Code that has imported the class
`multiprocessing.pool.Pool` itself before keeps the old class. Under spawn and forkserver, the preparation data that
`multiprocessing` sends to new processes makes them install too.

`run` executes a program as Python does: same `__main__`, `sys.argv`, `sys.path`, tracebacks and exit codes.
"""

from __future__ import annotations

import builtins
import io
import os
import pkgutil
import runpy
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from multiprocessing import pool as stdlib
from multiprocessing import spawn
from types import CodeType, ModuleType, TracebackType
from typing import Any

from arrowpool.pool import ArrowPool

_USAGE = "usage: python -m arrowpool run SCRIPT [ARGUMENT...]\n       python -m arrowpool run -m MODULE [ARGUMENT...]\n"

#: The originals of the two replaced names; and whether they are replaced now. The last two change with `_changing` held.
_Pool = stdlib.Pool
_prepare: Callable[..., dict[str, Any]] = spawn.get_preparation_data
_installed = False
_changing = threading.Lock()

#: The function behind ``python -m``.
_as_main: Callable[..., Any] = runpy._run_module_as_main  # type: ignore[attr-defined]


class _Standing(type):
    """Metaclass of `Pool`: every instance and subclass of `multiprocessing.pool.Pool` is also one of `Pool`."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Pool) if cls is Pool else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _Pool) if cls is Pool else super().__subclasscheck__(subclass)


class Pool(ArrowPool, metaclass=_Standing):
    """`ArrowPool` in place of `multiprocessing.pool.Pool`."""

    def __init__(self, *args: Any, **kwargs: Any):
        # `ThreadPool`, and subclasses that were defined before `install`, call this constructor by the replaced name.
        initialize = ArrowPool.__init__ if ArrowPool in type(self).__mro__ else _Pool.__init__
        initialize(self, *args, **kwargs)


def install() -> None:
    """Make `multiprocessing.Pool`, and the `Pool` of every context, an `ArrowPool`: here, and in processes started from now on.

    Thread pools and existing pools do not change. Can be called again; `uninstall` undoes it.

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
    with _changing:
        if not _installed:
            # A child that was forked in the middle of `install` may find this done already.
            if spawn.get_preparation_data is not _prepare_and_install:
                _prepare = spawn.get_preparation_data
            stdlib.Pool = Pool  # type: ignore[misc]
            spawn.get_preparation_data = _prepare_and_install
            _installed = True


def _renew_lock() -> None:
    """Called in a forked child, which has none of the threads that may have held the lock."""
    global _changing
    _changing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def uninstall() -> None:
    """Make `multiprocessing.Pool` the standard library's again, also where it was imported in the meantime."""
    global _installed
    with _changing:
        if _installed:
            stdlib.Pool = _Pool  # type: ignore[misc]
            spawn.get_preparation_data = _prepare
            _installed = False


class _Install:
    """Calls `install` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return install, ()


def _prepare_and_install(name: str) -> dict[str, Any]:
    # First, so that it is unpickled before the child imports the main module. `multiprocessing` ignores keys that it does not know.
    return {"arrowpool": _Install(), **_prepare(name)}


def run(argv: Sequence[str]) -> int:
    """Run a program with arrowpool in place of `multiprocessing.Pool`. For the command line: Python exits afterwards.

    Parameters
    ----------
    argv : sequence of str
        ``[script, argument, ...]`` or ``["-m", module, argument, ...]``. A script is a file, or a directory or zip file with a
        ``__main__.py``.

    Returns
    -------
    int
        The exit code of a program that runs to its end.

    Raises
    ------
    BaseException
        The exception that the program raises, SystemExit included. Its traceback is shown as Python shows it, without the
        frames of this module.
    """
    if not argv or argv == ["-m"] or argv[0] in ("-h", "--help"):
        asked = argv[:1] not in ([], ["-m"])
        (sys.stdout if asked else sys.stderr).write(_USAGE)
        return 0 if asked else 2
    install()
    main = ModuleType("__main__")
    vars(main)["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        vars(main)["__annotations__"] = {}
    if argv[0] == "-m":
        sys.argv = list(argv[1:])
        _set_first_path(os.getcwd())
        return _execute(main, lambda: _as_main(argv[1]))
    sys.argv = list(argv)
    path = os.path.abspath(argv[0])
    if pkgutil.get_importer(path) is not None:
        _set_first_path(path, always=True)
        return _execute(main, lambda: _as_main("__main__", alter_argv=False))
    try:
        with io.open_code(path) as file:
            content = file.read()
    except OSError as error:
        print(f"{sys.orig_argv[0]}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        return 2
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    loader = (SourcelessFileLoader if path.endswith(".pyc") else SourceFileLoader)("__main__", path)
    vars(main).update(__file__=path, __cached__=None, __loader__=loader)
    return _execute(main, lambda: exec(_compiled(loader, content, path), vars(main)))


def _compiled(loader: SourceFileLoader | SourcelessFileLoader, content: bytes, path: str) -> CodeType:
    if isinstance(loader, SourcelessFileLoader):
        code = loader.get_code("__main__")
        assert code is not None
        return code
    return compile(content, path, "exec", dont_inherit=True)


def _set_first_path(path: str, *, always: bool = False) -> None:
    """Make `path` the first directory of `sys.path`, in place of the one that ``python -m arrowpool`` has put there."""
    safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)  # the latter since Python 3.11
    if not safe:
        sys.path[0] = path
    elif always:
        sys.path.insert(0, path)


def _execute(main: ModuleType, program: Callable[[], None]) -> int:
    """Run the program in this ``__main__``, which stays in `sys.modules`."""
    # Spawned workers pickle objects of the main module under the second name. multiprocessing sets both names to one module.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    try:
        program()
    except BaseException as error:
        sys.excepthook = _without_our_frames(sys.excepthook, error)
        raise
    return 0


def _without_our_frames(
    hook: Callable[[type[BaseException], BaseException, TracebackType | None], Any], error: BaseException
) -> Callable[[type[BaseException], BaseException, TracebackType | None], Any]:
    # Python itself shows the error with the program's own hook, and chooses the exit code: after Ctrl-C, that of the signal.
    theirs = error.__traceback__
    while theirs is not None and theirs.tb_frame.f_code.co_filename == run.__code__.co_filename:
        theirs = theirs.tb_next

    def show(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> Any:
        if value is error:
            return hook(kind, value.with_traceback(theirs), theirs)
        return hook(kind, value, traceback)

    return show
