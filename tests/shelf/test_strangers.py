"""Other users who take the addresses of owners, and the list of addresses that the kernel has."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest

import arrowpool
import arrowpool.shelf
from arrowpool import ShelfKeyError
from arrowpool.shelf import (
    addresses,
    client,
    keys,
    this_process,
)
from tests.shelf.conftest import as_nobody, root_only
from tests.shelf.processes import SMALL, put_full, sum_of


def squat(address, *, listens=True):
    """Be another user's process that has taken an address, and takes no connection; return how to end that."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server, contextlib.ExitStack() as full:
            server.bind(address)
            server.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    one = full.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                    one.setblocking(False)
                    one.connect(address)
            os.write(ready[1], b"x")
            os.close(go[1])
            os.read(go[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"x"

    def end():
        for fd in (*ready, *go):
            os.close(fd)
        os.waitpid(child, 0)

    return end


@root_only
@pytest.mark.parametrize("kernel_tells", [True, False])
def test_a_stranger_takes_a_name_like_ours(request, monkeypatch, elsewhere_process, kernel_tells):
    if not kernel_tells:
        monkeypatch.setattr(addresses, "listeners", lambda: None)
    one = elsewhere_process()
    key = one.do(put_full, 3)
    _, pid, token = addresses.parse_address(next(a for a in _our_addresses() if f"/{one.process.pid}/".encode() in a))
    for user in ("65534", "00", "1000", "0/0"):
        request.addfinalizer(squat(f"{addresses._PREFIX}/{user}/{pid}/{token}"))
    request.addfinalizer(squat(f"{addresses._PREFIX}/0/{pid}/ffffffff"))
    began = time.monotonic()
    assert sum_of(key) == 3 * SMALL
    if kernel_tells:
        assert key in arrowpool.list_keys()
        with pytest.raises(ShelfKeyError, match="has ended"):
            arrowpool.get(f"{pid}-ffffffff-1")
        assert time.monotonic() - began < 2
    arrowpool.delete(key)
    assert not arrowpool.exists(key)


def _our_addresses():
    with open("/proc/net/unix") as file:
        return [b"\0" + line.split()[-1][1:].encode() for line in file if "@arrowpool-shelf/" in line]


@root_only
@pytest.mark.parametrize("kernel_tells", [True, False])
def test_a_stranger_under_the_name_of_an_owner_that_has_ended(request, monkeypatch, elsewhere_process, kernel_tells):
    if not kernel_tells:
        monkeypatch.setattr(addresses, "listeners", lambda: None)
        monkeypatch.setattr(client, "_STRANGER_SECONDS", 0.2)
    one = elsewhere_process()
    key = one.do(put_full, 3)
    living = keys.parse(key)
    one.process.kill()
    one.process.join()
    request.addfinalizer(squat(addresses.address_of(0, living.pid, living.token)))
    began = time.monotonic()
    if kernel_tells:
        with pytest.raises(ShelfKeyError, match="has ended or never had it"):
            arrowpool.get(key)
        assert key not in arrowpool.list_keys()
    else:
        with pytest.raises((ShelfKeyError, TimeoutError)):
            arrowpool.get(key)
    assert time.monotonic() - began < 3


@root_only
def test_keys_of_another_users_living_process(monkeypatch):
    key = arrowpool.put("it")

    def spy():
        try:
            arrowpool.get(key)
        except PermissionError as error:
            return str(error)
        return "read"

    assert "process of another user (0)" in as_nobody(spy)


def test_addresses_of_listeners_as_the_kernel_tells_them():
    arrowpool.put("it")
    mine = addresses.address_of(os.geteuid(), os.getpid(), this_process.current().token).encode()
    told = addresses.listeners()
    if told is None:
        pytest.skip("this kernel does not tell")
    assert told[mine] == os.geteuid()
    assert mine in _our_addresses()
    assert addresses.parse_address(mine) == (os.geteuid(), os.getpid(), this_process.current().token)


@pytest.mark.parametrize(
    "address", ["/0/1", "/00/1/ab", "/0/1/ab/c", "/x/1/ab", "/0/-1/ab", "/\u0660/1/ab", "x/0/1/ab", ""]
)
def test_addresses_of_another_form(address):
    assert addresses.parse_address((addresses._PREFIX + address).encode()) is None
