"""``python -m arrowpool run``: a program as Python runs it, with arrowpool in place of other pools.

`run` executes a program as Python does: same `__main__`, `sys.argv`, `sys.path`, tracebacks and exit codes. One line on standard error
follows its end: what was replaced, and what was not.
"""

from __future__ import annotations

import atexit
import builtins
import io
import itertools
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from multiprocessing import pool as stdlib
from multiprocessing.process import BaseProcess
from types import CodeType, ModuleType, TracebackType
from typing import Any

from arrowpool.patching import LOKY_CALL, count, counted, install

_USAGE = """\
usage: python -m arrowpool run [OPTION...] SCRIPT [ARGUMENT...]
       python -m arrowpool run [OPTION...] -m MODULE [ARGUMENT...]
       python -m arrowpool run --scheduler ADDRESS ...     (pools on a Dask cluster)

Runs a program in which multiprocessing.Pool, concurrent.futures.ProcessPoolExecutor and joblib's default backend are arrowpool's.

options:
  --no-pools      keep multiprocessing.Pool
  --no-executors  keep ProcessPoolExecutor
  --no-joblib     keep joblib's default backend
  --quiet         do not say at the end what was replaced
"""
_OPTIONS = {"--no-pools", "--no-executors", "--no-joblib", "--quiet"}
#: Kinds that are counted, with their plural: those that are replaced, and those that are not.
_REPLACED = {"pool": "pools", "executor": "executors", "joblib call": "joblib calls"}
_NOT_REPLACED = {"process": "processes", LOKY_CALL: "joblib calls with backend='loky'"}
#: Packages that start processes for pools, which are not counted as the program's own.
_STARTERS = {"arrowpool", "multiprocessing", "concurrent", "joblib", "loky"}

#: The function behind ``python -m``.
_as_main: Callable[..., Any] = runpy._run_module_as_main  # type: ignore[attr-defined]


def run(argv: Sequence[str], pool: type[stdlib.Pool] | None = None) -> int:
    """Run a program with arrowpool in place of others. For the command line: Python exits afterwards.

    Parameters
    ----------
    argv : sequence of str
        ``[script, argument, ...]`` or ``["-m", module, argument, ...]``, after options. A script is a file, or a directory or zip
        file with a ``__main__.py``.
    pool : type, optional
        What the program's pools are, instead of `patching.Pool`. Those of its child processes are local.

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
    options = list(itertools.takewhile(lambda word: word.startswith("--") and word != "--help", argv))
    argv = argv[len(options) :]
    asked = argv[:1] in (["-h"], ["--help"])
    if asked or not argv or argv == ["-m"] or not set(options) <= _OPTIONS:
        (sys.stdout if asked else sys.stderr).write(_USAGE)
        return 0 if asked else 2
    left = {option.removeprefix("--no-") for option in options}
    install(pools="pools" not in left, executors="executors" not in left, joblib="joblib" not in left)
    if pool is not None and "pools" not in left:
        stdlib.Pool = pool  # type: ignore[misc]
    main = ModuleType("__main__")
    vars(main)["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        vars(main)["__annotations__"] = {}
    if "--quiet" not in options:
        _report_at_exit(left, main)
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

    def script() -> None:
        code = _compiled(loader, content, path)
        vars(main).update(__file__=path, __loader__=loader)
        if sys.version_info < (3, 15):
            vars(main)["__cached__"] = None
        exec(code, vars(main))

    return _execute(main, script)


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


def _report_at_exit(left: set[str], main: ModuleType) -> None:
    """Say at the end of this process, not of its children, what was replaced. Counts the processes that the program starts itself.

    Nothing is said if the program has not begun: until then, its ``__main__`` has no file, as for a module that cannot be found.
    """
    pid, start = os.getpid(), BaseProcess.start

    def start_and_count(self: BaseProcess) -> None:
        start(self)
        if sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] not in _STARTERS:
            count("process")

    def say() -> None:
        if os.getpid() == pid and sys.stderr is not None and "__file__" in vars(main):
            print(report(counted(), left), file=sys.stderr)

    BaseProcess.start = start_and_count  # type: ignore[method-assign]
    atexit.register(say)


def report(found: Mapping[str, int], left: Collection[str] = ()) -> str:
    """What was replaced and what was not, in one line.

    Parameters
    ----------
    found : mapping
        Number of "pool", "executor", "joblib call", "process" and `LOKY_CALL`.
    left : collection of str
        What was not to be replaced: "pools", "executors", "joblib".
    """
    replaced = [_some(found[one], one, many) for one, many in _REPLACED.items() if found.get(one)]
    others = [_some(found[one], one, many) for one, many in _NOT_REPLACED.items() if found.get(one)]
    others += [f"{name} (--no-{name})" for name in ("pools", "executors", "joblib") if name in left]
    done = f"replaced {', '.join(replaced)}" if replaced else "replaced nothing"
    return f"arrowpool: {done}{'; not: ' if others else ''}{', '.join(others)}"


def _some(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
