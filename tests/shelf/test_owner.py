"""The owner of a process's objects: busy and stopped owners, readers while it changes, systems that lack something."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import arrowpool
import arrowpool.shelf
from arrowpool import Shelf, ShelfKeyError
from arrowpool.shelf import (
    addresses,
    client,
    files,
    keys,
    owner,
    part_files,
    remote,
)
from tests.shelf.processes import (
    LARGE,
    SMALL,
    empty_the_table,
    fill_the_table,
    fork,
    held,
    limit_and_put,
    put_full,
    sum_of,
)


@pytest.fixture
def while_it_is_asked(monkeypatch):
    """Do something in a thread once this process waits for an owner's answer: ``with while_it_is_asked(act): ...``.

    There is no limit on the wait: if it does not end for another reason, the test ends by the limit that each test has.
    """
    is_asked = threading.Event()
    wait = client.wait_readable
    monkeypatch.setattr(client, "wait_readable", lambda *arguments: (is_asked.set(), wait(*arguments))[1])
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 1e6)

    @contextlib.contextmanager
    def during(act):
        thread = threading.Thread(target=lambda: is_asked.wait(30) and act())
        thread.start()
        try:
            yield
        finally:
            thread.join()

    return during


def compute_in_c(fd):
    """Block with the interpreter's lock held, as a loop in C does, until a byte comes through the pipe."""
    ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)


@pytest.fixture
def busy():
    """Make a process compute in C during a block: ``with busy(process): ...``. The pipe is made before the process is forked."""
    reader, writer = os.pipe()

    @contextlib.contextmanager
    def busy(one):
        one.start(compute_in_c, reader)
        while not Path(f"/proc/{one.process.pid}/syscall").read_text().startswith(f"0 {reader:#x} "):
            time.sleep(0.001)
        yield
        os.write(writer, b"x")
        one.finish()

    yield busy
    os.close(reader)
    os.close(writer)


can_tell_busy = pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64", reason="asks the kernel in which system call a process is"
)


