"""What the rows of a trace are made of. No clock, no process."""

from __future__ import annotations

import pytest

from arrowpool.engine.recorder import Activity, Cut, Ran, Recorder, Slice, Tape, Thread
from arrowpool.timeline.rows import rows_of
from arrowpool.transport.protocol import Times

PID = 17
MILLISECOND = 1_000_000


def tape_of(limit=1000):
    tape = Tape(limit)
    tape.began, tape.ended = 0, 100 * MILLISECOND
    return tape


def ran(number, began, *, sent_before=0, read=0, **more):
    """A task of 1 ms to rebuild, 5 to run, and 2 to encode, of which 1 to copy; moments in milliseconds."""
    times = Times(0.001, 0.005, 0.002)
    fields = {"what": "f", "item": f"item {number}", "apart": 0.001, "failed": False, **more}
    return Ran(
        PID,
        number,
        times=times,
        began=began * MILLISECOND,
        sent_before=sent_before * MILLISECOND,
        read=read * MILLISECOND,
        **fields,
    )


def read(row):
    return [(bar.activity.name, bar.began / MILLISECOND, bar.ended / MILLISECOND) for bar in row.bars]


PARTS = [("REBUILD", 10, 11), ("RUN", 11, 16), ("ENCODE", 16, 17), ("COPY", 17, 18)]


def test_a_task_is_its_parts_and_the_reply_is_sent_until_it_is_read():
    tape = tape_of()
    tape.note_ran(ran(3, 10, read=20))
    (row,) = rows_of(tape)
    assert (row.name, row.number, row.is_worker) == ("worker 17", PID, True)
    assert read(row) == [*PARTS, ("SEND", 18, 20)]
    assert {bar.item for bar in row.bars} == {"item 3"}


def test_the_next_reply_says_when_this_one_was_sent():
    tape = tape_of()
    tape.note_ran(ran(4, 30, sent_before=19, read=40))  # in any order
    tape.note_ran(ran(3, 10, read=25))
    (row,) = rows_of(tape)
    assert read(row)[:6] == [*PARTS, ("SEND", 18, 19), ("WAIT", 19, 30)]


def test_an_idle_worker_waits_from_the_beginning_to_the_end():
    tape = tape_of()
    tape.idle.add(PID)
    tape.idle_at_end.add(PID)
    tape.note_ran(ran(3, 10, read=20))
    tape.idle |= {18}
    tape.idle_at_end |= {18}
    row, other = rows_of(tape)
    assert read(row) == [("WAIT", 0, 10), *PARTS, ("SEND", 18, 20), ("WAIT", 20, 100)]
    assert read(other) == [("WAIT", 0, 100)]


def test_what_an_idle_worker_did_since_is_not_known_if_entries_were_dropped():
    tape = tape_of()
    tape.idle.add(PID)
    tape.idle_at_end.add(PID)
    tape.note_ran(ran(3, 10, read=20))
    (row,) = rows_of(tape, is_whole=False)
    assert read(row) == [("WAIT", 0, 10), *PARTS, ("SEND", 18, 20)]


def test_what_the_worker_did_before_is_not_known():
    tape = tape_of()
    tape.began = 5 * MILLISECOND
    tape.note_ran(ran(3, 10, sent_before=2, read=20))
    (row,) = rows_of(tape)
    assert read(row)[0] == ("WAIT", 0, 5), "not before the trace"
    tape = tape_of()
    tape.note_ran(ran(3, 10, read=20))
    (row,) = rows_of(tape)
    assert read(row)[0] == ("REBUILD", 10, 11)


def test_a_task_that_began_in_an_earlier_trace_is_shown_from_the_beginning_of_this_one():
    tape = tape_of()
    tape.began = 13 * MILLISECOND
    tape.note_ran(ran(3, 10, sent_before=2, read=20))
    (row,) = rows_of(tape)
    assert read(row) == [("RUN", 0, 3), ("ENCODE", 3, 4), ("COPY", 4, 5), ("SEND", 5, 7)]


def test_a_task_that_was_cut_short():
    tape = tape_of()
    tape.note_ran(ran(3, 10, read=20))
    tape.note_cut(Cut(PID, "f", "item 4", 30 * MILLISECOND, 60 * MILLISECOND, "the worker was lost"))
    tape.left(PID, "was lost")
    (row,) = rows_of(tape)
    assert read(row)[-2:] == [("WAIT", 20, 30), ("RUN", 30, 60)]
    tape.ran[0] = ran(3, 10, read=35)  # the worker began the next task before this reply was read
    (row,) = rows_of(tape)
    assert read(row)[-2:] == [("SEND", 18, 30), ("RUN", 30, 60)]
    assert row.bars[-1].note == "the worker was lost"
    assert [words for _, words in row.marks] == ["was lost"]


def test_a_part_without_time_has_no_bar():
    tape = tape_of()
    tape.note_ran(ran(3, 10, read=16)._replace(times=Times(0.0, 0.005, 0.0), apart=0.0))
    (row,) = rows_of(tape)
    assert read(row) == [("RUN", 10, 15), ("SEND", 15, 16)]


def test_seconds_of_a_bar_within_a_bar_count_once():
    tape = tape_of()
    feeder = Thread(5, "arrowpool-feeder")
    for activity, began, ended in ((Activity.COPY, 2, 5), (Activity.ENCODE, 1, 9), (Activity.WAIT, 9, 12)):
        tape.slices.append(Slice(feeder, activity, began * MILLISECOND, ended * MILLISECOND, "", "", 0, None))
    (row,) = rows_of(tape)
    assert row.name == "feeder"
    assert row.seconds() == pytest.approx({Activity.ENCODE: 0.005, Activity.COPY: 0.003, Activity.WAIT: 0.003})


def test_the_order_of_the_rows():
    tape = tape_of()
    for number, name in enumerate(("arrowpool-collector", "arrowpool-supervisor", "mine", "arrowpool-feeder")):
        tape.slices.append(Slice(Thread(number, name), Activity.WAIT, 0, 1, "", "", 0, None))
    tape.idle_at_end |= {9, 8}
    assert [row.name for row in rows_of(tape)] == ["mine", "feeder", "collector", "supervisor", "worker 8", "worker 9"]


def test_a_full_tape_counts_what_it_drops_and_keeps_the_ends_of_workers():
    tape = Tape(3)
    for _ in range(5):
        tape.note(Activity.WAIT, 1)
    tape.note_ran(ran(3, 10))
    tape.note_cut(Cut(PID, "f", "", 0, 1, "lost"))
    tape.left(PID, "was lost")
    assert (len(tape.slices), len(tape.ran), len(tape.cuts), len(tape.marks)) == (3, 0, 1, 1)
    assert tape.dropped() == 3


def test_a_recorder_without_a_tape_does_nothing():
    recorder = Recorder()
    assert recorder.begin() == 0
    recorder.note(Activity.RUN, 1)
    tape = recorder.open(10)
    assert recorder.begin() >= tape.began
    with pytest.raises(RuntimeError, match="one trace at a time"):
        recorder.open(10)
    recorder.close(Tape(1))
    assert recorder.tape is tape, "another one's end"
    recorder.close(tape)
    assert recorder.begin() == 0
    assert tape.ended >= tape.began
