"""Keys and lives: who can read what, for how long, from where; and who cannot."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pytest

import arrowpool
import arrowpool.shelf
from arrowpool import Shelf, ShelfKeyError
from arrowpool.memory import platform
from arrowpool.shelf import addresses, client, keys, remote, store, this_process, users
from tests.pool import tasks
from tests.shelf.conftest import as_nobody, root_only

pl.DataFrame({"x": [1]}).select(pl.col("x").sum())  # polars starts threads of its own with its first work, which stay


def frame(rows=20_000):
    return pd.DataFrame(
        {
            "open": np.arange(rows) * 0.5,
            "close": np.arange(rows) * 0.25 + 7,
            "ticker": [f"T{i % 7}" for i in range(rows)],
            "flag": np.arange(rows) % 2 == 0,
        },
        index=pd.date_range("2024-01-01", periods=rows, freq="min", name="time"),
    )


READ = """
    import pandas as pd
    df = arrowpool.get(sys.argv[1])
    print(df.shape, df["close"].sum(), df.index.name, str(df.index.freqstr))
"""


def test_a_frame_and_its_key():
    df = frame()
    key = arrowpool.put(df)
    assert len(key) < 40
    assert json.loads(json.dumps(key)) == key
    pd.testing.assert_frame_equal(arrowpool.get(key), df)
    assert arrowpool.exists(key)
    assert key in arrowpool.list_keys()
    about = arrowpool.info(key)
    assert (about.kind, about.persistent, about.owner, about.arrow) == ("DataFrame", False, os.getpid(), True)
    assert about.nbytes == arrowpool.memory_usage(key) <= arrowpool.memory_usage()
    assert about.nbytes > df["close"].to_numpy().nbytes
    arrowpool.delete(key)
    assert not arrowpool.exists(key)
    assert key not in arrowpool.list_keys()
    with pytest.raises(ShelfKeyError, match="was deleted"):
        arrowpool.get(key)
    with pytest.raises(KeyError, match="nothing to delete"):
        arrowpool.delete(key)


def test_everyone_has_a_copy_of_their_own():
    df = frame()
    key = arrowpool.put(df)
    df.iloc[0, 0] = -1.0  # what was put was put
    first, second = arrowpool.get_many([key, key])
    first.iloc[:, 0] = -2.0
    assert first.iloc[0, 0] == -2.0
    assert second.iloc[0, 0] == 0.0
    assert arrowpool.get(key).iloc[0, 0] == 0.0
    array = arrowpool.get_numpy(key, "close")
    array[:] = 0
    assert arrowpool.get_numpy(key, "close")[0] == 7.0


@pytest.mark.parametrize(
    "obj",
    [{"a": [1, "x"]}, np.arange(100_000).reshape(100, -1), pa.table({"x": [1, None]}), "text", None, b"z" * 100_000],
)
def test_any_object(obj, elsewhere):
    keys = arrowpool.put_many([obj, obj])
    assert repr(arrowpool.get(keys[1])) == repr(obj)
    assert elsewhere("print(repr(arrowpool.get(sys.argv[1])))", keys[0]) == repr(obj)


def test_what_cannot_be_pickled_leaves_nothing():
    arrowpool.put(1)
    with pytest.raises(TypeError):
        arrowpool.put([np.ones(100_000), threading.Lock()])
    assert len(this_process.current().records()) == 1


def test_numpy_columns():
    key = arrowpool.put(frame().assign(holes=pd.array([1, None] * 10_000, dtype="Int64")))
    assert arrowpool.get_numpy(key, "open")[5] == 2.5
    assert arrowpool.get_numpy(key, "flag").tolist()[:3] == [True, False, True]
    assert arrowpool.get_numpy(key, "ticker").tolist()[:2] == ["T0", "T1"]
    assert arrowpool.get_numpy(key, "time")[1] == np.datetime64("2024-01-01T00:01")
    with pytest.raises(ValueError, match="10,000 nulls"):
        arrowpool.get_numpy(key, "holes")
    with pytest.raises(ShelfKeyError, match=r"columns 'low'.*there are: open, close"):
        arrowpool.get_numpy(key, "low")
    with pytest.raises(TypeError, match="say which column"):
        arrowpool.get_numpy(key)
    array = arrowpool.put(np.arange(5))
    assert arrowpool.get_numpy(array).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(TypeError, match="not kept as a table"):
        arrowpool.get_numpy(array, "x")
    with pytest.raises(TypeError, match=r"ndarray.*not an Arrow table"):
        arrowpool.get_arrow(array)


def test_columns_of_times_with_gaps_and_of_no_numpy_type():
    df = pd.DataFrame(
        {
            "t": pd.to_datetime(["2020-01-01", None]),
            "z": pd.to_datetime(["2020-01-01", None]).tz_localize("UTC"),
            "d": pd.to_timedelta(["1s", None]),
            "p": pd.period_range("2020", periods=2, freq="D"),
            "i": pd.interval_range(0, 2),
            "b": [True, False],
        }
    )
    key = arrowpool.put(df)
    for column in "tdb":
        array = arrowpool.get_numpy(key, column)
        assert array.dtype == df[column].dtype
        np.testing.assert_array_equal(array, df[column].to_numpy())
        assert array.flags.writeable
    np.testing.assert_array_equal(arrowpool.get_numpy(key, "z"), df["z"].dt.tz_localize(None).to_numpy())
    for column in "pi":
        with pytest.raises(TypeError, match=f"column '{column}' .* NumPy does not have"):
            arrowpool.get_numpy(key, column)


@pytest.mark.parametrize(
    ("obj", "column", "words"),
    [
        (pd.Series(range(5), name="a"), None, r"\(Series\) is not an array; use get"),
        (pd.Series(range(5), name="a"), "a", r"\(Series\) is not kept as a table"),
        (pd.DataFrame(np.ones((5, 2)), columns=["a", "a"]), None, r"\(DataFrame\) is not an array; use get"),
        (pd.DataFrame(np.ones((5, 2)), columns=["a", "a"]), "a", r"\(DataFrame\) is not kept as a table"),
        (pd.DataFrame({"a": [1]}), None, "say which column"),
    ],
)
def test_no_column_of_that(obj, column, words):
    key = arrowpool.put(obj)
    with pytest.raises(TypeError, match=words):
        arrowpool.get_numpy(key, column)


@pytest.mark.parametrize(
    "names",
    [
        {"index": pd.Index([1.0, 2.0], name=("t", 1))},
        {"index": pd.MultiIndex.from_tuples([(1, 2), (3, 4)], names=[7, None])},
        {"columns": pd.Index([1, "1", 1.5], dtype=object)},
        {"columns": pd.Index([1, "a", b"b"], dtype=object, name="n")},
        {"columns": pd.MultiIndex.from_tuples([("a", 1), ("a", "b"), (2, "b")])},
    ],
    ids=["index", "levels", "alike", "columns", "columns of levels"],
)
def test_names_that_are_no_text_are_kept_without_a_word(names):
    """Warnings are errors here."""
    df = pd.DataFrame(np.zeros((2, 3)), **names)
    key = arrowpool.put(df)
    pd.testing.assert_frame_equal(arrowpool.get(key), df)
    if arrowpool.info(key).arrow:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pa.Table.from_pandas(df)
        assert arrowpool.get_arrow(key).column_names == expected.column_names


def test_other_libraries_read_the_file():
    df = frame(1000)
    for key in (arrowpool.put(df), arrowpool.put(df, persist=True)):
        path = arrowpool.info(key).path
        with pa.memory_map(path) as source:
            table = pa.ipc.open_file(source).read_all()
        pd.testing.assert_frame_equal(table.to_pandas(), df, check_freq=False)
        assert pl.read_ipc(path)["ticker"].to_list() == df["ticker"].to_list()
        assert arrowpool.get_arrow(key).equals(table)


# Other processes


def test_a_script_reads_and_answers(elsewhere):
    df = frame()
    key = arrowpool.put(df)
    assert elsewhere(READ, key) == f"{df.shape} {df['close'].sum()} time min"
    # It puts a frame of its own for us; that one has to outlive it.
    answer = elsewhere("print(arrowpool.put(arrowpool.get(sys.argv[1])[['close']] * 2, persist=True))", key)
    pd.testing.assert_frame_equal(arrowpool.get(answer), df[["close"]] * 2)


def test_a_script_started_by_asyncio(tmp_path):
    key = arrowpool.put(frame())

    async def start():
        script = "import sys, arrowpool; print(arrowpool.get(sys.argv[1])['close'].iloc[1])"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, key, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )
        out, _ = await process.communicate()
        return out.decode().strip()

    assert asyncio.run(start()) == "7.25"


def test_pool_workers_read_by_key(our_pool):
    key = arrowpool.put(frame())
    before = our_pool.stats().shared_bytes
    assert our_pool.map(tasks.close_of, [key] * 10, 1) == [7.25] * 10
    assert our_pool.stats().shared_bytes == before


def test_a_worker_puts_and_the_parent_reads(our_pool, own_shelf):
    keys = our_pool.starmap(tasks.put_frame, [(i, str(own_shelf)) for i in range(4)], 1)
    assert [float(arrowpool.get(key).iloc[0, 0]) for key in keys] == [0.0, 1.0, 2.0, 3.0]


def test_a_forked_child_has_a_shelf_of_its_own():
    key = arrowpool.put(frame())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            good = arrowpool.get(key).shape == frame().shape
            own = arrowpool.put(np.arange(3))
            good = good and own.split("-")[0] == str(os.getpid()) and arrowpool.get(own).tolist() == [0, 1, 2]
            code = 0 if good else 2
        finally:
            os._exit(code)
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert arrowpool.get(key).shape == frame().shape, "the child's end is not the parent's"


def test_many_threads():
    def work(number):
        for i in range(15):
            key = arrowpool.put(np.full(20_000, number + i))
            assert int(arrowpool.get(key)[17]) == number + i
            arrowpool.delete(key)

    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# Lives

OWNER = """
    import time
    import numpy as np
    print(arrowpool.put(np.arange(100_000)), flush=True)
    sys.stdin.read()
