"""User ids in user namespaces: where strangers appear under the same number, it is no proof."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest

import arrowpool
from arrowpool.shelf import addresses, keys, users
from tests.shelf.conftest import in_a_child, root_only

in_namespaces = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs user namespaces",
)


def start(program):
    """Run a program in a user namespace that maps no user: all users, its own included, appear as 65534."""
    return subprocess.Popen(
        ["unshare", "-U", sys.executable, "-c", "import arrowpool, json, os, sys\n" + program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_a_user_is_ambiguous_only_as_the_overflow_id_and_where_others_are_not_mapped(monkeypatch):
    monkeypatch.setattr(users, "own", lambda: {0, 65534})
    monkeypatch.setattr(users, "_sees_all_users", lambda: True)
    assert users.trusted() == {0, 65534}
    monkeypatch.setattr(users, "_sees_all_users", lambda: False)
    assert users.trusted() == {0}
    assert not users.is_ambiguous(1000)


@root_only
@in_namespaces
def test_an_owner_whose_number_strangers_share_answers_no_stranger():
    owner = start(
        "print(os.getuid(), arrowpool.put({'secret': 42}), flush=True)\nsys.stdin.read(1)\nprint(arrowpool.list_keys())"
    )
    with owner:
        user, key = owner.stdout.readline().split()
        assert user == "65534"
        parsed = keys.parse(key)

        def spy():
            os.setgroups([])
            os.setresgid(65533, 65533, 65533)
            os.setresuid(65533, 65533, 65533)
            answers = []
            for what in ("get", "delete", "catalogue", "path"):
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                    connection.connect(addresses.address_of(int(user), parsed.pid, parsed.token))
                    try:
                        connection.send(json.dumps([what, parsed.number]).encode())
                        answer, fds, _, _ = socket.recv_fds(connection, 1000, 8)
                    except ConnectionError:  # it closed the connection before it read the question
                        answer, fds = b"refused", []
                    answers.append([answer.decode(), len(fds)])
            return answers

        assert in_a_child(spy) == [["refused", 0]] * 4
        rest, _ = owner.communicate("x")
        assert key in rest


ITS_OWN = """
import numpy as np
key = arrowpool.put(np.arange(100_000))
kept = arrowpool.put({"a": 1}, persist=True, key="kept")
child = os.fork()
if child == 0:
    assert arrowpool.get(key)[-1] == 99_999
    assert arrowpool.get(kept) == {"a": 1}
    try:
        arrowpool.delete(key)
    except PermissionError as error:
        assert "run it under a user id that is mapped" in str(error), error
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert arrowpool.get(key)[-1] == 99_999
arrowpool.delete(key, kept)
print("well")
"""


@in_namespaces
def test_such_a_process_has_a_shelf_nevertheless():
    """What the kernel itself checks serves: its own objects, its children's looks into it, its own directories."""
    with start(ITS_OWN) as process:
        assert process.communicate()[0] == "well\n"


@root_only
@pytest.mark.parametrize("umask", [0o177, 0o777])
def test_a_umask_that_takes_rights_from_the_user(umask, tmp_path, monkeypatch):
    """Root's rights do not depend on modes, so this is another user. What it makes can be used under any umask."""
    tmp_path.chmod(0o711)
    for folder in tmp_path.parents:
        if not folder.stat().st_mode & 0o001:
            pytest.skip(f"other users cannot enter {folder}")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65533, 65533)
    monkeypatch.setenv("ARROWPOOL_SHELF_DIR", str(home / "shelf"))
    value = list(range(10_000))

    def work():
        os.setgroups([])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        os.umask(umask)
        arrowpool.put(value, persist=True, key="one")
        found = [arrowpool.get("one") == value]
        os.umask(0o022)
        arrowpool.put(value[1:], persist=True, key="two")
        found.append(arrowpool.get("one") == value)
        (home / "shelf").chmod(0o600)  # as a process that was killed when it had made it
        return [*found, arrowpool.get("two") == value[1:], arrowpool.list_keys()]

    assert in_a_child(work) == [True, True, True, ["one", "two"]]
    assert (home / "shelf").stat().st_mode & 0o777 == 0o700


@root_only
@in_namespaces
def test_the_directory_of_a_stranger_with_the_same_number_is_refused(own_shelf):
    own_shelf.mkdir()
    own_shelf.chmod(0o700)
    os.chown(own_shelf, 65533, 65533)
    program = """
try:
    arrowpool.put(1, persist=True, key="k")
except PermissionError:
    print("refused")
"""
    with start(program) as process:
        assert process.communicate()[0] == "refused\n"
