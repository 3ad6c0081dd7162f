"""Ctrl-C: the terminal sends SIGINT to every process of its group at once."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import psutil
import pytest

from arrowpool.threads import Service
from tests.conftest import across_methods, forked_only
from tests.pool import tasks

LIMIT = 30

#: A program that has its pool do something that takes for ever.
PROGRAM = """
import os, sys, threading, time
import numpy as np
import arrowpool
from tests.pool import tasks

def ready():
    # Once a task runs: the workers are up, and the main thread is on its way into the call.
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    print(*[process.pid for process in pool._pool], flush=True)

def endless():
    while True:
        yield path

if __name__ == "__main__":
    path = sys.argv[2]
    with arrowpool.get_context(sys.argv[1]).Pool(2) as pool:
        threading.Thread(target=ready, daemon=True).start()
        CALL
"""

CALLS = {
    "map": "pool.map(tasks.note_pid_and_block, [path] * 5, 1)",
    "starmap": "pool.starmap(tasks.note_pid_and_block, [(path,)] * 5, 1)",
    "apply": "pool.apply(tasks.note_pid_and_block, (path,))",
    "get": "pool.map_async(tasks.note_pid_and_block, [path] * 5, 1).get()",
    "imap": "list(pool.imap(tasks.note_pid_and_block, [path] * 5))",
    "imap_unordered": "list(pool.imap_unordered(tasks.note_pid_and_block, endless()))",
    "in C": "tasks.note(path); pool.map(tasks.spin, [None] * 2, 1)",
    "join": "pool.map_async(tasks.note_pid_and_block, [path] * 5, 1); pool.close(); pool.join()",
}


def run(tmp_path, program, *args):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    return subprocess.Popen(
        [sys.executable, str(script), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


@across_methods("one, call", CALLS, few=2)
def test_a_script_ends_at_once_and_quietly(one, tmp_path, call):
    with run(tmp_path, PROGRAM.replace("CALL", CALLS[call]), one.method, str(tmp_path / "begun")) as program:
        workers = [psutil.Process(int(pid)) for pid in program.stdout.readline().split()]
        assert len(workers) == 2
        began = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=LIMIT)
        assert time.monotonic() - began < 8
        assert program.returncode in (-signal.SIGINT, 1, 130)
        assert errors.count("KeyboardInterrupt") == 1, errors
        assert "loop.py" not in errors
        assert errors.rstrip().endswith("KeyboardInterrupt")
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive


@pytest.mark.parametrize("call", CALLS)
def test_a_script_ends_although_waits_are_resumed(tmp_path, call):
    """As polars has it: after the signal, the kernel resumes the system call in which the main thread waits."""
    program = PROGRAM.replace("CALL", f"import signal; signal.siginterrupt(signal.SIGINT, False); {CALLS[call]}")
    with run(tmp_path, program, "fork", str(tmp_path / "begun")) as program:
        program.stdout.readline()
        tasks.wait_until_it_waits(program.pid)
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=LIMIT)
        assert errors.rstrip().endswith("KeyboardInterrupt")


SESSION = """
import os, sys, threading, time
import numpy as np
import arrowpool
from tests.pool import tasks