"""


def start_owner(tmp_path, text=OWNER):
    import textwrap

    script = tmp_path / "owner.py"
    script.write_text("import sys, arrowpool\n" + textwrap.dedent(text))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_an_object_goes_with_its_owner_but_not_from_its_readers(tmp_path, end):
    process, key = start_owner(tmp_path)
    with process:
        array = arrowpool.get(key)
        assert key in arrowpool.list_keys()
        if end == "kill":
            process.kill()
        else:
            process.stdin.close()
        process.wait(30)
    began = time.monotonic()
    with pytest.raises(ShelfKeyError, match="has ended"):
        arrowpool.get(key)
    with pytest.raises(ShelfKeyError):
        arrowpool.delete(key)
    assert not arrowpool.exists(key)
    assert key not in arrowpool.list_keys()
    assert time.monotonic() - began < 5
    assert array.sum() == sum(range(100_000))


def test_a_reader_keeps_what_was_deleted_while_its_memory_is_used_again():
    """Memory of a deleted object is used for the next one, but only when no reader maps it any more."""
    held = []
    for i in range(12):
        key = arrowpool.put(np.full(200_000, float(i)))
        held.append(arrowpool.get(key))
        held[-1][0] = -1.0
        arrowpool.delete(key)
        if i % 3 == 2:
            del held[-1]
            gc.collect()
    assert sorted({float(array[1]) for array in held}) == [0.0, 1.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0]
    assert all((array[1:] == array[1]).all() and array[0] == -1.0 for array in held)


def test_memory_of_deleted_objects_is_used_again():
    def files():
        return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if shelved(fd)}

    def shelved(fd):
        with contextlib.suppress(OSError):
            return "arrowpool-shelf" in os.readlink(f"/proc/self/fd/{fd}")
        return False

    counts = set()
    for _ in range(6):
        key = arrowpool.put(np.zeros(500_000))
        arrowpool.get(key)
        gc.collect()
        arrowpool.delete(key)
        counts.add(len(files()))
    assert counts == {1}


def test_exclusive_files():
    fd = platform.create_resizable("arrowpool-test", 4096)
    try:
        assert platform.is_exclusive(fd)
        reader = platform.read_only(fd)
        assert not platform.is_exclusive(fd)
        address = platform.map_private(reader, 0, 4096)
        os.close(reader)
        assert not platform.is_exclusive(fd), "a map sees it, too"
        platform.unmap(address, 4096)
        assert platform.is_exclusive(fd)
    finally:
        os.close(fd)


def test_persistent_objects(elsewhere, own_shelf):
    df = frame()
    key = arrowpool.put(df, persist=True, key="prices-2024")
    assert key == "prices-2024"
    generated = arrowpool.put(df.head(), persist=True)
    made_elsewhere = elsewhere("print(arrowpool.put({'x': 1}, persist=True))")
    assert set(arrowpool.list_keys()) >= {key, generated, made_elsewhere}
    assert arrowpool.get(made_elsewhere) == {"x": 1}
    assert elsewhere(READ, key) == f"{df.shape} {df['close'].sum()} time min"
    assert arrowpool.info(key).persistent
    assert os.stat(own_shelf).st_mode & 0o777 == 0o700
    held = arrowpool.get(key)
    arrowpool.put(df.head(3), persist=True, key=key)
    assert len(arrowpool.get(key)) == 3
    assert len(held) == len(df), "who reads the old one goes on reading it"
    pd.testing.assert_frame_equal(held, df)
    arrowpool.delete(key, generated)
    assert not arrowpool.exists(key)
    arrowpool.delete_all()
    assert not [one for one in arrowpool.shelf.list_infos() if one.persistent]
    with pytest.raises(ValueError, match="persist=True"):
        arrowpool.put(df, key="mine")


def test_shelves(elsewhere):
    with Shelf() as private:
        key = private.put(frame())
        assert private.list_keys() == [key]
        assert elsewhere(READ, key)
    assert not arrowpool.exists(key)
    named = Shelf("features")
    key = named.put(frame(), "rsi")
    assert key == "features/rsi"
    assert Shelf("features").list_keys() == [key]
    assert Shelf("other").list_keys() == []
    assert elsewhere(READ, key)
    named.delete_all()
    assert named.list_keys() == []
    with pytest.raises(ValueError, match="of your choice"):
        Shelf().put(1, "x")


def test_what_was_left_half_done_is_removed_by_the_next(own_shelf):
    arrowpool.put(1, persist=True, key="one")
    directory = own_shelf / "default"
    started = int(psutil.Process().create_time() * 1000)
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    (directory / f".new-{dead.pid}-1234567-abcd").mkdir()
    (directory / f".old-{os.getpid()}-{started - 100_000}-abcd").mkdir()  # that number is another process by now
    (directory / f".new-{os.getpid()}-{started}-abcd").mkdir()  # is being written
    assert "one" in arrowpool.list_keys()
    arrowpool.put(2, persist=True, key="two")
    left = sorted(place.name for place in directory.iterdir())
    assert left == [f".new-{os.getpid()}-{started}-abcd", "one", "two"]
    dead.close()


def test_a_writer_that_is_killed_at_any_moment(tmp_path, own_shelf):
    """What is there under a key is whole, whenever its writer dies."""
    text = """
        import numpy as np
        i = 0
        print("ready", flush=True)
        while True:
            arrowpool.put(np.full(300_000, i), persist=True, key="latest")
            i += 1
    """
    rng = random.Random(4)
    for _ in range(4):
        process, _ = start_owner(tmp_path, text)
        with process:
            deadline = time.monotonic() + 0.1 + rng.random() * 0.2
            while time.monotonic() < deadline:
                with contextlib.suppress(ShelfKeyError):  # between the old one and the new one
                    array = arrowpool.get("latest")
                    assert (array == array[0]).all()
            process.kill()
    with contextlib.suppress(ShelfKeyError):
        array = arrowpool.get("latest")
        assert (array == array[0]).all()
    arrowpool.put(1, persist=True, key="latest")
    assert [place.name for place in (own_shelf / "default").iterdir()] == ["latest"]


def test_readers_of_an_owner_that_is_killed(tmp_path):
    text = """
        import numpy as np
        print(arrowpool.put(np.full(300_000, 7)), flush=True)
        while True:
            arrowpool.delete(arrowpool.put(np.full(300_000, 9)))
    """
    for wait in (0.0, 0.02, 0.5):
        process, key = start_owner(tmp_path, text)
        with process:
            killer = threading.Timer(wait, process.kill)
            killer.start()
            read = 0
            while arrowpool.exists(key):
                with contextlib.suppress(ShelfKeyError):  # it may die in between
                    assert (arrowpool.get(key) == 7).all()
                    read += 1
            assert read or wait < 0.5
            killer.join()


# Safety


@pytest.mark.parametrize(
    "key",
    [
        "",
        "../x",
        "a/../b",
        "/etc/passwd",
        ".hidden",
        "x/y/z",
        "-",
        "1-2",
        "1-zz-3",
        "a" * 400,
        "é",
        "x\0y",
        "features/..",
        None,
        5,
    ],
)
def test_keys_that_lead_nowhere(key):
    for ask in (arrowpool.get, arrowpool.info, arrowpool.get_arrow):
        with pytest.raises(ShelfKeyError):
            ask(key)
    assert not arrowpool.exists(key)


@pytest.mark.parametrize("name", ["../x", "", ".x", "a/b", "a" * 200, 3])
def test_names_that_reach_elsewhere(name):
    with pytest.raises(ValueError, match="letters"):
        Shelf(name)
    with pytest.raises(ValueError, match="letters"):
        arrowpool.put(1, persist=True, key=name)


def test_a_directory_that_others_can_enter_is_refused(own_shelf):
    arrowpool.put(1, persist=True, key="one")
    own_shelf.chmod(0o755)
    for ask in (lambda: arrowpool.get("one"), lambda: arrowpool.put(1, persist=True), arrowpool.list_keys):
        with pytest.raises(PermissionError, match="0700"):
            ask()
    own_shelf.chmod(0o700)
    assert arrowpool.get("one") == 1


def test_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    """The error is that of making it: nothing is there whose mode could be changed."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ARROWPOOL_SHELF_DIR", str(tmp_path / "file" / "shelf"))
    with pytest.raises(FileExistsError, match="file"):
        arrowpool.put(1, persist=True, key="one")
    assert not arrowpool.exists("one")


