"""Each way of going wrong at each point of a task's way: who gets what error, and that the pool goes on.

What goes wrong in the user's own process with `os._exit` or a signal ends the user's program, as it would anywhere; those
are not in the table.
"""

from __future__ import annotations

import threading
from multiprocessing.pool import MaybeEncodingError

import pytest

from arrowpool import TaskExitError, TransferError, WorkerLostError
from tests.conftest import across_methods
from tests.pool import crashes, tasks
from tests.pool.crashes import AtDelete, AtPickle, AtSetState, AtUnpickle

LIMIT = 30

#: (what is being done, what goes wrong): function, arguments, error, its text.
TABLE = {
    ("argument is pickled", "error"): (crashes.identity, AtPickle(crashes.raise_error), RuntimeError, "on purpose"),
    ("argument is pickled", "exit"): (crashes.identity, AtPickle(crashes.leave), TaskExitError, "SystemExit"),
    ("argument is pickled", "interrupt"): (crashes.identity, AtPickle(crashes.interrupt), TaskExitError, "Keyboard"),
    ("argument is rebuilt", "error"): (crashes.identity, AtUnpickle(crashes.raise_error), RuntimeError, "on purpose"),
    ("argument is rebuilt", "error in __setstate__"): (
        crashes.identity,
        AtSetState(crashes.raise_error),
        RuntimeError,
        "on purpose",
    ),
    ("argument is rebuilt", "exit"): (crashes.identity, AtUnpickle(crashes.leave), TaskExitError, "SystemExit"),
    ("argument is rebuilt", "_exit"): (crashes.identity, AtUnpickle(crashes.die), WorkerLostError, "code 7"),
    ("argument is rebuilt", "segfault"): (crashes.identity, AtUnpickle(crashes.segfault), WorkerLostError, "SIGSEGV"),
    ("large argument is rebuilt", "killed"): (
        crashes.identity,
        AtUnpickle(crashes.kill, 1 << 20),
        WorkerLostError,
        "SIGKILL",
    ),
    ("runs", "error"): (crashes.do, crashes.raise_error, RuntimeError, "on purpose"),
    ("runs", "exit"): (crashes.do, crashes.leave, TaskExitError, "SystemExit"),
    ("runs", "interrupt"): (crashes.do, crashes.interrupt, TaskExitError, "KeyboardInterrupt"),
    ("runs", "_exit"): (crashes.do, crashes.die, WorkerLostError, "code 7"),
    ("runs", "segfault"): (crashes.do, crashes.segfault, WorkerLostError, "SIGSEGV.*compiled code"),
    ("runs", "killed"): (crashes.do, crashes.kill, WorkerLostError, "SIGKILL.*out-of-memory"),
    ("result is pickled", "error"): (crashes.give, (AtPickle, crashes.raise_error), MaybeEncodingError, "on purpose"),
    ("result is pickled", "exit"): (crashes.give, (AtPickle, crashes.leave), MaybeEncodingError, "SystemExit"),
    ("result is pickled", "_exit"): (crashes.give, (AtPickle, crashes.die), WorkerLostError, "code 7"),
    ("result is pickled", "segfault"): (crashes.give, (AtPickle, crashes.segfault), WorkerLostError, "SIGSEGV"),
    ("result is rebuilt", "error"): (crashes.give, (AtUnpickle, crashes.raise_error), TransferError, "on purpose"),
    ("result is rebuilt", "exit"): (crashes.give, (AtUnpickle, crashes.leave), TransferError, "SystemExit"),
    ("result is rebuilt", "interrupt"): (crashes.give, (AtUnpickle, crashes.interrupt), TransferError, "Keyboard"),
    ("exception is pickled", "error"): (crashes.throw_at_pickle, crashes.raise_error, MaybeEncodingError, "on purpose"),
    ("exception is pickled", "exit"): (crashes.throw_at_pickle, crashes.leave, MaybeEncodingError, "SystemExit"),
    ("exception is pickled", "_exit"): (crashes.throw_at_pickle, crashes.die, WorkerLostError, "code 7"),
    ("exception is rebuilt", "error"): (crashes.throw, crashes.raise_error, TransferError, "on purpose"),
    ("exception is rebuilt", "exit"): (crashes.throw, crashes.leave, TransferError, "SystemExit"),
}
# `give` takes two arguments, all others one.
CALLS = {
    point: (function, given if function is crashes.give else (given,), error, words)
    for point, (function, given, error, words) in TABLE.items()
}


