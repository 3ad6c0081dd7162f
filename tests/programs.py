"""Programs that tests start. Each is a fork of a process that has imported the large libraries, and nothing else, beforehand.

What a program imports of this project, it imports itself, in whatever surroundings it has been given. `run` is called as
`subprocess.run` is. The server that forks is this module, run in a process of its own (`Server`); it runs one program at a time.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from dataclasses import dataclass

_CLONE_NEWNS = 0x20000
_LENGTH_BYTES = 4


@dataclass
class _Request:
    """What becomes of a fork: a Python program, as on the command line of `python`, and its surroundings."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    #: Shell commands to run before, in a mount namespace of its own.
    prepare: str | None
    #: Soft and hard limits, by what `resource.setrlimit` takes.
    limits: dict[str, tuple[int, int]]


class Server:
    """The process that forks programs, from the side of the tests."""

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from tests import programs; programs.serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C ends the tests, and their end ends this
            )

    def close(self):
        self._socket.close()
        self._process.wait()

    def start(self, request, stdout, stderr):
        """Start a program, whose output goes to these descriptors; return its process id."""
        message = json.dumps(vars(request)).encode()
        # The descriptors come with the first bytes.
        socket.send_fds(self._socket, [len(message).to_bytes(_LENGTH_BYTES, "big")], [stdout, stderr])
        self._socket.sendall(message)
        return self._answer(None)

    def wait(self, pid, timeout):
        """How the program has ended, as `subprocess` says it. It is killed if that takes longer."""
        try:
            return self._answer(timeout)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            self._answer(None)
            raise

    def _answer(self, timeout):
        self._socket.settimeout(timeout)
        return int.from_bytes(_receive(self._socket, _LENGTH_BYTES), "big", signed=True)


def _receive(connection, size):
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise EOFError("the process that forks programs has ended")
        received += piece
    return received


_server = None


def start():
    """Start the server; what is running is not waited for."""
    global _server
    _server = Server()


def stop():
    _server.close()


def run(arguments, *, timeout, env=None, cwd=None, stdout=None, prepare=None, limits=None):
    """Run ``python *arguments``: a script, or ``-m`` and a module.

    As `subprocess.run` with ``capture_output=True, text=True``, and as that does, wait until all have ended that write to its
    output: the program, and what it has started.
    """
    request = _Request(
        [os.fspath(one) for one in arguments],
        dict(os.environ if env is None else env),
        os.fspath(cwd or os.getcwd()),
        prepare,
        {str(kind): pair for kind, pair in (limits or {}).items()},
    )
    readers, writers = zip(os.pipe(), os.pipe(), strict=True)
    texts: list[str] = ["", ""]

    def read(at):
        with open(readers[at], encoding="utf-8") as file:
            texts[at] = file.read()

    threads = [threading.Thread(target=read, args=(at,), daemon=True) for at in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + timeout
    try:
        pid = _server.start(request, writers[0] if stdout is None else stdout.fileno(), writers[1])
    finally:
        for writer in writers:
            os.close(writer)
    try:
        status = _server.wait(pid, timeout)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError
    except TimeoutError:
        raise subprocess.TimeoutExpired(request.arguments, timeout) from None
    return subprocess.CompletedProcess(request.arguments, status, *texts)


# The server


def serve(number):
    """Fork programs until the tests end. The server does not return; in a program, this returns when the program has ended."""
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401

    connection = socket.socket(fileno=number)
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 2)
        if not header:
            os._exit(0)
        request = _Request(**json.loads(_receive(connection, int.from_bytes(header, "big"))))
        # Since Python 3.12, a fork of a process with threads is warned of, such as those of numerical libraries.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            connection.close()
            return _become(request, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(pid.to_bytes(_LENGTH_BYTES, "big", signed=True))
        _, status = os.waitpid(pid, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(_LENGTH_BYTES, "big", signed=True))


def _become(request, stdout, stderr):
    """The program."""
    for target, descriptor in enumerate((stdout, stderr), 1):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind, pair in request.limits.items():
        resource.setrlimit(int(kind), pair)
    if request.prepare is not None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
            sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
        subprocess.run(["sh", "-ec", f"mount --make-rprivate / && {request.prepare}"], check=True)
    first, *others = request.arguments
    sys.path[0] = os.getcwd() if first == "-m" else os.path.dirname(first)
    sys.path[1:1] = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one and one not in sys.path]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if first == "-m":
        sys.argv = others
        runpy._run_module_as_main(others[0])
    else:
        sys.argv = request.arguments
        main.__file__ = first
        with open(first, "rb") as file:
            code = compile(file.read(), first, "exec")
        exec(code, vars(main))
