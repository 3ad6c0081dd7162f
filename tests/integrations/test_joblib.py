"""joblib's backend: what joblib's own gives, under joblib itself and under scikit-learn."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent import futures

import numpy as np
import pandas as pd
import pytest

from tests.integrations.conftest import library
from tests.pool import tasks

joblib = library("joblib")
ours = library("arrowpool.integrations.joblib")

LIMIT = 60


@pytest.fixture(autouse=True)
def _registered(_census):
    ours.register()
    yield
    ours.shutdown()


@pytest.fixture
def backend():
    with joblib.parallel_config(backend="arrowpool", n_jobs=2):
        yield


def calls(function, *arguments):
    return [joblib.delayed(function)(*each) for each in zip(*arguments, strict=True)]


def nested(x):
    """The backend and number of jobs of a call in a call, and what it gives."""
    backend, n_jobs = joblib.parallel.get_active_backend()
    return type(backend).__name__, n_jobs, joblib.Parallel(n_jobs=2)(calls(abs, [-x, -1]))


def nested_by_name(x, name):
    import warnings

    with warnings.catch_warnings(record=True) as said, joblib.parallel_config(backend=name, n_jobs=2):
        warnings.simplefilter("always")
        return joblib.Parallel()(calls(abs, [-x, -1])), [str(one.message).partition(" ")[2] for one in said]


def environment(names):
    return {name: os.environ.get(name) for name in names}


def is_writeable(array):
    return bool(array.flags.writeable)


def test_values_in_order(backend):
    assert joblib.Parallel()(calls(abs, range(-50, 0))) == list(range(50, 0, -1))
    assert joblib.Parallel()([]) == []
    assert joblib.Parallel(batch_size=7, pre_dispatch="all")(calls(abs, range(-50, 0))) == list(range(50, 0, -1))


def test_the_backend_is_found_by_every_name():
    for configured in (joblib.parallel_config, joblib.parallel_backend):
        with configured("arrowpool", n_jobs=2):
            assert os.getpid() not in joblib.Parallel()(calls(tasks.pid, range(4)))
    assert os.getpid() not in joblib.Parallel(n_jobs=2, backend="arrowpool")(calls(tasks.pid, range(4)))
    assert joblib.Parallel(n_jobs=1, backend="arrowpool")(calls(tasks.pid, range(2))) == [os.getpid()] * 2
    with pytest.raises(ValueError, match="n_jobs == 0"):
        joblib.Parallel(n_jobs=0, backend="arrowpool")(calls(abs, [1]))


def test_generators(backend):
    ordered = joblib.Parallel(return_as="generator")(calls(abs, range(-9, 0)))
    assert next(ordered) == 9
    assert list(ordered) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert sorted(joblib.Parallel(return_as="generator_unordered")(calls(abs, range(-9, 0)))) == list(range(1, 10))


def test_short_tasks_are_batched(backend):
    with joblib.Parallel(batch_size="auto") as parallel:
        sizes = []
        parallel._backend.batch_completed = lambda size, seconds: (
            sizes.append(size),
            type(parallel._backend).batch_completed(parallel._backend, size, seconds),
        )
        assert parallel(calls(abs, range(2000))) == list(range(2000))
    assert sum(sizes) == 2000
    assert max(sizes) > 8


def test_arguments_are_private_and_in_shared_memory(backend):
    array = np.ones(500_000)
    assert joblib.Parallel()(calls(is_writeable, [array] * 4)) == [True] * 4
    # One to a batch: a batch is one pickle, and what occurs twice in it is one object.
    assert joblib.Parallel(batch_size=1)(calls(tasks.write_and_sum, [array] * 4)) == [1_000_000.0] * 4
    assert array.sum() == 500_000
    frame = pd.DataFrame(np.ones((50_000, 4)), columns=list("abcd"))
    pd.testing.assert_frame_equal(joblib.Parallel()(calls(tasks.double, [frame] * 2))[1], frame * 2)
    assert kept().executor._closer.pool.stats().shared_bytes > 8 * array.nbytes


def kept():
    return ours._kept[os.getpid()]


def test_shared_objects_are_copied_once():
    array = np.ones(1_000_000)
    with joblib.parallel_config(backend="arrowpool", n_jobs=2, share=[array], max_bytes=1 << 30):
        assert joblib.Parallel(batch_size=1)(calls(tasks.write_and_sum, [array] * 10)) == [2_000_000.0] * 10
        assert kept().executor._closer.pool.stats().shared_bytes < 1.5 * array.nbytes


def test_the_workers_are_kept_until_others_are_wanted():
    def pids(n_jobs, **extras):
        with joblib.parallel_config(backend="arrowpool", n_jobs=n_jobs, **extras):
            joblib.Parallel()(calls(tasks.pid, range(8)))
        return set(kept().executor._processes)

    first = pids(2)
    assert len(first) == 2
    assert pids(2) == first
    other = pids(3)
    assert len(other) == 3
    assert not other & first
    assert not pids(3, inner_max_num_threads=5) & other
    ours.shutdown()
    assert not ours._kept


def test_an_error_with_its_traceback(backend):
    for return_as in ("list", "generator"):
        with pytest.raises(ValueError, match="odd: 3") as caught:
            list(joblib.Parallel(return_as=return_as)(calls(tasks.fail_if_odd, [2, 3, 4])))
        assert "fail_if_odd" in str(caught.value.__cause__)
        del caught
        assert joblib.Parallel()(calls(abs, [-1, -2])) == [1, 2]


def test_an_error_ends_what_runs(backend, tmp_path):
    path = str(tmp_path / "begun")
    os.mkfifo(path)
    opened = os.open(path, os.O_RDWR)
    with pytest.raises(ValueError, match="odd: 1"):
        joblib.Parallel(pre_dispatch="all", batch_size=1)(
            [joblib.delayed(tasks.signal_and_block)(path), joblib.delayed(fail_after_reading)(path)]
        )
    os.close(opened)


def fail_after_reading(path):
    with open(path) as begun:
        begun.readline()
    tasks.fail_if_odd(1)


def test_a_timeout(backend):
    began = time.monotonic()
    with pytest.raises((TimeoutError, multiprocessing.TimeoutError, futures.TimeoutError)):
        joblib.Parallel(timeout=0.2)(calls(time.sleep, [LIMIT] * 5))
    assert time.monotonic() - began < LIMIT / 2
    assert joblib.Parallel()(calls(abs, [-1, -2])) == [1, 2]


def test_a_lost_worker(backend):
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        joblib.Parallel()(calls(tasks.die, ["sigkill"] * 2))
    assert joblib.Parallel()(calls(abs, [-1, -2])) == [1, 2]


def test_a_lost_task_is_run_again(tmp_path):
    with joblib.parallel_config(backend="arrowpool", n_jobs=2, retries=2):
        runs = joblib.Parallel(batch_size=1)(calls(tasks.die_until, [str(tmp_path / "a"), str(tmp_path / "b")], [2, 1]))
    assert len(runs) == 2


def test_a_generator_that_is_closed_early(backend, recwarn):
    with joblib.parallel_config(backend="arrowpool", n_jobs=2):
        values = joblib.Parallel(return_as="generator", pre_dispatch=2, batch_size=1)(calls(abs, range(-50, 0)))
        assert next(values) == 50
        values.close()
        assert joblib.Parallel()(calls(abs, [-1, -2])) == [1, 2]


def test_nested_calls_get_the_same_backends_as_with_loky():
    found = {}
    for name in ("loky", "arrowpool"):
        with joblib.parallel_config(backend=name, n_jobs=2):
            found[name] = joblib.Parallel()(calls(nested, [5, 6]))
    stop_loky()
    assert found["arrowpool"] == found["loky"]
    assert [(backend, values) for backend, _, values in found["arrowpool"]] == [
        ("ThreadingBackend", [5, 1]),
        ("ThreadingBackend", [6, 1]),
    ]


def stop_loky():
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(kill_workers=True)


def test_nested_by_name(backend):
    from functools import partial

    register = partial(registered, nested_by_name)
    for values, said in joblib.Parallel(batch_size=1)(calls(register, [5, 6], ["arrowpool"] * 2)):
        assert values in ([5, 1], [6, 1])
        assert not [words for words in said if "cannot be nested" in words], "tasks may start processes, as with loky"


def registered(function, *arguments):
    ours.register()
    return function(*arguments)


def test_below_threads(backend):
    """At the first level a thread has workers as well, at the same time as others."""
    found = {}

    def call(i):
        with joblib.parallel_config(backend="arrowpool", n_jobs=2 + i % 2):
            found[i] = joblib.Parallel()(calls(abs, range(-200, 0)))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert [found[i] for i in range(4)] == [list(range(200, 0, -1))] * 4


def test_threads_of_libraries(monkeypatch):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for asked, expected in ((None, max(joblib.cpu_count() // 2, 1)), (3, 3)):
        with joblib.parallel_config(backend="arrowpool", n_jobs=2, inner_max_num_threads=asked):
            found = joblib.Parallel()(calls(environment, [names] * 2))
        assert found == [dict.fromkeys(names, str(expected))] * 2


def test_nothing_is_kept_of_a_call(backend):
    array = np.ones(100_000)
    alive = weakref.ref(array)
    assert joblib.Parallel()(calls(tasks.first, [array] * 4)) == [1.0] * 4
    del array
    assert alive() is None


def test_a_script_without_a_guard(tmp_path):
    """As with joblib's own backend, the main module is not imported by the workers, and what it defines goes along."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import joblib
            from arrowpool.integrations.joblib import register

            FACTOR = 3

            def scaled(x):
                return FACTOR * x

            register()
            with joblib.parallel_config(backend="arrowpool", n_jobs=2):
                print(joblib.Parallel()(joblib.delayed(scaled)(x) for x in range(4)))
                print(joblib.Parallel()(joblib.delayed(lambda x: scaled(x) + 1)(x) for x in range(4)))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[0, 3, 6, 9]\n[1, 4, 7, 10]\n", "", 0)


