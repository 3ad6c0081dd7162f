"""Failures by name: every error says which item of its call it belongs to, and is otherwise the standard library's."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import pickle
import re
import sys
import threading
import time
import traceback
from multiprocessing import pool as stdlib

import numpy as np
import pandas as pd
import pytest

import arrowpool
from arrowpool import ProcessPoolExecutor, TaskExitError, TaskTimeoutError, TransferError, WorkerLostError
from arrowpool.errors import ArenaFullError, add_note, again, name_item, set_index
from tests.pool import tasks

LIMIT = 60
COUNT = 1000
AT = 617


class Trouble(Exception):
    def __init__(self, number, reason="no price"):
        super().__init__(number, reason)
        self.number = number


def trouble_at(number, *_):
    if number == AT:
        raise Trouble(number)
    return number


def die_at(number):
    if number == AT:
        os.kill(os.getpid(), 9)
    return number


def notes_of(error):
    notes = getattr(error, "__notes__", [])
    if type(notes) is not list:
        return notes
    # From 3.14 on, CPython says where pickle was, too.
    return [note for note in notes if not note.startswith("when serializing ")]


#: Ways to apply a function to the numbers below `COUNT`, and how the item that fails is called then.
WAYS = {
    "map": (lambda pool, f: pool.map(f, range(COUNT)), "item 617 of 1,000"),
    "map, one by one": (lambda pool, f: pool.map(f, range(COUNT), 1), "item 617 of 1,000"),
    "map, a generator": (lambda pool, f: pool.map(f, iter(range(COUNT)), 7), "item 617 of 1,000"),
    "map_async": (lambda pool, f: pool.map_async(f, list(range(COUNT))).get(LIMIT), "item 617 of 1,000"),
    "starmap": (lambda pool, f: pool.starmap(f, [(x,) for x in range(COUNT)]), "item 617 of 1,000"),
    "starmap_async": (lambda pool, f: pool.starmap_async(f, [(x,) for x in range(COUNT)], 1).get(LIMIT), "item 617 of 1,000"),
    "imap": (lambda pool, f: list(pool.imap(f, range(COUNT))), "item 617 of 1,000"),
    "imap, in chunks": (lambda pool, f: list(pool.imap(f, list(range(COUNT)), 7)), "item 617 of 1,000"),
    "imap, a generator": (lambda pool, f: list(pool.imap(f, iter_of(COUNT))), "item 617"),
    "imap, a generator in chunks": (lambda pool, f: list(pool.imap(f, iter_of(COUNT), 7)), "item 617"),
    "imap_unordered": (lambda pool, f: list(pool.imap_unordered(f, range(COUNT))), "item 617 of 1,000"),
    "imap_unordered, in chunks": (lambda pool, f: list(pool.imap_unordered(f, iter_of(COUNT), 7)), "item 617"),
}  # fmt: skip


def iter_of(count):
    yield from range(count)


@pytest.mark.parametrize("way", WAYS)
def test_an_error_names_its_item_and_is_otherwise_the_same(our_pool, way):
    call, named = WAYS[way]
    with pytest.raises(Trouble) as raised:
        call(our_pool, trouble_at)
    error = raised.value
    assert notes_of(error) == [named]
    assert error.index == AT
    assert (type(error), error.args, str(error), error.number) == (Trouble, (AT, "no price"), str(Trouble(AT)), AT)
    assert type(error.__cause__) is stdlib.RemoteTraceback
    shown = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "in trouble_at" in str(error.__cause__)
    assert named in shown
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args, again.number) == (Trouble, error.args, AT)


def raise_it(error):
    raise error


def test_an_error_that_is_raised_again_names_the_item_of_the_latest_call(our_pool):
    (error,) = [one for one in our_pool.map(trouble_at, range(610, 620), 3, on_error="return") if type(one) is Trouble]
    assert (error.index, notes_of(error)) == (7, ["item 7 of 10"])
    for chunksize in (1, 2):
        returned = our_pool.map(raise_it, [error] * 3, chunksize, on_error="return")
        assert [(one.index, notes_of(one)) for one in returned] == [(at, [f"item {at} of 3"]) for at in range(3)]
        (last,) = our_pool.map(raise_it, returned[2:], on_error="return")
        assert (last.index, notes_of(last)) == (0, ["item 0 of 1"])
    with pytest.raises(Trouble) as raised:
        our_pool.apply(raise_it, (error,))
    assert not notes_of(raised.value)
    assert not hasattr(raised.value, "index")
    pairs = our_pool.imap_groups(
        raise_of, pd.DataFrame({"key": ["a", "b"], "error": [error, error]}), by="key", on_error="return"
    )
    assert [(one.index, notes_of(one)) for _, one in pairs] == [
        (0, ["in the group 'a' (1 row)"]),
        (1, ["in the group 'b' (1 row)"]),
    ]


def raise_of(group):
    raise group["error"].iloc[0]


def test_an_index_of_the_user_stays(our_pool):
    error = Trouble(1)
    error.index = 99
    (again,) = our_pool.map(raise_it, [error], on_error="return")
    assert (again.index, notes_of(again)) == (99, ["item 0 of 1"])
    again.index = 98
    (again,) = our_pool.map(raise_it, [again], on_error="return")
    assert (again.index, notes_of(again)) == (98, ["item 0 of 1"])


def test_the_note_of_a_call_within_a_task_stays(monkeypatch):
    error = Trouble(1)
    name_item(error, 7, 1, "item 1 of 2")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    name_item(error, 7, 5, "item 5 of 8")
    assert (error.index, notes_of(error)) == (5, ["item 1 of 2", "item 5 of 8"])


def test_a_single_call_has_no_item(our_pool):
    with pytest.raises(Trouble) as raised:
        our_pool.apply(trouble_at, (AT,))
    assert not notes_of(raised.value)
    assert not hasattr(raised.value, "index")


@pytest.mark.parametrize("chunksize", [1, 10])
@pytest.mark.parametrize("buffersize", [None, 4])
def test_an_error_of_an_executor(ours, chunksize, buffersize):
    with ProcessPoolExecutor(2, ours.context) as executor:
        with pytest.raises(Trouble) as raised:
            list(executor.map(trouble_at, range(COUNT), range(COUNT), chunksize=chunksize, buffersize=buffersize))
        assert notes_of(raised.value) == ["item 617 of 1,000" if buffersize is None else "item 617"]
        assert raised.value.index == AT
        error = executor.submit(trouble_at, AT).exception(LIMIT)
        assert not notes_of(error)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    number: int


class WithIndex(Exception):
    index = "its own"


class WithIndexSet(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.index = f"its own {number}"


class Slotted(Exception):
    __slots__ = ("index",)


class Guarded(Exception):
    def __setattr__(self, name, value):
        raise RuntimeError("no attributes")


class Dynamic(Exception):
    def __getattr__(self, name):
        raise RuntimeError("asked")


class Noted(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.__notes__ = ("not", "a list")


def raise_a(kind, number):
    raise kind(number)


@pytest.mark.parametrize(
    ("kind", "index"),
    [(WithIndex, "its own"), (WithIndexSet, "its own 1"), (Noted, 1)],
)
def test_exceptions_that_have_an_index_or_notes(our_pool, kind, index):
    iterator = our_pool.imap(functools.partial(raise_a, kind), range(2))
    errors = []
    for _ in range(2):
        with pytest.raises(kind) as raised:
            next(iterator)
        errors.append(raised.value)
    error = errors[1]
    assert type(error) is kind
    assert error.index == index
    assert notes_of(error) == (("not", "a list") if kind is Noted else ["item 1 of 2"])


def test_what_is_noted_without_code_of_the_class():
    for error in (Dynamic(1), Slotted(1), Guarded(1), Frozen.__new__(Frozen)):
        add_note(error, "item 1")
        set_index(error, 1)
        assert vars(error) == {"__notes__": ["item 1"]}
    assert not hasattr(Slotted(1), "index")
    for nothing in (None, 7, Trouble):
        add_note(nothing, "item 1")
        set_index(nothing, 1)


class Always(Exception):
    """Becomes the same object, wherever it is rebuilt."""

    def __reduce__(self):
        return "ALWAYS"


ALWAYS = Always("one")


def raise_always(_):
    raise ALWAYS


@pytest.mark.own_pool
def test_an_exception_that_is_one_object_does_not_grow(our_pool):
    iterator = our_pool.imap(raise_always, range(100))
    for _ in range(100):
        with pytest.raises(Always) as raised:
            next(iterator)
    assert 1 <= len(notes_of(raised.value)) <= 20
    vars(ALWAYS).clear()


def give_what_cannot_be_sent(number):
    return (lambda: number) if number == 3 else number


def exit_at(number):
    if number == 3:
        sys.exit(5)
    return number


def test_other_errors_of_a_task(our_pool):
    with pytest.raises(stdlib.MaybeEncodingError) as raised:
        our_pool.map(give_what_cannot_be_sent, range(5), 1)
    assert notes_of(raised.value)[-1] == "item 3 of 5"
    assert raised.value.index == 3
    with pytest.raises(TaskExitError, match="SystemExit") as raised:
        our_pool.map(exit_at, range(5), 4)
    assert notes_of(raised.value) == ["item 3 of 5"]
    assert raised.value.index == 3
    with pytest.raises(TransferError, match="the exception of throw on item 0 of 1 could") as raised:
        our_pool.map(throw, [NotRebuilt])
    assert raised.value.index == 0
    with pytest.raises(TypeError) as raised:
        our_pool.map(tasks.identity, [1, iter_of(3)], 1)
    assert notes_of(raised.value)[-1] == "item 1 of 2"
    assert raised.value.index == 1


class NotRebuilt(Exception):
    def __init__(self, first, second):
        super().__init__(first)


def throw(kind):
    raise kind(1, 2)


def goes_wrong_at(number):
    yield from range(number)
    raise Trouble(number)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_error_of_the_iterable_has_no_item(our_pool, chunksize):
    for call in (
        lambda: list(our_pool.imap(abs, goes_wrong_at(5), chunksize)),
        lambda: our_pool.map(abs, goes_wrong_at(5)),
    ):
        with pytest.raises(Trouble) as raised:
            call()
        assert not notes_of(raised.value)
        assert not hasattr(raised.value, "index")


@pytest.mark.own_pool
def test_a_lost_worker_names_the_item(our_pool):
    with pytest.raises(WorkerLostError, match=r"while it ran die_at on item 617 of 1,000; often") as raised:
        our_pool.map(die_at, range(COUNT), 1)
    error = raised.value
    assert (error.index, error.tries) == (AT, 1)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(other), other.index, other.tries, other.args) == (str(error), AT, 1, error.args)
    with pytest.raises(WorkerLostError, match=r"while it ran die_at; often") as raised:
        our_pool.apply(die_at, (AT,))
    assert raised.value.index is None


def die_at_after_a_while(number):
    time.sleep(0.001)
    return die_at(number)


@pytest.mark.own_pool
def test_a_lost_worker_names_the_item_of_a_chunk(our_pool):
    """The item itself, if items take their time; otherwise a few that ran at the same time."""
    for call in (our_pool.map, lambda *given: list(our_pool.imap_unordered(*given))):
        with pytest.raises(WorkerLostError, match="ran die_at_after_a_while on item 617 of 1,000;") as raised:
            call(die_at_after_a_while, range(COUNT), 50)
        assert raised.value.index == AT
        with pytest.raises(WorkerLostError) as raised:
            call(die_at, range(COUNT), 300)
        first, last = map(int, re.search(r"ran die_at on items (\d+) to (\d+) of 1,000;", str(raised.value)).groups())
        assert 600 <= first <= AT <= last < 900
        with pytest.raises(WorkerLostError, match="ran abs on items 8 to 9 of 10;") as raised:
            call(abs, [DiesWhenRebuilt() if number == 9 else number for number in range(10)], 2)
        assert raised.value.index is None


class DiesWhenRebuilt:
    def __reduce__(self):
        return os._exit, (3,)


def test_a_time_limit_names_the_item_of_a_chunk():
    with arrowpool.get_context("fork").Pool(1, task_timeout=1) as pool:
        pool.map(abs, range(COUNT), COUNT)  # short items go together
        with pytest.raises(TaskTimeoutError, match=r"^wait_for on item 2 of 4 ran for more than 1 s") as raised:
            pool.map(tasks.wait_for, [0.001, 0.001, LIMIT, 0], 4)
        assert raised.value.index == 2
    pool.join()


def wait_for_group(group):
    return tasks.wait_for(0.2)


def test_each_item_of_a_chunk_has_the_time_of_a_task():
    with arrowpool.get_context("fork").Pool(1, task_timeout=0.9) as pool:
        assert pool.map(tasks.wait_for, [0.2] * 6, 6) == [0.2] * 6
        frame = pd.DataFrame({"key": range(6)})
        assert pool.map_groups(wait_for_group, frame, by="key", chunksize=6).tolist() == [0.2] * 6
    pool.join()


def ends_at(number):
    if number == AT:
        raise StopIteration
    return number


def test_stop_iteration_ends_a_chunk(pool):
    """As it always has."""
    assert pool.map(ends_at, range(COUNT), COUNT) == list(range(AT))
    assert list(pool.imap(ends_at, range(COUNT), COUNT)) == list(range(AT))


def test_the_slowest_items(ours):
    with ours.pool(2) as pool:
        pool.map(tasks.wait_for, [0] * 8 + [0.3] + [0], 2)
        pool.apply(tasks.wait_for, (0.2,))
        first, second = pool.stats().slowest[:2]
        assert (first.function, first.index, first.items) == ("wait_for", 8, "items 8 to 9 of 10")
        assert (second.index, second.items) == (0, "")
        assert re.search(r"function +on +ran\n  wait_for +items 8 to 9 of 10 +[\d.]+ m?s", repr(pool.stats()))
        assert re.search(r"wait_for +one call +[\d.]+ m?s", repr(pool.stats()))
    pool.join()


def test_how_often_it_was_tried(ours, tmp_path):
    with ours.pool(2, retries=2) as pool:
        with pytest.raises(WorkerLostError, match=r"die_at on item 617 of 1,000 \(tried 3 times\); often") as raised:
            pool.map(die_at, range(COUNT), 1)
        assert raised.value.tries == 3
        with pytest.raises(Trouble) as raised:
            pool.map(functools.partial(die_once, str(tmp_path / "once")), [7], 1)
        assert notes_of(raised.value) == ["item 0 of 1, tried 2 times"]
        with pytest.raises(Trouble) as raised:
            pool.apply(die_once, (str(tmp_path / "single"), 7))
        assert notes_of(raised.value) == ["tried 2 times"]
    pool.join()


def die_once(path, number):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), 9)
    raise Trouble(number)


def test_a_time_limit_names_the_item():
    with arrowpool.get_context("fork").Pool(2, task_timeout=0.5) as pool:
        with pytest.raises(TaskTimeoutError, match=r"^wait_for on item 2 of 4 ran for more than 0.5 s") as raised:
            pool.map(tasks.wait_for, [0, 0, LIMIT, 0], 1)
        assert raised.value.index == 2
        assert pickle.loads(pickle.dumps(raised.value)).index == 2
    pool.join()


PRICES = pd.DataFrame({"ticker": np.repeat([f"T{number:02}" for number in range(40)], 3), "x": range(120)})


def fail_at_t17(group):
    if group.name == "T17":
        raise Trouble(17)
    return len(group)


ONE_FOR_ALL = KeyError("no price")


def fail_with_one_for_all(group):
    if group.name in ("T05", "T17"):
        raise ONE_FOR_ALL
    return len(group)


@pytest.mark.own_pool
def test_an_exception_of_a_module_is_that_of_its_group(our_pool):
    """The worker's own object is not changed by what is noted in errors."""
    for _ in range(3):
        pairs = dict(our_pool.imap_groups(fail_with_one_for_all, PRICES, by="ticker", on_error="return"))
        for key in ("T05", "T17"):
            assert (notes_of(pairs[key]), pairs[key].index) == ([f"in the group '{key}' (3 rows)"], int(key[1:]))
        with pytest.raises(KeyError) as raised:
            our_pool.map_groups(fail_with_one_for_all, PRICES[PRICES["ticker"] > "T05"], by="ticker")
        assert (notes_of(raised.value), raised.value.index) == (["in the group 'T17' (3 rows)"], 11)


