"""The list of what the package asks of the system: one place, and every system's module has all of it."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path

import pytest

import arrowpool
from arrowpool.memory import platform
from arrowpool.memory.platform import darwin, linux, pagemap, processes
from tests import programs

PACKAGE = Path(arrowpool.__file__).parent
#: Modules that know the system, and where they may be imported: in the platform, and for the reason given.
THE_SYSTEM = {"fcntl", "resource", "ctypes", "_posixshmem"}
EXCEPTIONS = {
    "cli/top_screen.py": "select: waits for keys",
    "codecs/kept.py": "ctypes: objects of CPython, not the system",
    "integrations/dask/sealed.py": "ctypes: a view of memory that keeps its owner, not the system",
    "portable/__init__.py": "ctypes, select: asks what there is",
    "waiting.py": "select: waits for several descriptors",
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_no_other_module_asks_the_system():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        asked = {one for one in _imports(path) if one in THE_SYSTEM | {"select"}}
        if asked and not name.startswith("memory/platform/"):
            found[name] = asked
    assert found.keys() == EXCEPTIONS.keys(), found


OF_LINUX = {
    name: getattr(module, name)
    for module in (linux, pagemap, processes)
    for name in vars(module).keys() & set(platform.__all__)
    if vars(module)[name].__module__ == module.__name__
}


@pytest.mark.parametrize("name", sorted(OF_LINUX))
def test_both_systems_have_the_same_functions(name):
    ours, theirs = OF_LINUX[name], getattr(darwin, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize("size", [16 << 10, 64 << 10], ids=["16 kB", "64 kB"])
def test_larger_pages(size, tmp_path):
    """As on some machines with aarch64: segments are rounded up, and lie where such a kernel can map them."""
    program = tmp_path / "program.py"
    program.write_text(f"""
import os
kernels = os.sysconf
os.sysconf = lambda name: {size} if name in ("SC_PAGESIZE", "SC_PAGE_SIZE") else kernels(name)
import numpy as np
import arrowpool
from arrowpool.memory import platform
assert platform.PAGE == {size}
maps = platform.map_private
def map_private(fd, offset, nbytes):
    assert not offset % {size} and not nbytes % {size}, (offset, nbytes)
    return maps(fd, offset, nbytes)
platform.map_private = map_private
def double(array):
    array *= 2
    return array
if __name__ == "__main__":
    arrays = [np.full(count, float(count)) for count in (1, 5_000, 40_000, 100_000)]
    with arrowpool.get_context("fork").Pool(2) as pool:
        for _ in range(3):
            results = pool.map(double, pool.map(double, arrays, 1), 1)
        assert all((result == 4 * array).all() for result, array in zip(results, arrays, strict=True))
        assert pool.stats().shared_bytes > 0
    pool.join()
""")
    ran = programs.run([program], timeout=60)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


def test_the_module_of_macos(tmp_path):
    """Frames go there and back through files, also under spawn, and a lost worker is replaced."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import os
import numpy as np
import arrowpool
from arrowpool.memory import platform
def double(array):
    array *= 2
    return array
def die(_):
    os._exit(9)
if __name__ == "__main__":
    assert platform.map_private.__module__.endswith("darwin")
    array = np.ones(100_000)
    for method in ("spawn", "fork"):
        with arrowpool.get_context(method).Pool(2) as pool:
            for _ in range(3):  # segments are used again, after tasks have written to them
                results = pool.map(double, pool.map(double, [array] * 4, 1), 1)
                assert all((result == 4).all() for result in results) and (array == 1).all()
            try:
                pool.map(die, [1])
            except arrowpool.WorkerLostError as error:
                assert error.exitcode == 9
            assert pool.map(len, [array]) == [100_000]
            assert pool.stats().shared_bytes > array.nbytes
        pool.join()
    reader = platform.create_unlinked("arrowpool", platform.PAGE, os.getcwd(), for_readers=True)
    theirs = platform.read_only(reader)
    try:
        platform.map_shared(theirs, platform.PAGE)
    except PermissionError:
        print("read-only")
    os.close(theirs)
    platform.close_file(reader)
    key = arrowpool.put(array)
    assert (arrowpool.get(key) == 1).all() and arrowpool.info(key).path is None
    arrowpool.delete(key)
"""
    )
    shelf = str(tmp_path / "shelf")
    ran = programs.run(
        [program],
        timeout=100,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(PACKAGE.parent),
            "ARROWPOOL_WITHOUT": "linux",
            "ARROWPOOL_SHELF_DIR": shelf,
        },
    )
    assert (ran.returncode, ran.stdout) == (0, "read-only\n"), ran.stderr


def test_the_list_is_complete():
    """Each name that Linux's modules offer to the package is one that another system's module has, too."""
    own = {
        name
        for module in (linux, pagemap, processes)
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
    }
    assert own <= set(platform.__all__)
    assert own <= set(dir(darwin)) | {"read_only"}