def test_a_killed_program_leaves_no_worker(tmp_path):
    program = textwrap.dedent(
        """
        import joblib, sys
        from arrowpool.integrations.joblib import register
        from tests.pool import tasks
        register()
        joblib.Parallel(n_jobs=2, backend="arrowpool")([joblib.delayed(tasks.signal_and_block)(sys.argv[1])])
        """
    )
    path = str(tmp_path / "pid")
    os.mkfifo(path)
    running = subprocess.Popen([sys.executable, "-c", program, path], env={**os.environ, "PYTHONPATH": os.getcwd()})
    with open(path) as pids:
        worker = os.pidfd_open(int(pids.readline()))
    running.send_signal(signal.SIGKILL)
    running.wait(LIMIT)
    import select

    ended, _, _ = select.select([worker], [], [], LIMIT)
    os.close(worker)
    assert ended


@pytest.mark.filterwarnings("ignore")  # of theirs
class TestScikitLearn:
    @pytest.fixture(scope="class")
    def samples(self):
        return library("sklearn.datasets").make_classification(300, 8, random_state=0)

    def test_grid_search(self, backend, samples):
        selection, svm = library("sklearn.model_selection"), library("sklearn.svm")

        def search(n_jobs):
            return selection.GridSearchCV(svm.SVC(), {"C": [0.1, 1, 10], "gamma": [0.1, 1]}, cv=3, n_jobs=n_jobs).fit(
                *samples
            )

        before = search(1)
        after = search(2)
        assert after.best_params_ == before.best_params_
        np.testing.assert_array_equal(after.cv_results_["mean_test_score"], before.cv_results_["mean_test_score"])
        assert kept().executor._closer.pool.stats().tasks > 0

    def test_forests_in_a_search(self, backend, samples):
        selection, ensemble = library("sklearn.model_selection"), library("sklearn.ensemble")
        forest = ensemble.RandomForestClassifier(10, random_state=0, n_jobs=2)
        scores = selection.cross_val_score(forest, *samples, cv=3, n_jobs=2)
        np.testing.assert_array_equal(
            scores, selection.cross_val_score(forest.set_params(n_jobs=1), *samples, cv=3, n_jobs=1)
        )
        probabilities = forest.set_params(n_jobs=2).fit(*samples).predict_proba(samples[0])
        np.testing.assert_array_equal(
            probabilities, forest.set_params(n_jobs=1).fit(*samples).predict_proba(samples[0])
        )
