"""Whether a pool paid: the rule, and its words. No process."""

from __future__ import annotations

import dataclasses
import re

import pytest

from arrowpool.stats import Stats
from arrowpool.stats_rows import SlowTask, WorkerStats
from arrowpool.verdict import Choice, Costs, choose, gain, larger_by, show_seconds

COSTS = Costs(serial=4.0, pool=6.0, tasks=10_000, workers=2)


@pytest.mark.parametrize(
    ("change", "choice"),
    [
        ({"pool": 2.0}, Choice.POOL),
        ({"pool": 4.3}, Choice.POOL),  # no difference that counts
        ({}, Choice.LARGER_TASKS),
        ({"threads": 2.0, "pool": 3.0}, Choice.THREADS),
        ({"threads": 2.0, "pool": 2.1}, Choice.POOL),
        ({"threads": 4.0}, Choice.LARGER_TASKS),
        ({"computing": 0.1}, Choice.THREADS),
        ({"computing": 0.1, "pool": 2.0}, Choice.POOL),
        ({"computing": 0.1, "threads": 4.0}, Choice.LARGER_TASKS),  # measured, so not guessed
        ({"computing": 0.1, "tasks": 1}, Choice.MORE_WORK),
        ({"serial": 0.03, "pool": 0.1}, Choice.LOOP),
        ({"nbytes": 10_000 << 21}, Choice.MORE_WORK),  # each message is large
        ({"tasks": 40}, Choice.MORE_WORK),  # each task is long
        ({"tasks": 2, "serial": 0.05}, Choice.MORE_WORK),
        ({"starting": 3.0}, Choice.POOL),
        ({"starting": 0.5}, Choice.LARGER_TASKS),
        ({"user": 3.99}, Choice.LOOP),  # the tasks themselves are short
    ],
)
def test_what_is_fastest(change, choice):
    assert choose(dataclasses.replace(COSTS, **change)) is choice


@pytest.mark.parametrize(
    ("serial", "tasks", "factor"),
    [(4.0, 10_000, 50), (1e-3, 10_000, 5000), (0.09, 5, 2), (1.9, 100, 2), (0.08, 8765, 2000)],
)
def test_how_much_larger_tasks_should_be(serial, tasks, factor):
    assert larger_by(Costs(serial=serial, pool=9.0, tasks=tasks, workers=2)) == factor


@pytest.mark.parametrize(
    ("serial", "pool", "words"),
    [
        (1.0, 1.0, "about as fast as a plain loop"),
        (1.0, 1.05, "about as fast as a plain loop"),
        (1.7, 1.0, "about 1.7 times as fast as a plain loop"),
        (1.0, 15.3, "slower: a plain loop would be about 15 times as fast"),
    ],
)
def test_how_it_compares(serial, pool, words):
    assert gain(Costs(serial=serial, pool=pool, tasks=1, workers=1)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(123.4, "123 s"), (1.25, "1.2 s"), (0.99, "990 ms"), (0.0154, "15 ms"), (0.00154, "1.5 ms"), (2e-5, "20 us"), (0, "0 us"), (0.9999, "1.0 s")],
)  # fmt: skip
def test_a_time_in_words(seconds, words):
    assert show_seconds(seconds) == words


STATS = Stats(tasks=10, size=2, seconds=10.0, run=16.0, decode=1.0, encode=1.0, cpu=18.0, sending=1.0)


def test_where_the_time_went():
    spent = STATS.spent
    assert spent.run + spent.moved + spent.waited == pytest.approx(20.0)
    assert spent.moved == pytest.approx(2.0 + 0.2)  # the pool's threads were at work for a tenth of the time
    assert STATS.verdict == (
        "In 10.0 s of calls, the workers spent 80% of their time on tasks, 11% on moving data, and 9% waiting. The calls "
        "were about 1.6 times as fast as a plain loop."
    )