def _check_that_it_does_not_answer(key, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(client, "PATIENCE_SECONDS", 0.3)
        assert sum_of(key) == 3 * SMALL
        with pytest.raises(TimeoutError, match=r"is there and has not answered within 0.3 s"):
            arrowpool.delete(key)
        short.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
        for ask in (arrowpool.get, arrowpool.exists, arrowpool.info):
            with pytest.raises(TimeoutError, match="is there"):
                ask(key)
        with pytest.raises(TimeoutError, match="is there"):
            arrowpool.list_keys()


@can_tell_busy
@pytest.mark.parametrize("count", [SMALL, LARGE])
def test_an_owner_that_computes_in_c_is_read_all_the_same(busy, elsewhere_process, count):
    one = elsewhere_process()
    key = one.do(put_full, 3, count)
    with busy(one):
        assert sum_of(key) == 3 * count
        assert arrowpool.exists(key)
        assert arrowpool.info(key).owner == one.process.pid
        assert key in arrowpool.list_keys()


@can_tell_busy
def test_an_owner_that_does_not_answer_is_said_to_be_there(busy, elsewhere_process, monkeypatch):
    one = elsewhere_process()
    key = one.do(put_full, 3)
    with busy(one):
        _check_that_it_does_not_answer(key, monkeypatch)
    _delete_in_spite_of_earlier_tries(key)


def _delete_in_spite_of_earlier_tries(key):
    with contextlib.suppress(
        ShelfKeyError
    ):  # the owner may find the first question in its queue, and delete the object
        arrowpool.delete(key)
    assert not arrowpool.exists(key)


def test_others_are_deleted_although_one_cannot_be(stopped_owner, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.2)
    _, key = stopped_owner
    mine = put_full(4)
    with pytest.raises(TimeoutError):
        arrowpool.delete(key, "none", mine)
    assert not arrowpool.exists(mine)


def test_an_owner_that_is_stopped_is_said_to_be_there(stopped_owner, monkeypatch):
    one, key = stopped_owner
    _check_that_it_does_not_answer(key, monkeypatch)
    one.go_on()
    _delete_in_spite_of_earlier_tries(key)


def test_a_wait_for_an_owner_is_interrupted(stopped_owner, while_it_is_asked):
    _, key = stopped_owner
    with while_it_is_asked(lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        arrowpool.delete(key)


def test_an_owner_that_ends_while_it_is_waited_for(stopped_owner, while_it_is_asked, way):
    one, key = stopped_owner
    with while_it_is_asked(one.process.kill), pytest.raises(ShelfKeyError):
        arrowpool.delete(key)
    one.process.join()
    with pytest.raises(ShelfKeyError, match="has ended"):
        arrowpool.get(key)
    assert not arrowpool.exists(key)


def _own_with_a_short_queue():
    owner._BACKLOG = 1
    return put_full(3)


def test_more_readers_at_once_than_the_kernel_lets_wait(elsewhere_process, monkeypatch):
    """Readers wait until the kernel's queue has space again."""
    one = elsewhere_process()
    key = one.do(_own_with_a_short_queue)
    monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
    one.stop()
    answers = []
    is_full = threading.Event()
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (is_full.set(), sleep(seconds)))

    def read():
        try:
            answers.append(sum_of(key))
        except BaseException as error:
            answers.append(error)

    threads = [threading.Thread(target=read) for _ in range(30)]
    for thread in threads:
        thread.start()
    assert is_full.wait(30)
    assert answers == []
    one.go_on()
    for thread in threads:
        thread.join()
    assert answers == [3.0 * SMALL] * 30


def test_silent_and_malformed_connections_hold_up_no_reader(monkeypatch, elsewhere_process):
    one = elsewhere_process()
    key = one.do(put_full, 3)
    living = keys.parse(key)
    address = addresses.address_of(os.geteuid(), living.pid, living.token)
    with contextlib.ExitStack() as silent:
        for said in (
            b"",
            b"",
            b"{",
            b"[]",
            b"[1, 2, 3]",
            b'["get", "x"]',
            b'["get", null]',
            b'["path", 1]',
            b'["delete"]',
        ):
            connection = silent.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            connection.connect(address)
            if said:
                connection.send(said)
        monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
        # Before the owner drops the silent ones, after `_TIMEOUT_SECONDS`.
        monkeypatch.setattr(client, "PATIENCE_SECONDS", owner._TIMEOUT_SECONDS / 2)
        assert sum_of(key) == 3 * SMALL


def test_an_owner_without_a_descriptor_left(elsewhere_process, monkeypatch):
    """Readers open its objects without it. A question to it is answered once it has descriptors again."""
    is_asked = threading.Event()
    converse = client._converse
    monkeypatch.setattr(client, "_converse", lambda *arguments: (is_asked.set(), converse(*arguments))[1])
    one = elsewhere_process()
    key = one.do(limit_and_put, 64)
    one.do(fill_the_table)
    assert sum_of(key) == 3 * SMALL
    done = threading.Thread(target=arrowpool.delete, args=(key,))
    done.start()
    assert is_asked.wait(30)
    one.do(empty_the_table)
    done.join()
    assert not arrowpool.exists(key)


# Readers while it changes


def _change(pipe):
    kept = []
    pipe.send(os.getpid())
    number = 0
    while not pipe.poll():
        number += 1
        kept.append(arrowpool.put(np.full(LARGE if number % 2 else SMALL, number)))
        if len(kept) > 6:
            arrowpool.delete(kept.pop(0))


def test_readers_of_an_owner_that_deletes_and_puts(way, monkeypatch):
    """Each read returns one whole object. Readers that open a file while the owner asks the kernel about it do not end the owner."""
    pipe, theirs = fork.Pipe()
    changer = fork.Process(target=_change, args=(theirs,))
    changer.start()
    pid = pipe.recv()
    read, gone = 0, 0
    until = time.monotonic() + 2
    held = []
    while time.monotonic() < until or read <= 20:
        for key in arrowpool.list_keys():
            if key.startswith(f"{pid}-"):
                try:
                    array = arrowpool.get(key)
                except ShelfKeyError:
                    gone += 1
                    continue
                assert array[0] > 0
                assert (array == array[0]).all()
                held = [*held[-3:], (array, int(array[0]))]
                read += 1
        assert all((array == number).all() for array, number in held)
        assert changer.is_alive()
    pipe.send("enough")
    changer.join()
    assert changer.exitcode == 0
    changer.close()
    pipe.close()
    theirs.close()


def test_an_open_while_the_kernel_is_asked_who_else_has_it_open():
    """The kernel tells the owner by a signal, whose default is to end it."""
    child = os.fork()
    if child == 0:
        file = part_files.MemoryFile(4096)
        fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        me = os.getpid()
        opener = os.fork()
        if opener == 0:
            with contextlib.suppress(BlockingIOError):
                os.open(f"/proc/{me}/fd/{file.fd}", os.O_RDONLY | os.O_NONBLOCK)
                os._exit(1)
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(opener, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_path_is_made_when_it_is_asked_for(elsewhere_process):
    frame = pd.DataFrame({"a": [1.5, 2.5]})
    key = arrowpool.put(frame)
    before = held()[0]
    about = arrowpool.info(key)
    assert held()[0] == before
    assert elsewhere_process().do(_path_of, key) == about.path
    assert held()[0] == before + 1
    arrowpool.delete(key)
    with pytest.raises(ShelfKeyError):
        assert about.path


def _path_of(key):
    return arrowpool.info(key).path


# Systems with less

WITHOUT = """
    import numpy as np, os, subprocess
    frame = {i: np.full(count, float(i)) for i, count in enumerate([10, 5_000, 50_000, 400_000])}
    names = [arrowpool.put(one) for one in frame.values()]
    names += [arrowpool.put(one, persist=True) for one in frame.values()]
    def read(names):
        return [float(arrowpool.get(name).sum()) for name in names]
    expected = [float(one.sum()) for one in frame.values()] * 2
    assert read(names) == expected
    child = os.fork()
    if child == 0:
        assert read(names) == expected
        assert set(names) <= set(arrowpool.list_keys())
        arrowpool.delete(names[1], names[5])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert not arrowpool.exists(names[1])
    for i in range(20):
        held = arrowpool.get(names[2]), arrowpool.get(names[6])
        arrowpool.delete(names[2], names[6])
        names[2] = arrowpool.put(np.full(50_000, 2.0))
        names[6] = arrowpool.put(np.full(50_000, 2.0), persist=True)
        assert all((one == 2.0).all() for one in held)
    arrowpool.delete_all()
    print("well")
"""


@pytest.mark.parametrize("missing", ["memfd", "lease", "fallocate", "proc", "memfd,lease,fallocate,proc"])
def test_a_shelf_on_a_system_with_less(elsewhere, monkeypatch, missing):
    monkeypatch.setenv("ARROWPOOL_WITHOUT", missing)
    assert elsewhere(WITHOUT) == "well"


def test_an_error_of_the_owner_is_not_its_end(elsewhere_process, monkeypatch):
    monkeypatch.setattr(remote, "_look_into", lambda pid, token, opened: (-1, -1))
    one = elsewhere_process()
    key = one.do(_put_and_fail)
    with pytest.raises(OSError, match=r"failed: .*too many"):
        arrowpool.get(key)
    with Shelf() as shelf:
        assert shelf.list_keys() == []


def _put_and_fail():
    key = put_full(3)

    def fail(fd):
        raise OSError(errno.EMFILE, "too many open files")

    files.read_only = fail
    return key
