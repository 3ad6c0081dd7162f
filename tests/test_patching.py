"""Programs that say `multiprocessing.Pool`: they get ours, and otherwise see what they see under Python itself."""

from __future__ import annotations

import concurrent.futures.process
import importlib
import multiprocessing
import multiprocessing.context
import multiprocessing.pool
import os
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from multiprocessing import spawn
from pathlib import Path

import pytest

import arrowpool
from arrowpool import patching
from arrowpool.patching import install, uninstall
from arrowpool.pool import ArrowPool
from tests.conftest import METHODS
from tests.pool import tasks

ROOT = Path(__file__).parent.parent
#: What the command line does.
RUN = ["-c", "import sys; from arrowpool.running import run; sys.exit(run(sys.argv[1:]))"]


@pytest.fixture
def installed():
    install()
    yield
    uninstall()


def ways():
    """Every way to the pool that a program has."""
    from multiprocessing import Pool
    from multiprocessing.pool import Pool as Class

    contexts = [multiprocessing.get_context(method) for method in (None, *METHODS)]
    return [multiprocessing.Pool, Pool, multiprocessing.pool.Pool, Class, *[context.Pool for context in contexts]]


def kinds(makers):
    found = []
    for make in makers:
        with make(1) as pool:
            found.append(isinstance(pool, ArrowPool))
            assert pool.map(abs, [-1, -2]) == [1, 2]
        pool.join()
    return found


def test_every_way_to_the_pool_is_ours(installed):
    assert kinds(ways()) == [True] * 8


def test_the_start_method_is_kept(installed):
    for method in METHODS:
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert isinstance(pool, ArrowPool)
            assert pool._ctx.get_start_method() == method
        pool.join()


def test_what_was_imported_before_and_meanwhile():
    before = multiprocessing.Pool
    install()
    meanwhile = importlib.import_module("multiprocessing").Pool
    try:
        assert kinds([before, meanwhile]) == [True, True]
    finally:
        uninstall()
    assert multiprocessing.Pool == meanwhile
    for make in (before, meanwhile, multiprocessing.Pool):
        assert type(make.__self__).__module__ == "multiprocessing.context"
        with make(1) as pool:  # the census knows that this one keeps its pipes until it is collected
            assert not isinstance(pool, ArrowPool)
        pool.join()
    del pool


def test_uninstall_restores_the_originals():
    names = [
        (multiprocessing, "Pool"),
        (multiprocessing.pool, "Pool"),
        (multiprocessing.context.BaseContext, "Pool"),
        (spawn, "get_preparation_data"),
        (concurrent.futures, "ProcessPoolExecutor"),
        (concurrent.futures.process, "ProcessPoolExecutor"),
    ]
    before = [getattr(*name) for name in names]
    finders = list(sys.meta_path)
    uninstall()
    install()
    install()
    assert multiprocessing.pool.Pool is not before[1]
    assert concurrent.futures.ProcessPoolExecutor is not before[4]
    uninstall()
    assert all(getattr(*name) is was for name, was in zip(names, before, strict=True))
    assert sys.meta_path == finders
    uninstall()
    assert all(getattr(*name) is was for name, was in zip(names, before, strict=True))