def end_at_t17(how, group):
    if group.name == "T17":
        os.kill(os.getpid(), 9) if how == "kill" else sys.exit(3)
    return len(group)


@pytest.mark.own_pool
def test_groups(our_pool):
    for call in (our_pool.map_groups, lambda *args, **kwds: list(our_pool.imap_groups(*args, **kwds))):
        with pytest.raises(Trouble) as raised:
            call(fail_at_t17, PRICES, by="ticker")
        assert notes_of(raised.value) == ["in the group 'T17' (3 rows)"]
        assert raised.value.index == 17
        with pytest.raises(TaskExitError) as raised:
            call(functools.partial(end_at_t17, "exit"), PRICES, by="ticker")
        assert notes_of(raised.value) == ["in the group 'T17' (3 rows)"]
        assert raised.value.index == 17
        with pytest.raises(WorkerLostError, match=r"ran end_at_t17 on the group 'T17'; often") as raised:
            call(functools.partial(end_at_t17, "kill"), PRICES, by="ticker", chunksize=1)
        assert raised.value.index == 17
        with pytest.raises(WorkerLostError, match=r"ran end_at_t17 on the group 'T17'; often") as raised:
            call(functools.partial(end_at_t17, "kill"), PRICES, by="ticker")
        assert raised.value.index == 17
        with pytest.raises(TransferError, match=r"result of give on the groups 'T\d\d' to 'T\d\d' could") as raised:
            call(give, PRICES, by="ticker", chunksize=20)