def check(point, result):
    _, _, error, words = CALLS[point]
    with pytest.raises(error, match=words):
        result.get(LIMIT)


@across_methods(("ours", "start"), ["directly", "from a callback"])
def test_each_point_and_way(ours, start):
    with ours.pool(2) as pool:
        for point, (function, args, _, _) in CALLS.items():
            if start == "directly" and point == ("argument is pickled", "interrupt"):
                # In the main thread, where that is Ctrl-C.
                with pytest.raises(KeyboardInterrupt):
                    pool.apply_async(function, args)
                continue
            if start == "directly":
                result = pool.apply_async(function, args)
            else:
                started = []
                called = threading.Event()

                def callback(_, function=function, args=args, started=started, called=called):
                    started.append(pool.apply_async(function, args))
                    called.set()

                pool.apply_async(tasks.square, (1,), callback=callback)
                assert called.wait(LIMIT), point
                result = started[0]
            check(point, result)
            assert pool.map_async(tasks.square, range(4), 1).get(LIMIT) == [0, 1, 4, 9], point
    pool.join()


@pytest.mark.own_pool
@across_methods(("ours", "method"), ["imap", "map_async", "imap_unordered", "starmap_async"])
def test_the_error_is_the_calls_own(our_pool, method):
    """One item of many: the others of an imap still come, and other calls do not notice."""
    bystander = our_pool.map_async(tasks.wait_for, [0.01] * 20, 1)
    items = [crashes.raise_error] * 3 + [crashes.kill]
    if method == "starmap_async":
        items = [(item,) for item in items]
    call = getattr(our_pool, method)(crashes.do, items, 1)
    if method.endswith("_async"):
        with pytest.raises((RuntimeError, WorkerLostError)):
            call.get(LIMIT)
    else:
        seen = []
        for _ in items:
            with pytest.raises((RuntimeError, WorkerLostError)) as caught:
                call.next(LIMIT)
            seen.append(type(caught.value))
        assert sorted(error.__name__ for error in seen) == ["RuntimeError"] * 3 + ["WorkerLostError"]
    assert bystander.get(LIMIT) == [0.01] * 20


@pytest.mark.parametrize("way", ["raise_error", "leave", "interrupt"])
def test_a_callback_goes_wrong(our_pool, caplog, way):
    def callback(_):
        getattr(crashes, way)()

    assert our_pool.apply_async(tasks.square, (3,), callback=callback).get(LIMIT) == 9
    assert our_pool.map_async(tasks.square, [1, 2], callback=callback).get(LIMIT) == [1, 4]
    with pytest.raises(ValueError, match="seen"):
        our_pool.apply_async(tasks.fail, ("seen",), error_callback=callback).get(LIMIT)
    assert our_pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
    assert caplog.text.count("a callback of the pool raised") == 3


def test_a_generator_goes_wrong(our_pool):
    def items(how):
        yield 2
        how()

    for how, error in ((crashes.raise_error, RuntimeError), (crashes.leave, TaskExitError)):
        results = our_pool.imap(tasks.square, items(how))
        assert results.next(LIMIT) == 4
        with pytest.raises(error, match=r"on purpose|SystemExit"):
            results.next(LIMIT)
        outcomes = set()
        results = our_pool.imap_unordered(tasks.square, items(how))
        for _ in range(2):
            try:
                outcomes.add(results.next(LIMIT))
            except (RuntimeError, TaskExitError) as raised:
                outcomes.add(type(raised))
        assert outcomes == {4, error}
    with pytest.raises(RuntimeError, match="on purpose"):
        our_pool.map(tasks.square, items(crashes.raise_error))


def test_a_finalizer_goes_wrong(our_pool, recwarn):
    """Python itself reports and swallows it, here and in the worker."""
    assert our_pool.apply_async(tasks.square, (3,)).get(LIMIT) == 9
    our_pool.apply_async(crashes.give, (AtDelete, crashes.raise_error)).wait(LIMIT)
    assert our_pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


def test_the_remote_traceback_stays_attached(our_pool):
    with pytest.raises(RuntimeError) as caught:
        our_pool.apply_async(crashes.do, (crashes.raise_error,)).get(LIMIT)
    assert "crashes.py" in str(caught.value.__cause__)
    assert "in raise_error" in str(caught.value.__cause__)