def test_importing_arrowpool_changes_nothing():
    program = """
    import multiprocessing.pool, multiprocessing.spawn
    before = multiprocessing.pool.Pool, multiprocessing.Pool, multiprocessing.spawn.get_preparation_data
    import arrowpool.patching
    assert before == (multiprocessing.pool.Pool, multiprocessing.Pool, multiprocessing.spawn.get_preparation_data)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, cwd=ROOT)


def test_thread_pools_stay_thread_pools(installed):
    from multiprocessing.dummy import Pool as Dummy

    for make in (multiprocessing.pool.ThreadPool, Dummy):
        with make(2) as pool:
            assert pool.map(tasks.pid, range(3)) == [os.getpid()] * 3
            assert isinstance(pool, multiprocessing.pool.Pool)
            assert isinstance(pool, multiprocessing.pool.ThreadPool)
            assert not isinstance(pool, ArrowPool)
        pool.join()


def test_what_is_an_instance(installed):
    with ArrowPool(1) as pool:
        assert isinstance(pool, multiprocessing.pool.Pool)
    pool.join()
    assert issubclass(ArrowPool, multiprocessing.pool.Pool)
    assert issubclass(multiprocessing.pool.ThreadPool, multiprocessing.pool.Pool)
    assert not isinstance(5, multiprocessing.pool.Pool)
    assert not issubclass(int, multiprocessing.pool.Pool)


def test_subclasses(installed):
    class Mine(multiprocessing.pool.Pool):
        def doubled(self, values):
            return [2 * value for value in self.map(abs, values)]

    with Mine(2) as pool:
        assert isinstance(pool, ArrowPool)
        assert pool.doubled([-1, -2]) == [2, 4]
        assert isinstance(pool, Mine)
    pool.join()
    assert not issubclass(ArrowPool, Mine)


# Programs, under Python and under `run`

SHOW = """
import os, sys
print(__name__, __file__, __spec__, __package__, __doc__, type(__loader__).__name__, type(__builtins__).__name__)
print(sys.argv, sys.path[0], sys.modules["__main__"].__dict__ is globals(), sorted(globals()))
"""

#: name -> text of a program; all that it shows is what Python shows too.
PROGRAMS = {
    "surroundings": SHOW,
    "sys.exit(3)": "import sys\nsys.exit(3)",
    "sys.exit(words)": "import sys\nsys.exit('words')",
    "error": 'def fail():\n    raise ValueError("no")\n\n\nfail()',
    "chained errors": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('no') from error",
    "syntax": "x = (1,\nprint('a'",
    "interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True:\n    pass",
    "hook": "import sys\nsys.excepthook = lambda kind, value, tb: print(kind, value, tb.tb_lineno)\n1 / 0",
    "at exit": "import atexit, sys\natexit.register(lambda: print(sys.modules['__main__'].x))\nx = 5\n1 / 0",
    "threads": "import threading, sys\nx = 7\ndef late():\n    threading.main_thread().join()\n    "
    "print(sys.modules['__main__'].x)\nthreading.Thread(target=late).start()",
    "annotations": "x: int = 5\nclass A:\n    y: int\nprint(__annotations__, A.__annotations__)",
    "encoding": "# -*- coding: latin-1 -*-\nprint('\\xe9', ascii('é'))",
    "pickling": "import pickle\nclass A: pass\ndef f(): pass\nprint(pickle.loads(pickle.dumps(f)) is f, type(pickle.loads(pickle.dumps(A()))) is A)",
}


def python(arguments, directory, **kwargs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **kwargs,
    )
    # On a busy machine a pool may warn that it did not pay.
    pattern = re.compile("^calls of an arrowpool.Pool were slower.*\n|(?<=0x)[0-9a-f]+", re.MULTILINE)
    return done.returncode, *[pattern.sub("", text) for text in (done.stdout, done.stderr)]


NOTHING = "arrowpool: replaced nothing\n"


def same(arguments, directory, begins=True):
    """What the program shows under Python; it has to show the same under `run`, which adds one line if the program begins."""
    code, out, err = python(arguments, directory)
    assert python([*RUN, *arguments], directory) == (code, out, err + NOTHING if begins else err)
    return code, out, err


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_script_as_under_python(name, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "script.py").write_text(PROGRAMS[name], encoding="latin-1" if name == "encoding" else "utf-8")
    code, out, err = same([os.path.join("sub", "script.py"), "one", "-m", "--two=2"], tmp_path, name != "syntax")
    assert out or err or code
    if name == "interrupt":
        assert code == -signal.SIGINT


INTERRUPTED = """
import os, signal, time
from multiprocessing import Pool

if __name__ == "__main__":
    with Pool(2) as pool:
        pool.apply_async(abs, (-1,), callback=lambda _: os.kill(os.getpid(), signal.SIGINT))
        pool.map(time.sleep, [30] * 4)
