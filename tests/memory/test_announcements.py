"""What the parent announces in the control page, and what `top` reads there. No process."""

from __future__ import annotations

import pytest

from arrowpool.engine.announcing import announce
from arrowpool.engine.item_names import ItemNames
from arrowpool.memory.announcements import END, Announcements
from tests.workers import a_call, a_task


@pytest.fixture
def ring():
    return Announcements(memoryview(bytearray(END)))


def tasks_of(indexes, *, size=1, last=None, names=None):
    call = a_call()
    call.names, call.function = names or ItemNames(size, 1000), len
    made = [a_task(call, index) for index in indexes]
    for task in made:
        task.count = size
    made[-1].count = last or size
    return made


def test_the_items_of_a_frame(ring):
    announce(ring, 40, tasks_of(range(3, 6), size=10, last=7))
    assert ring.read(39) is None
    assert ring.read(43) is None
    found = ring.read(41)
    assert (found.name, found.tasks, found.first) == (b"len", 3, 40)
    assert [found.items_of(number) for number in (40, 41, 42)] == [range(30, 40), range(40, 50), range(50, 57)]


def test_tasks_that_are_not_consecutive_have_no_items(ring):
    announce(ring, 40, tasks_of([3, 5, 6]))
    assert ring.read(41).items_of(41) == range(0)
    assert ring.read(41).name == b"len"


def test_a_single_call_has_no_items(ring):
    tasks = tasks_of([0])
    tasks[0].call.names = None
    announce(ring, 7, tasks)
    assert ring.read(7).items_of(7) == range(0)


def test_names_of_another_kind_are_used_for_one_task(ring):
    class Runs:
        def numbers(self, task, count):
            return range(100, 130)

    announce(ring, 7, tasks_of([2], names=Runs()))
    assert ring.read(7).items_of(7) == range(100, 130)
    announce(ring, 8, tasks_of([2, 3], names=Runs()))
    assert ring.read(8).items_of(8) == range(0)


def test_older_frames_are_overwritten(ring):
    for number in range(20):
        announce(ring, number, tasks_of([number]))
    assert ring.read(5) is None
    assert [ring.read(number).items_of(number)[0] for number in range(12, 20)] == list(range(12, 20))


def test_what_is_being_written_is_not_read(ring):
    announce(ring, 7, tasks_of([2]))
    place = ring._page.tobytes()
    announce(ring, 7, tasks_of([2]))
    assert ring.read(7) is not None
    half = bytearray(place)
    half[1024:1032] = bytes(8)  # its number of tasks is written last
    assert Announcements(memoryview(half)).read(7) is None


def test_a_long_name_is_shortened(ring):
    tasks = tasks_of([0])
    tasks[0].call.title = "\u00e9".encode() * 100
    announce(ring, 1, tasks)
    assert ring.read(1).name.decode(errors="ignore") == "\u00e9" * 44
    assert ring.read(1).items_of(1) == range(1)
