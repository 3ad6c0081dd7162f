"""Thresholds and limits of arrowpool, each with its reason. Constants only."""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20

#: Alignment of every buffer inside a segment; Arrow recommends it, and SIMD kernels like it.
ALIGNMENT = 64

#: Smaller payloads stay in the pickle stream. Measured: from this size on, a segment is cheaper than copying the bytes through
#: pickle and the socket.
INLINE_LIMIT = 32 * KIB

#: A unit of at least this size gets a segment of its own, so that a user who keeps it pins no other unit.
OWN_SEGMENT = 256 * KIB

#: Smaller units of one message share segments of up to this size: a user who keeps one unit pins at most this many bytes.
#: Larger ones would not be faster: chunks of 40 frames of 90 kB there and back take the same time with 4 MB.
SHARED_SEGMENT = 512 * KIB

#: Memory behind overlapping windows is shared only from this size on.
LEAST_WINDOW = KIB

#: Larger copies are split into pieces of this size for several threads: one core cannot use the whole bandwidth of the memory.
#: A few threads can.
PIECE = 4 * MIB
COPY_THREADS = 4

#: After this time without work, a process reuses segments that others have released, and runs the garbage collector, since
#: garbage may hold leases.
IDLE_SECONDS = 5.0

#: After this time, an owner gives the pages of its free ranges back to the kernel. A user who looks at a result and then runs the
#: next notebook cell finds them warm; fresh pages cost several times a copy. Where memory is short, the owner does not wait.
WARM_SECONDS = 30.0

#: A worker's heap keeps this much freed memory for the next task; all processes of a pool together keep at most one part in
#: `HEAP_SHARE` of the machine's memory. Larger arrays than `LARGEST_KEPT` are given back at once. glibc itself arrives at these
#: thresholds in a process that frees large arrays. Measured: rolling means of chunks of 8 MB take 0.6 of the CPU time.
HEAP_KEPT = 64 * MIB
HEAP_SHARE = 16
LARGEST_KEPT = 32 * MIB

#: Tasks that are shorter than this on average may share a frame (one message to a worker): each message wakes a thread of the parent
#: that has slept, and whose first task then costs three times as much as one in a row.
SHORT_TASK_SECONDS = 3e-3
#: A frame holds tasks for about this time: two of Python's thread switch intervals, so that workers do not run dry.
FRAME_SECONDS = 10e-3
#: A frame never holds more tasks than this: Python's garbage collector walks over all objects of the process each time so many
#: new ones have lived for a moment. Nor more bytes than a socket takes without blocking.
FRAME_TASKS = 256
FRAME_BYTES = 64 * KIB
#: Nor more bytes in segments than stay in a processor's cache from the copy to the task.
FRAME_PLACED_BYTES = 1 * MIB

#: A task that is shorter than this on average may wait in its worker behind one other, so that the worker never idles between
#: two tasks.
PREFETCH_SECONDS = 10e-3

#: A task that waits in a worker this long while other workers idle is taken back.
RECALL_SECONDS = 0.02

#: Leases of another process's arena that one process can hold at a time. Beyond that, objects travel in band.
LEASE_SLOTS = 1 << 20

#: Single calls are pickled when they are made while at most this many bytes wait for their turn. Beyond that, they are pickled at
#: their turn.
SNAPSHOT_BYTES = 64 * MIB

#: Maps that a process makes in addition to those of whole arenas, for objects that overlap and are private to each other: half of
#: the default limit of Linux (`vm.max_map_count`). Beyond that, objects are copied.
OWN_MAPS = 30_000

#: An owner reads the available memory again after it has taken or given back this many bytes. (Earlier, where memory is short or
#: there are many owners.)
HEADROOM_STEP = 64 * MIB

#: An owner that finds no memory waits at most this long for other processes to give back memory that they keep warm.
RELIEF_SECONDS = 1.0
#: It waits this long when they have none: results may be released at any moment.
HOPELESS_SECONDS = 0.1

#: A trace keeps this many events: about 100 MB of memory while it is open, and a file of about as many.
MAX_EVENTS = 200_000