"""


def test_an_interrupted_pool_shows_one_traceback(tmp_path):
    """The pool is deleted when modules are empty by now."""
    (tmp_path / "script.py").write_text(INTERRUPTED)
    code, _, err = python([*RUN, "script.py"], tmp_path)
    assert code == -signal.SIGINT
    assert err.count("Traceback") == 1, err
    assert "ignored" not in err


LEFT_OPEN = """
import sys
from multiprocessing import Pool

def main():
    pool = Pool(1)
    print(pool.apply(abs, (-1,)))
    sys.exit(3)

if __name__ == "__main__":
    main()
"""


def test_a_pool_that_is_left_open_at_the_exit(tmp_path):
    """The traceback of the exit has it until the modules are empty."""
    (tmp_path / "script.py").write_text(LEFT_OPEN)
    code, out, err = python(["script.py"], tmp_path)
    assert (code, out, err) == (3, "1\n", "")
    assert python([*RUN, "script.py"], tmp_path) == (code, out, "arrowpool: replaced 1 pool\n")


@pytest.mark.parametrize("name", ["surroundings", "error", "sys.exit(3)"])
def test_a_module_as_under_python(name, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PROGRAMS[name])
    (package / "module.py").write_text(PROGRAMS[name])
    for module in ("package", "package.module"):
        code, out, err = same(["-m", module, "one", "-x"], tmp_path)
        assert out or err or code


@pytest.mark.parametrize("form", ["directory", "zip", "pyc", "link"])
def test_other_forms_of_a_program(form, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "__main__.py").write_text(SHOW)
    program = {"directory": "source", "zip": "packed.zip", "pyc": "compiled.pyc", "link": "linked.py"}[form]
    if form == "zip":
        with zipfile.ZipFile(tmp_path / program, "w") as packed:
            packed.writestr("__main__.py", SHOW)
    elif form == "pyc":
        import py_compile

        py_compile.compile(str(source / "__main__.py"), cfile=str(tmp_path / program))
    elif form == "link":
        (tmp_path / program).symlink_to(source / "__main__.py")
    code, out, err = python([program, "one"], tmp_path)
    assert (code, err) == (0, "")
    assert python([*RUN, program, "one"], tmp_path) == (code, out, NOTHING)
    assert python([*RUN, "--quiet", program, "one"], tmp_path) == (code, out, "")


@pytest.mark.parametrize(
    "arguments", [["nosuch.py"], ["-m", "nosuch"], ["-m", "package"], ["empty"], ["unreadable.py"]], ids=" ".join
)
def test_what_cannot_be_run(arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "unreadable.py").symlink_to("unreadable.py")
    code, out, err = same(arguments, tmp_path, begins=False)
    assert code
    assert not out
    assert err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], 2), (["-m"], 2), (["--nonsense", "x.py"], 2), (["--quiet"], 2), (["-h"], 0), (["--quiet", "--help"], 0)],
    ids=str,
)
def test_its_usage(arguments, code, tmp_path):
    done = python([*RUN, *arguments], tmp_path)
    assert done[0] == code
    assert "usage: python -m arrowpool run [OPTION...] SCRIPT" in done[1 if code == 0 else 2]


#: An unmodified program: pools by every way, tasks of its own, and a process of its own that has a pool too.
CLIENT = """
import multiprocessing as mp
import sys
from multiprocessing import Pool, get_context, Process
from multiprocessing.pool import ThreadPool

class Point:
    def __init__(self, x):
        self.x = x

def moved(point):
    return Point(point.x + 1)

def kind(pool):
    return next(base.__module__ for base in type(pool).__mro__ if "patching" not in base.__module__)

def of_my_own(queue):
    with Pool(1) as pool:
        queue.put((kind(pool), [p.x for p in pool.map(moved, [Point(1)])]))
    pool.join()