def stop_at_t17(group):
    return next(iter(())) if group.name == "T17" else len(group)


def test_stop_iteration_of_a_group_or_part_is_not_silent(our_pool):
    for call in (our_pool.map_groups, lambda *args, **kwds: list(our_pool.imap_groups(*args, **kwds))):
        with pytest.raises(RuntimeError, match="the function raised StopIteration") as raised:
            call(stop_at_t17, PRICES, by="ticker")
        assert notes_of(raised.value) == ["in the group 'T17' (3 rows)"]
    with pytest.raises(RuntimeError, match="the function raised StopIteration"):
        our_pool.map_frame(stop_at_row_50, PRICES)


def stop_at_row_50(part):
    return next(iter(())) if 50 in part.index else part


def a_generator_of_t17(group):
    return (one for one in ()) if group.name == "T17" else len(group)


def test_the_group_whose_result_cannot_be_sent(our_pool):
    for call in (our_pool.map_groups, lambda *args, **kwds: list(our_pool.imap_groups(*args, **kwds))):
        with pytest.raises(stdlib.MaybeEncodingError) as raised:
            call(a_generator_of_t17, PRICES, by="ticker", chunksize=5)
        assert "in the group 'T17' (3 rows)" in notes_of(raised.value)
        assert raised.value.index == 17
    pairs = dict(our_pool.imap_groups(a_generator_of_t17, PRICES, by="ticker", chunksize=5, on_error="return"))
    failed = pairs.pop("T17")
    assert type(failed) is stdlib.MaybeEncodingError
    assert "Answer" not in str(failed)
    assert set(pairs.values()) == {3}


