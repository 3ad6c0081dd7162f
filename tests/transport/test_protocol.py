"""Every message is read as what it was built of, after its way through the channel's serialisation."""

from __future__ import annotations

import marshal

import pytest

from arrowpool.transport import placements, protocol
from arrowpool.transport.placements import InSegment, SharedObject, SharedWindow
from arrowpool.transport.protocol import (
    Frame,
    Hello,
    InitializerFailed,
    MemoryShort,
    Star,
    TaskDone,
    TaskFailed,
    TaskSkipped,
    TaskUnreadable,
    Traced,
    Trim,
)

GRANTS = (protocol.grant(3, 4096, 100), protocol.grant(4, 8192, 200, (17, 18)))
PLACEMENTS = (
    placements.in_segment(1, 64, 100),
    placements.shared_object(7),
    placements.shared_window(7, 128, 300, 2),
)
PLAIN = protocol.plain([1, "two", None])
ENCODED = protocol.encoded(b"stream", PLACEMENTS)
SPILLED = protocol.encoded(None, PLACEMENTS)
TIMES = (0.5, 1.5, 2.5)

FRAME = {
    "new_blobs": ((5, True, ENCODED),),
    "forgotten": (1, 2),
    "function": 5,
    "star": Star.MAP,
    "blob_grants": ((5, GRANTS),),
    "first": 40,
    "tasks": ((PLAIN, ()), (SPILLED, GRANTS)),
    "traced": True,
}

#: What a builder is called with, and the fields that are read back.
ORDERS = [
    (protocol.frame, FRAME, Frame),
    (protocol.trim, {}, Trim),
]
REPLIES = [
    (protocol.hello, {"names": {"f": "digest", "g": None}, "may_borrow": True}, Hello),
    (protocol.initializer_failed, {"stream": b"error", "text": "Traceback"}, InitializerFailed),
    (protocol.task_done, {"number": 3, "times": TIMES, "body": ENCODED, "grants": GRANTS}, TaskDone),
    (
        protocol.task_failed,
        {"number": 3, "times": TIMES, "body": PLAIN, "grants": (), "text": "Traceback", "at": 2},
        TaskFailed,
    ),
    (protocol.task_skipped, {"number": 3}, TaskSkipped),
    (protocol.task_unreadable, {"number": 3}, TaskUnreadable),
    (protocol.memory_short, {}, MemoryShort),
    (protocol.traced, {"began": 1.5, "apart": 0.5, "sent": 0.0, "reply": protocol.task_skipped(3)}, Traced),
]


def fields(read):
    return {name: getattr(read, name) for name in read._fields if name != "kind"}


@pytest.mark.parametrize(
    ("read", "build", "given", "kind"),
    [(protocol.read_orders, *case) for case in ORDERS] + [(protocol.read_replies, *case) for case in REPLIES],
)
def test_a_message(read, build, given, kind):
    message = build(**given)
    assert type(message) is tuple, "the channel sends nothing else"
    (arrived,) = read([marshal.loads(marshal.dumps(message))])
    assert type(arrived) is kind
    assert len(arrived) == len(kind._fields)
    assert fields(arrived) == given


def test_every_kind_of_message_is_covered():
    assert {kind for *_, kind in ORDERS} == set(protocol._ORDERS)
    assert {kind for *_, kind in REPLIES} == set(protocol._REPLIES)


def test_placements():
    read = [placements.read_placement(placement) for placement in marshal.loads(marshal.dumps(PLACEMENTS))]
    assert [type(one) for one in read] == [InSegment, SharedObject, SharedWindow]
    assert [fields(one) for one in read] == [
        {"segment": 1, "offset": 64, "nbytes": 100},
        {"number": 7},
        {"number": 7, "offset": 128, "nbytes": 300, "copy": 2},
    ]


@pytest.mark.parametrize(
    ("body", "plain", "placements", "piped", "in_segments", "stream_placed"),
    [
        (PLAIN, True, (), 16, 0, 0),
        (protocol.encoded(b"stream"), False, (), 6, 0, 0),
        (ENCODED, False, PLACEMENTS, 6, 100, 0),
        (SPILLED, False, PLACEMENTS, 0, 100, 100),
    ],
)
def test_a_body(body, plain, placements, piped, in_segments, stream_placed):
    assert protocol.is_plain_body(body) == plain
    assert protocol.placements_of(body) == placements
    assert protocol.piped_bytes(body) == piped
    assert protocol.segment_bytes(body) == in_segments
    assert protocol.placed_stream_bytes(body) == stream_placed


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((1, 2.0, None, "s"), True),
        ((True, b"bytes"), True),
        ((1,) * 5, False),
        (("s" * 1000,), False),
        ((1j,), False),
        (((),), False),
        ((type("Number", (int,), {})(1),), False),
    ],
)
def test_what_is_plain(items, expected):
    assert protocol.is_plain(items) == expected