if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    for make in (Pool, mp.Pool, get_context().Pool, mp.pool.Pool):
        with make(2) as pool:
            print(kind(pool), [p.x for p in pool.imap(moved, map(Point, range(3)))])
        pool.join()
    with ThreadPool(2) as pool:
        print(kind(pool), [p.x for p in pool.map(moved, map(Point, range(3)))])
    queue = mp.Queue()
    child = Process(target=of_my_own, args=(queue,))
    child.start()
    print(*queue.get())
    child.join()
    print(child.exitcode)
    sys.exit(4)
"""


# A worker imports the program by its path or by its name, the same way if it is spawned or a server's; if forked, neither.
@pytest.mark.parametrize(
    ("form", "method"), [("script", "fork"), ("script", "spawn"), ("script", "forkserver"), ("module", "spawn")]
)
def test_an_unmodified_program_and_its_processes(method, form, tmp_path):
    (tmp_path / "client.py").write_text(CLIENT)
    arguments = [*(["client.py"] if form == "script" else ["-m", "client"]), method]
    under_python = python(arguments, tmp_path)
    assert under_python[0] == 4
    assert under_python[1].count("multiprocessing.pool [") == 6
    code, out, err = python([*RUN, *arguments], tmp_path)
    assert (code, err) == (4, "arrowpool: replaced 4 pools; not: 1 process\n")
    assert out.count("arrowpool.pool [") == 5
    assert out.replace("arrowpool.pool", "multiprocessing.pool") == under_python[1]


def install_and_uninstall():
    install()
    uninstall()


def test_a_child_that_was_forked_while_a_thread_installs():
    child = multiprocessing.get_context("fork").Process(target=install_and_uninstall)
    with patching._changing:
        child.start()
    child.join(10)
    exitcode = child.exitcode
    child.kill()
    child.join()
    assert exitcode == 0


def test_install_completes_a_partial_install(monkeypatch):
    monkeypatch.setattr(spawn, "get_preparation_data", patching._prepare_and_install)
    install()
    try:
        assert patching._prepare is not patching._prepare_and_install
        assert "arrowpool" in spawn.get_preparation_data("name")
    finally:
        uninstall()


# What is replaced next to pools, and what is said of it


def test_executors_are_ours(installed):
    from concurrent.futures import ProcessPoolExecutor

    assert ProcessPoolExecutor is concurrent.futures.process.ProcessPoolExecutor

    class Mine(ProcessPoolExecutor):
        def doubled(self, values):
            return [2 * value for value in self.map(abs, values)]

    with Mine(1) as executor:
        assert isinstance(executor, arrowpool.ProcessPoolExecutor)
        assert executor.doubled([-1, -2]) == [2, 4]
    assert issubclass(arrowpool.ProcessPoolExecutor, ProcessPoolExecutor)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        assert not isinstance(threads, ProcessPoolExecutor)
    assert not issubclass(arrowpool.ProcessPoolExecutor, Mine)


@pytest.mark.parametrize("kind", patching.Kinds._fields)
def test_each_kind_can_be_left(kind):
    install()
    install(**{kind: False})
    try:
        replaced = patching.Kinds(
            multiprocessing.pool.Pool is patching.Pool,
            concurrent.futures.ProcessPoolExecutor is patching.Executor,
            patching._joblib in sys.meta_path or patching._joblib._undo is not None,
        )
        assert replaced == patching.Kinds()._replace(**{kind: False})
    finally:
        uninstall()


EVERYTHING = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Manager, Pool, Process, get_context

def kind(one):
    return next(base.__module__ for base in type(one).__mro__ if "patching" not in base.__module__).partition(".")[0]

def executor_of_a_worker(_):
    with ProcessPoolExecutor(1) as executor:
        return kind(executor)

if __name__ == "__main__":
    with Pool(1) as pool, ProcessPoolExecutor(1) as executor, Manager():
        print(kind(pool), kind(executor), executor.submit(abs, -1).result())
    pool.join()
    with get_context("spawn").Pool(1) as pool:
        print(pool.map(executor_of_a_worker, [0]) if "--no-pools" not in sys.argv else "-")
    pool.join()
    for _ in range(2):
        process = Process(target=abs, args=(1,))
        process.start()
        process.join()
"""