@pytest.mark.parametrize(
    ("delayed", "serial"),
    [(0.0, 16.0), (4.5, 12.0), (9.0, 8.0), (17.0, 8.0), (99.0, 8.0)],
    ids=["free cores", "some waits", "one core", "other programs", "more waits than work"],
)
def test_a_loop_waits_less_for_a_processor(delayed, serial):
    assert dataclasses.replace(STATS, delayed=delayed).spent.costs.serial == pytest.approx(serial)


@pytest.mark.parametrize(
    "change",
    [
        {"run": 0.0},
        {"run": -1e-9},
        {"run": 0.0, "decode": 0.0, "encode": 0.0, "sending": 0.0, "delayed": 1.0},
        {"delayed": -1.0},
        {"cpu": -1.0},
        {"user": -1e-9, "run": 0.0},
        {"sending": -1.0},
        {"tasks": -1},
        {"seconds": -1.0},
        {"shared_bytes": -5},
        {"starting": 99.0},
        {"running": -1.0},
        {"lost_tasks": -1, "lost_run": -1.0},
        {"lost_run": 99.0},
        {"framing": -1.0},
    ],
)
def test_figures_of_moments_a_little_apart(change):
    """Nothing is raised, and no share is below 0 or above 100%."""
    text = dataclasses.replace(STATS, **change).verdict
    assert all(0 <= int(share) <= 100 for share in re.findall(r"(-?\d+)%", text))


def test_waits_for_a_processor_are_not_taken_for_transport():
    crowded = dataclasses.replace(STATS, delayed=18.0, tasks=20)
    assert crowded.spent.choice is Choice.MORE_WORK
    assert "moving its data takes" not in crowded.verdict


def test_no_verdict_without_a_task():
    assert Stats().verdict == ""
    assert Stats(size=2, seconds=1.0).verdict == ""
    assert not repr(Stats()).endswith(".")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run": 1.0, "cpu": 1.0, "sending": 9.0, "tasks": 10_000}, "100 us, less than its message takes: use fewer and larger tasks (a chunksize about 200 times as large)"),
        ({"run": 1.0, "cpu": 1.0, "shared_bytes": 1 << 30}, "less than moving its data takes"),
        ({"run": 1.0, "cpu": 0.1}, "use threads"),
        ({"run": 1e-3, "cpu": 1e-3}, "All tasks together ran for 1.0 ms: use a loop."),
        ({"delayed": 15.0, "cpu": 4.0}, "The tasks waited for a processor for 83% of their time"),
        ({"delayed": 18.0, "cpu": 4.0}, "The tasks waited for a processor for most of their time"),
        ({"starting": 4.0}, "Starting the workers took 4.0 s"),
        # Neither messages nor data cost the time.
        ({"run": 4.0, "cpu": 4.0, "tasks": 1_000, "decode": 0.1, "encode": 0.1, "seconds": 5.0, "sending": 0.0},
         "A task ran for 4.0 ms: do more in each task, or use a loop."),
        ({"run": 4.0, "cpu": 4.0, "tasks": 1_000, "decode": 0.1, "encode": 0.1, "seconds": 5.0, "sending": 0.0, "framing": 9.0},
         "Cutting the frame and joining the results took 9.0 s of that"),
        ({"size": 8, "tasks": 3}, "There were 3 tasks for 8 workers"),
        ({"size": 4, "tasks": 1}, "There was 1 task for 4 workers"),
        ({"run": 11.0, "slowest": (SlowTask("f", 0, 8.0),)}, "The longest task took 8.0 s, while other workers waited"),
        ({"run": 11.0, "user": 9.0}, "The workers waited for your code"),
        ({"run": 1.0, "user": 9.0}, "The workers waited for your code"),  # as a loop would
    ],
)  # fmt: skip
def test_why(change, words):
    assert words in dataclasses.replace(STATS, **change).verdict


def test_more_workers_than_this_process_can_feed():
    busy = dataclasses.replace(STATS, size=8, run=20.0, decode=0.0, sending=8.5, cpu=20.0)
    assert busy.spent.waited < 0.2 * 80
    assert "This process was busy" in busy.verdict