def test_links_are_not_followed(own_shelf, tmp_path):
    arrowpool.put(np.arange(100_000), persist=True, key="one")
    place = own_shelf / "default" / "one"
    shutil.move(place / "exact.bin", tmp_path / "x")
    (place / "exact.bin").symlink_to(tmp_path / "x")
    with pytest.raises(ShelfKeyError, match="damaged"):
        arrowpool.get("one")
    about = json.loads((place / "about.json").read_text())
    (place / "about.json").write_text(json.dumps({**about, "files": {"../../../x": 5}}))
    with pytest.raises(ShelfKeyError, match="damaged"):
        arrowpool.get("one")
    (place / "about.json").write_text("{")
    with pytest.raises(ShelfKeyError, match="damaged"):
        arrowpool.get("one")


@root_only
def test_other_users_see_nothing():
    key = arrowpool.put(frame())
    kept = arrowpool.put(frame(), persist=True)

    def spy():
        seen = [arrowpool.exists(key), arrowpool.exists(kept)]
        for ask in (arrowpool.get, arrowpool.delete, arrowpool.get_arrow):
            for one in (key, kept):
                try:
                    ask(one)
                except (KeyError, PermissionError):
                    seen.append(False)
                else:
                    seen.append(True)
        # Past the library: its socket does not answer, and its memory cannot be opened, either.
        living = keys.parse(key)
        users.own = users.trusted = lambda: {0}
        for ask in (
            *(lambda what=what: client.ask(living, what) for what in ("get", "catalogue", "path", "delete")),
            lambda: remote.find(living),
            lambda: next(remote.everything(but=None)),
        ):
            try:
                ask()
            except (KeyError, PermissionError, StopIteration):
                seen.append(False)
            else:
                seen.append(True)
        return seen

    assert as_nobody(spy) == [False] * 14
    assert arrowpool.exists(key)
    assert arrowpool.exists(kept)