@pytest.mark.parametrize(
    ("options", "kinds", "said"),
    [
        ([], "arrowpool arrowpool", "replaced 2 pools, 1 executor; not: 2 processes"),
        (["--no-pools"], "multiprocessing arrowpool", "replaced 1 executor; not: 2 processes, pools (--no-pools)"),
        (["--no-executors", "--no-joblib"], "arrowpool concurrent",
         "replaced 2 pools; not: 2 processes, executors (--no-executors), joblib (--no-joblib)"),
    ],
    ids=["all", "no pools", "no executors"],
)  # fmt: skip
def test_what_run_replaces_and_says(options, kinds, said, tmp_path):
    (tmp_path / "program.py").write_text(EVERYTHING)
    code, out, err = python([*RUN, *options, "program.py", *options], tmp_path)
    assert (code, err) == (0, f"arrowpool: {said}\n")
    worker = kinds.partition(" ")[2] if "--no-pools" not in options else None
    assert out.splitlines() == [f"{kinds} 1", f"['{worker}']" if worker else "-"]


WITH_JOBLIB = """
import joblib, os, sys
from joblib import Parallel, delayed

if __name__ == "__main__":
    print(type(joblib.parallel.get_active_backend()[0]).__module__.partition(".")[0], joblib.__spec__.loader.__class__.__name__)
    pids = Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4))
    print(os.getpid() not in pids, Parallel(n_jobs=2, prefer="threads")(delayed(abs)(-i) for i in range(3)))
    print(Parallel(n_jobs=1)(delayed(abs)(-i) for i in range(3)))
    Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3))
    assert os.getpid() not in Parallel(n_jobs=2, backend="loky")(delayed(os.getpid)() for _ in range(2))
    if "--no-joblib" not in sys.argv:
        with joblib.parallel_config(backend="loky", n_jobs=2):
            Parallel()(delayed(abs)(-i) for i in range(3))
"""


@pytest.mark.parametrize(
    ("options", "backend", "said"),
    [([], "arrowpool", "replaced 2 joblib calls; not: 2 joblib calls with backend='loky'"), (["--no-joblib"], "joblib", "replaced nothing; not: joblib (--no-joblib)")],
    ids=["replaced", "left"],
)  # fmt: skip
def test_joblibs_default_backend(options, backend, said, tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "program.py").write_text(WITH_JOBLIB)
    code, out, err = python([*RUN, *options, "program.py"], tmp_path)
    assert (code, err) == (0, f"arrowpool: {said}\n")
    assert out.splitlines() == [f"{backend} SourceFileLoader", "True [0, 1, 2]", "[0, 1, 2]"]


def test_nothing_is_said_of_a_module_that_cannot_be_compiled(tmp_path):
    (tmp_path / "broken.py").write_text("if True\n")
    code, out, err = python([*RUN, "-m", "broken"], tmp_path)
    assert (code, out) == (1, "")
    assert "SyntaxError" in err
    assert "replaced" not in err


def test_what_was_replaced_is_said_of_a_program_that_fails(tmp_path):
    program = """
    from multiprocessing import Pool
    if __name__ == "__main__":
        Pool(1).terminate()
        raise SystemExit(3)
    """
    (tmp_path / "fails.py").write_text(textwrap.dedent(program))
    for arguments in (["fails.py"], ["-m", "fails"]):
        assert python([*RUN, *arguments], tmp_path) == (3, "", "arrowpool: replaced 1 pool\n")


def test_joblib_that_is_imported_before():
    pytest.importorskip("joblib")
    program = """
    import joblib
    import arrowpool
    before = dict(joblib.parallel.BACKENDS), joblib.parallel.DEFAULT_BACKEND
    arrowpool.install()
    assert joblib.parallel.DEFAULT_BACKEND == "arrowpool"
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    arrowpool.uninstall()
    assert joblib.parallel.DEFAULT_BACKEND == before[1]
    assert joblib.parallel.BACKENDS["loky"] is before[0]["loky"]
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, cwd=ROOT)