class HasNoLength(Exception):
    def __len__(self):
        raise RuntimeError("no length")


class HasNoNotes(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("no notes")


class Exits(Exception):
    def __reduce__(self):
        sys.exit(1)


class HasNoAttributes(Exception):
    def __getattribute__(self, name):
        raise OSError(name)


def raise_without_attributes():
    raise HasNoAttributes


class RebuiltToNone:
    """Rebuilding it raises an exception without attributes."""

    def __reduce__(self):
        return raise_without_attributes, ()


def give_third(item):
    return RebuiltToNone() if item == 2 else item


def test_a_result_whose_rebuilding_raises_what_has_no_attributes(our_pool):
    assert [type(one) for one in our_pool.map(give_third, range(4), 1, on_error="return")] == [
        int,
        int,
        TransferError,
        int,
    ]
    with pytest.raises(TransferError, match="give_third on item 2 of 4"):
        our_pool.map(give_third, range(4), 1)
    assert our_pool.apply(abs, (-1,)) == 1


def raise_third(kind, item):
    if item == 2:
        raise kind(item)
    return item


@pytest.mark.parametrize("kind", [HasNoLength, HasNoNotes, Exits, HasNoAttributes], ids=lambda kind: kind.__name__)
def test_exceptions_whose_own_code_fails(our_pool, kind):
    workers = [worker.pid for worker in our_pool._pool]
    expected = stdlib.MaybeEncodingError if kind in (Exits, HasNoAttributes) else kind
    found = our_pool.map(functools.partial(raise_third, kind), range(4), 4, on_error="return")
    assert type(found.pop(2)) is expected
    assert found == [0, 1, 3]
    with pytest.raises(expected):
        our_pool.map(functools.partial(raise_third, kind), range(4), 4)
    assert [worker.pid for worker in our_pool._pool] == workers


class SharesItsAttributes(Exception):
    def __copy__(self):
        other = type(self)(*self.args)
        other.__dict__ = self.__dict__
        return other


def test_errors_hold_where_a_library_copies_exceptions_in_its_own_way():
    error = SharesItsAttributes(1)
    set_index(error, 1)
    set_index(again(error), 2)
    assert again(error).index == error.index == 1
    assert isinstance(ArenaFullError.__new__(ArenaFullError), MemoryError)


def give(group):
    return NeverRebuilt()


class NeverRebuilt:
    def __reduce__(self):
        return int, ("not here",)


def fail_at_row_50(part):
    if 50 in part.index:
        raise Trouble(50)
    return part


def test_parts_of_a_frame(our_pool):
    with pytest.raises(Trouble) as raised:
        our_pool.map_frame(fail_at_row_50, PRICES, rows=20)
    assert notes_of(raised.value) == ["part 2 of 6"]
    assert raised.value.index == 2


def give_a_generator(number):
    return {"a": [1, (one for one in "ab")]} if number == 3 else number


def raise_with_a_lock(number):
    raise ValueError({"lock": threading.Lock()})


class Job:
    def __init__(self, db):
        self.db = db

    def run(self, number):
        return number


PLAIN_ADVICE = "Make it in the task, or once in each worker with Pool(initializer=...)."


@pytest.mark.parametrize(
    ("call", "noted", "advice"),
    [
        (lambda pool, lock: pool.apply(tasks.identity, ({"db": lock},)), ["argument 0, key 'db'"], PLAIN_ADVICE),
        (lambda pool, lock: pool.apply(tasks.identity, (), {"db": [lock]}), ["argument 'db', element 0"], PLAIN_ADVICE),
        (
            lambda pool, lock: pool.map(tasks.identity, [*range(617), {"db": lock}, *range(382)]),
            ["argument 0, key 'db'", "item 617 of 1,000"],
            PLAIN_ADVICE,
        ),
        (
            lambda pool, lock: list(pool.imap(tasks.identity, iter([1, 2, [lock]]), 5)),
            ["argument 0, element 0", "item 2"],
            PLAIN_ADVICE,
        ),
        (
            lambda pool, lock: pool.starmap(divmod, [(1, 2), (3, {"db": lock})]),
            ["argument 1, key 'db'", "item 1 of 2"],
            PLAIN_ADVICE,
        ),
        (
            lambda pool, lock: pool.map(Job(lock).run, range(3)),
            ["the function Job.run, the object of the method, attribute 'db'"],
            PLAIN_ADVICE,
        ),
        (
            lambda pool, lock: pool.apply(functools.partial(tasks.identity, lock)),
            ["the function identity, argument 0 of the partial"],
            PLAIN_ADVICE,
        ),
        (
            lambda pool, lock: pool.map(give_a_generator, range(5), 5),
            ["the result, key 'a', element 1", "item 3 of 5"],
            "Make a list of it.",
        ),
        (
            lambda pool, lock: pool.map(raise_with_a_lock, range(1)),
            ["the exception, argument 0 of the exception, key 'lock'", "item 0 of 1"],
            "Return its data instead.",
        ),
        (lambda pool, lock: pool.share(Job(lock)).__enter__(), ["the shared object, attribute 'db'"], PLAIN_ADVICE),
    ],
)
def test_the_path_to_what_cannot_be_pickled(our_pool, call, noted, advice):
    with pytest.raises(
        (TypeError, stdlib.MaybeEncodingError), match=r"cannot pickle '(_thread\.lock|generator)' object"
    ) as raised:
        call(our_pool, threading.Lock())
    notes = notes_of(raised.value)
    path, _, rest = notes[0].partition(": ")
    assert [path, *notes[1:]] == noted
    assert rest.endswith(f", which cannot be pickled. {advice}")


def test_a_memoryview_and_an_open_file_are_errors_as_with_the_standard_library(pool):
    """cloudpickle would make bytes and text of them."""
    with open(__file__) as file:
        for value in (memoryview(np.arange(3.0)), file):
            for call in (lambda value: pool.apply(type, (value,)), lambda value: pool.map(type, [{"a": value}])):
                with pytest.raises(TypeError, match="cannot pickle"):
                    call(value)


def test_an_argument_of_the_initializer():
    with pytest.raises(TypeError, match="cannot pickle") as raised:
        arrowpool.get_context("spawn").Pool(1, print, ("a", {"db": threading.Lock()}))
    assert notes_of(raised.value)[0].startswith("argument 1 of the initializer, key 'db': a _thread.lock")


@pytest.mark.parametrize("chunksize", [1, 3])
def test_the_path_with_returned_errors(our_pool, chunksize):
    outcomes = our_pool.map(tasks.identity, [1, {"db": threading.Lock()}, 3], chunksize, on_error="return")
    assert [outcomes[0], outcomes[2]] == [1, 3]
    assert notes_of(outcomes[1])[0].startswith("argument 0, key 'db': a _thread.lock")
    outcomes = our_pool.map(give_a_generator, range(5), chunksize, on_error="return")
    assert notes_of(outcomes[3])[0].startswith("the result, key 'a', element 1: a generator")