def ready(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    print("ready", flush=True)

if __name__ == "__main__":
    pool = arrowpool.get_context(sys.argv[1]).Pool(2)
    pids = {process.pid for process in pool._pool}
    in_background = pool.map_async(tasks.wait_for, [0.2] * 8, 1)
    for number, call in enumerate(("map", "starmap", "apply", "imap", "imap_unordered")):
        path = f"{sys.argv[2]} {number}"
        threading.Thread(target=ready, args=(path,), daemon=True).start()
        try:
            if call == "apply":
                pool.apply(tasks.note_pid_and_block, (path,))
            elif call == "starmap":
                pool.starmap(tasks.note_pid_and_block, [(path,)] * 50)
            else:
                list(getattr(pool, call)(tasks.note_pid_and_block, [path] * 50))
        except KeyboardInterrupt:
            pass
        array = np.ones(100_000)
        assert pool.map_async(tasks.first, [array] * 6, 1).get(20) == [1.0] * 6
        assert len(open(path).read().split()) <= 2, "what had not begun was begun after all"
    assert in_background.get(20) == [0.2] * 8, "a call that nobody interrupted"
    assert {process.pid for process in pool._pool} == pids, "a worker was lost"
    pool.close()
    pool.join()
    print("done", flush=True)
"""


def test_an_interactive_session_goes_on_with_its_pool(ours, tmp_path):
    """As in a notebook: each interrupt ends the call that is waited for, whose tasks stop; nothing else is touched."""
    with run(tmp_path, SESSION, ours.method, str(tmp_path / "begun")) as program:
        for _ in range(5):
            line = program.stdout.readline()
            assert line == "ready\n", line + program.stderr.read()
            os.killpg(program.pid, signal.SIGINT)
        out, errors = program.communicate(timeout=60)
        assert errors == ""
        assert out == "done\n"
        assert program.returncode == 0


def test_workers_are_quiet_while_they_start(tmp_path):
    """Interrupted from the first moment on, again and again."""
    program = """
        import os, signal, threading, time
        import arrowpool

        if __name__ == "__main__":
            over = threading.Event()
            signal.signal(signal.SIGINT, signal.SIG_IGN)

            def interrupt():
                while not over.wait(0.002):
                    os.killpg(0, signal.SIGINT)

            thread = threading.Thread(target=interrupt)
            thread.start()
            for method in ("fork", "spawn"):
                with arrowpool.get_context(method).Pool(3) as pool:
                    assert pool.map(abs, range(-50, 0), 1) == list(range(50, 0, -1))
                pool.join()
            over.set()
            thread.join()
            print("done")
    """
    with run(tmp_path, program) as started:
        out, errors = started.communicate(timeout=60)
    assert errors == ""
    assert out == "done\n"


@pytest.mark.parametrize("reaches", ["the main thread", "another"])
def test_an_interrupt_while_a_worker_is_forked(tmp_path, reaches):
    """Nothing is left of the pool that was to be: no worker, no descriptor."""
    program = """
        import os, signal, sys, threading
        import arrowpool

        armed = False
        over = threading.Event()
        other = threading.Thread(target=over.wait)

        def strike():
            global armed
            if not armed:
                return
            armed = False
            if sys.argv[1] == "another":  # as one of BLAS: Python interrupts the main thread
                signal.pthread_kill(other.ident, signal.SIGINT)
                os.read(reader, 1)
            else:
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        def left():
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            descriptors = [f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}" for fd in range(1024) if is_open(fd)]
            return descriptors, children

        def is_open(fd):
            try:
                return bool(os.fstat(fd))
            except OSError:
                return False

        if __name__ == "__main__":
            os.register_at_fork(before=strike)
            other.start()
            reader, writer = os.pipe()
            if sys.argv[1] == "another":
                os.set_blocking(writer, False)
                signal.set_wakeup_fd(writer)  # written to once the signal has reached the process
            with arrowpool.get_context("fork").Pool(2) as pool:
                pool.map(abs, [1, 2])
            pool.join()
            before = left()
            for _ in range(10):
                armed = True
                try:
                    arrowpool.get_context("fork").Pool(2)
                    print("not interrupted")
                except KeyboardInterrupt:
                    pass
            now = left()
            print(now == before, before, now)
            over.set()
    """
    with run(tmp_path, program, reaches) as started:
        out, errors = started.communicate(timeout=60)
    assert errors == ""
    assert out.startswith("True "), out


def test_an_exception_of_a_handler_while_a_pool_is_made(tmp_path):
    """At many moments, by a timer say: nothing is left of the pool that was to be; and a worker has the program's handlers."""
    program = """
        import gc, os, signal, sys, time
        import arrowpool

        class Late(Exception):
            pass

        def handler(*_):
            raise Late

        def left():
            children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
            while len(os.listdir("/proc/self/task")) > 1:
                time.sleep(0.001)  # a thread that was joined is in the kernel for a little longer
            return len(os.listdir("/proc/self/fd")), children

        def strike(frame, event, arg):
            global calls
            if event == "call" and "arrowpool" in frame.f_code.co_filename and os.getpid() == pid:
                calls += 1
                if calls == moment:
                    signal.raise_signal(signal.SIGALRM)

        if __name__ == "__main__":
            pid = os.getpid()
            signal.signal(signal.SIGALRM, handler)
            context = arrowpool.get_context("fork")
            with context.Pool(1) as pool:
                print(pool.apply(signal.getsignal, (signal.SIGALRM,)) is handler)
            pool.join()
            del pool
            before = left()
            moment, made = 1, None
            while made is None:
                calls = 0
                try:
                    sys.setprofile(strike)
                    try:
                        made = context.Pool(1)
                    finally:
                        sys.setprofile(None)
                except Late:
                    pass
                moment += 5
            made.terminate()
            made.join()
            del made
            gc.collect()
            print(moment > 100, left() == before, before, left(), signal.getsignal(signal.SIGALRM) is handler)
    """
    with run(tmp_path, program) as started:
        out, errors = started.communicate(timeout=60)
    assert errors == ""
    first, second = out.splitlines()
    assert first == "True"
    assert second.startswith("True True "), second
    assert second.endswith("True"), second


def test_a_cancelled_iterator_says_so(our_pool, tmp_path):
    results = our_pool.imap(lambda _: __import__("time").sleep(60), range(100))
    our_pool._cancel(results._job)
    with pytest.raises(CancelledError):
        results.next(LIMIT)
    with pytest.raises(StopIteration):
        results.next(LIMIT)
    assert our_pool.map_async(abs, range(-5, 0), 1).get(LIMIT) == [5, 4, 3, 2, 1]


def test_a_task_is_interrupted_although_its_imports_have_waits_resumed(ours, tmp_path):
    polars = pytest.importorskip("polars")
    path = tmp_path / "begun"
    os.mkfifo(path)
    with ours.pool(1) as pool:
        result = pool.apply_async(tasks.signal_and_block, (str(path), polars.DataFrame({"x": [1]})))
        worker = int(path.read_text())
        tasks.wait_until_it_waits(worker)
        pool._cancel(result._job)
        assert pool.apply_async(os.getpid).get(LIMIT) == worker
    pool.join()


def test_an_interrupt_that_comes_before_its_task_has_begun(ours, tmp_path):
    path = tmp_path / "now"
    os.mkfifo(path)
    with ours.pool(1) as pool:
        worker = pool.apply(os.getpid)
        # Twice: a task that goes on after the first signal gets another.
        pool.apply(tasks.be_interrupted_on_the_way_into, ("begin", str(path), 2))
        result = pool.apply_async(tasks.first_after, (600, np.ones(100_000)))
        path.read_text()
        pool._cancel(result._job)
        with pytest.raises(CancelledError):
            result.get(LIMIT)
        assert pool.apply_async(os.getpid).get(LIMIT) == worker
        assert pool.apply_async(tasks.first, (np.ones(100_000),)).get(LIMIT) == 1.0
        assert pool.stats().live_segments <= 1, "what the interrupted task had been given went back"
    pool.join()


def test_an_interrupted_import_is_not_left_half_done(ours, tmp_path):
    """As with the modules of pandas in C, which a process can initialise once: the worker is replaced."""
    begun, free = tmp_path / "begun", tmp_path / "free"
    os.mkfifo(begun)
    (tmp_path / "module_in_c.py").write_text(
        f"""
import os, sys, time
if hasattr(sys, "_module_in_c"):
    raise AttributeError("partially initialized")
sys._module_in_c = True
while not os.path.exists({str(free)!r}):
    with open({str(begun)!r}, "w"):
        pass
    time.sleep(60)
"""
    )
    with ours.pool(1, tasks.extend_path, (str(tmp_path),)) as pool:
        pid = pool.apply(os.getpid)
        interrupted = pool.map_async(importlib.import_module, ["module_in_c"] * 3, 1)
        begun.read_text()
        pool._cancel(interrupted._job)
        with pytest.raises(CancelledError):
            interrupted.get(LIMIT)
        free.touch()
        names = pool.map_async(tasks.name_of_module, ["module_in_c"] * 3, 1).get(LIMIT)
        assert names == ["module_in_c"] * 3
        assert pool.apply(os.getpid) != pid
    pool.join()


def test_a_worker_s_quota_counts_what_was_taken_back(ours):
    with ours.pool(1, maxtasksperchild=2) as pool:
        worker = pool.apply(os.getpid)
        os.kill(worker, signal.SIGSTOP)
        result = pool.apply_async(abs, (-1,))
        with pool.share(np.ones(100_000)):
            pass  # all of it was sent
        pool._cancel(result._job)
        with pytest.raises(CancelledError):
            result.get(LIMIT)
        with pool.share(np.ones(100_000)):
            pass  # it was taken back
        os.kill(worker, signal.SIGCONT)
        assert pool.map_async(abs, [-2, -3, -4], 1).get(LIMIT) == [2, 3, 4]
    pool.join()


@forked_only
def test_what_waits_behind_long_tasks_counts_as_well(ours):
    """Short tasks, many to a frame, with a long one among them: the rest of its frame is taken back."""
    with ours.pool(2, maxtasksperchild=100) as pool:
        for _ in range(6):
            calls = [0.0] * 75 + [0.15] + [0.0] * 74
            assert pool.map_async(tasks.wait_for, calls, 1).get(LIMIT) == calls
    pool.join()


def test_a_thread_whose_join_was_interrupted_has_not_ended(tmp_path):
    class Waiting(Service):
        def run(self):
            end.wait()

    def raise_it(*_):
        raise KeyboardInterrupt

    end = threading.Event()
    service = Waiting("waits")
    service.start()
    before = signal.signal(signal.SIGUSR1, raise_it)
    timer = threading.Thread(
        target=lambda: (tasks.wait_until_it_waits(os.getpid()), os.kill(os.getpid(), signal.SIGUSR1))
    )
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            service.join()
        assert not service.join(0)
    finally:
        signal.signal(signal.SIGUSR1, before)
        end.set()
        timer.join()
    assert service.join(LIMIT)


def test_an_interrupt_that_comes_too_late_for_its_task(ours, tmp_path):
    path = tmp_path / "now"
    os.mkfifo(path)
    with ours.pool(1) as pool:
        worker = pool.apply(os.getpid)
        result = pool.apply_async(tasks.fail_and_be_interrupted_at_once, (str(path),))
        path.read_text()
        pool._cancel(result._job)
        with pytest.raises(CancelledError):
            result.get(LIMIT)
        assert pool.apply(os.getpid) == worker
    pool.join()


def test_an_initializer_may_decide_about_the_signal(ours):
    with ours.pool(1, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_IGN
    pool.join()