LOST = dataclasses.replace(
    STATS, tasks=0, run=18.0, decode=0.0, encode=0.0, cpu=0.0, lost_tasks=18, lost_run=18.0, sending=0.0
)


def test_tasks_that_ended_with_their_workers_count_as_time_on_tasks():
    assert LOST.verdict == (
        "In 10.0 s of calls, the workers spent 90% of their time on tasks, 0% on moving data, and 10% waiting. 18 tasks ended "
        "with their workers, after 18.0 s, which count as time on tasks."
    )
    assert LOST.spent.choice is Choice.POOL
    some = dataclasses.replace(LOST, tasks=2, run=19.0, cpu=1.0, lost_tasks=1)
    assert "1 task ended with its worker, after 18.0 s" in some.verdict
    assert "The calls were about 1.9 times as fast" in some.verdict
    assert not some.spent.costs.waits, "what the lost task computed is not known"


def test_a_task_that_runs_now_is_no_wait_and_counts_once():
    before = dataclasses.replace(STATS, run=0.0, running=4.0)
    assert before.spent.run == 4.0
    answered = dataclasses.replace(STATS, run=5.0, seconds=12.0).since(before)
    assert (answered.run, answered.running) == (1.0, 0.0)
    later = dataclasses.replace(STATS, run=0.0, running=7.0, seconds=12.0).since(before)
    assert (later.run, later.running) == (0.0, 3.0)
    another = dataclasses.replace(STATS, run=5.0, running=0.5, seconds=12.0).since(before)
    assert (another.run, another.running) == (1.0, 0.5)
    worker = WorkerStats(pid=1, tasks=0, seconds=8.0, decode=0.0, run=0.0, encode=0.0, alive=True, running=6.0)
    assert worker.wait == 2.0
    assert worker.since(dataclasses.replace(worker, seconds=4.0, running=3.0)).wait == 1.0


def test_cutting_and_joining_is_part_of_the_calls_and_of_a_loop():
    framed = dataclasses.replace(STATS, framing=6.0)
    costs = framed.spent.costs
    assert (costs.pool, costs.serial, costs.run) == (16.0, 22.0, 16.0)
    assert framed.spent.run + framed.spent.moved + framed.spent.waited == pytest.approx(32.0)
    assert "In 16.0 s of calls, the workers spent 50% of their time on tasks" in framed.verdict
    assert "The calls were about 1.4 times as fast" in framed.verdict
    assert framed.verdict.endswith(
        "Cutting the frame and joining the results took 6.0 s of that, which a loop does as well."
    )


def test_figures_since_earlier_ones():
    more = dataclasses.replace(STATS, tasks=15, run=18.0, seconds=11.0, live_bytes=7)
    since = more.since(STATS)
    assert (since.tasks, since.run, since.seconds, since.live_bytes, since.size) == (5, 2.0, 1.0, 7, 2)
    assert since.verdict.startswith("In 1.0 s of calls")
    assert more.since(Stats()) == more


def test_figures_since_leave_out_workers_that_had_ended():
    def worker(pid, tasks, alive):
        return WorkerStats(pid, tasks=tasks, seconds=5.0 + tasks, decode=0.0, run=1.0 * tasks, encode=0.0, alive=alive)

    before = dataclasses.replace(
        STATS, workers=(worker(1, 3, True), worker(2, 4, True), worker(3, 5, False), worker(4, 1, False))
    )
    # Worker 2 has ended since, worker 5 is new, and the system has given the number of worker 4 to another one.
    now = (worker(1, 6, True), worker(5, 1, True), worker(4, 2, True), worker(2, 4, False), worker(3, 5, False))
    since = dataclasses.replace(STATS, workers=now).since(before)
    assert [(one.pid, one.tasks) for one in since.workers] == [(1, 3), (5, 1), (4, 2), (2, 0)]
