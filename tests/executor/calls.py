"""What the workers run, in a module that takes a worker no time to import."""

from __future__ import annotations

import multiprocessing
import os


def pass_gate(path, value=None):
    fd = os.open(path + ".begun", os.O_WRONLY)
    os.write(fd, b"!")
    os.close(fd)
    with open(path, "rb"):
        return value


def capture(*args, **kwargs):
    return args, kwargs


def called(function, _):
    return function()


def raise_123():
    raise RuntimeError(123)  # a comment in the source


class Thing:
    def method(self):
        return 7


def make_thing(_):
    return Thing()


def in_a_process(method):
    process = multiprocessing.get_context(method).Process(target=os._exit, args=(7,))
    process.start()
    process.join()
    return process.exitcode


def in_a_pool(method, _):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(abs, (-7,))


def in_an_executor(method, factory):
    with factory(1, multiprocessing.get_context(method)) as executor:
        return executor.submit(abs, -7).result()


def leave_at_gate(method, path):
    process = multiprocessing.get_context(method).Process(target=pass_gate, args=(path,))
    process.start()
    return process.pid