@root_only
def test_nothing_of_another_user_is_unpickled(monkeypatch):
    """An impostor under our name in the list of sockets is another user's process, and the kernel says so."""
    import socket

    address = f"{addresses._PREFIX}/0/4242/abcdabcd"
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.bind(address)
            server.listen()
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for _ in range(2):
        with pytest.raises(ShelfKeyError, match="has ended or never had it"):
            arrowpool.get("4242-abcdabcd-1")
        monkeypatch.setattr(addresses, "listeners", lambda: None)  # where the kernel tells only once we are connected
    assert "4242-abcdabcd-1" not in arrowpool.list_keys()
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    for fd in (*ready, *go):
        os.close(fd)


@root_only
def test_an_owner_that_has_dropped_its_privileges_goes_on(tmp_path):
    text = """
        import os
        import numpy as np
        key = arrowpool.put(np.arange(100_000))
        os.setresuid(65534, 65534, 65534)
        print(key, flush=True)
        sys.stdin.read()
    """
    process, key = start_owner(tmp_path, text)
    with process:
        assert arrowpool.get(key)[-1] == 99_999
        process.stdin.close()


@root_only
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_from_another_mount_namespace(elsewhere):
    df = frame()
    key = arrowpool.put(df)
    prepare = "mount -t tmpfs none /dev/shm"
    assert elsewhere(READ, key, prepare=prepare) == f"{df.shape} {df['close'].sum()} time min"


def test_many_readers_have_the_memory_once(tmp_path):
    array = np.random.default_rng(0).random(8_000_000)
    key = arrowpool.put(array)
    text = f"""
        import numpy as np
        array = arrowpool.get({key!r})
        print(array.sum(), flush=True)
        sys.stdin.read()
    """
    readers = [start_owner(tmp_path, text) for _ in range(4)]
    try:
        assert {float(said) for _, said in readers} == {float(array.sum())}
        shared = 0
        for process, _ in readers:
            for line in psutil.Process(process.pid).memory_maps(grouped=False):
                if "arrowpool-shelf" in line.path:
                    assert line.rss >= array.nbytes
                    shared += line.pss
                    assert line.private_dirty == 0
        assert shared <= 1.05 * array.nbytes
    finally:
        for process, _ in readers:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


def test_signals_do_not_end_the_owner(tmp_path):
    process, key = start_owner(tmp_path)
    with process:
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        assert arrowpool.get(key)[3] == 3
        process.stdin.close()
    assert store.stores() == []
