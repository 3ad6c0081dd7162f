"""The figures that steer arrowpool, each with its reason. Words only: nothing here acts."""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20

#: Alignment of every buffer inside a segment; Arrow recommends it, and SIMD kernels like it.
ALIGNMENT = 64

#: Payloads below this stay in the pickle stream. Measured: from here on a segment is cheaper than copying the bytes
#: through pickle, the socket and back.
INLINE_LIMIT = 32 * KIB

#: A unit of at least this size gets a segment of its own, so that keeping it pins nothing else.
OWN_SEGMENT = 256 * KIB

#: Smaller units of one message share segments up to this size: keeping one of them pins at most this much.
SHARED_SEGMENT = 4 * MIB

#: Memory behind overlapping windows of less than this is not worth a name.
LEAST_WINDOW = KIB

#: Copies of at least this much in all are shared among threads, in pieces of this size: one core alone cannot move as much
#: as the memory can. A few threads are enough to reach that limit.
PIECE = 4 * MIB
COPY_THREADS = 4

#: After this long without work, processes look at what the others have released, and collect the garbage that may hold leases.
IDLE_SECONDS = 5.0

#: And after this long, an owner gives the pages of its free ranges back to the kernel: who looks at a result and then runs the
#: next cell finds them warm. (Fresh pages cost several times a copy.) Where memory is short it does not wait.
WARM_SECONDS = 30.0

#: Tasks shorter than this on average may travel several to a frame...
SHORT_TASK_SECONDS = 1e-3
#: ...as many as take about this long (two of Python's thread switch intervals, so that workers do not run dry)...
FRAME_SECONDS = 10e-3
#: ...but never more than this many, nor more bytes than a socket takes without blocking.
FRAME_TASKS = 1024
FRAME_BYTES = 64 * KIB

#: Tasks shorter than this on average may queue behind one other in their worker, which then never waits for the next.
PREFETCH_SECONDS = 10e-3

#: Tasks that wait this long behind another one in the same worker, while other workers idle, are taken back.
RECALL_SECONDS = 0.02

#: Leases that one process can hold of another's arena at a time; beyond that, objects travel in band.
LEASE_SLOTS = 1 << 20

#: Single calls are pickled when they are made, as long as no more than this waits for its turn; beyond that, later.
SNAPSHOT_BYTES = 64 * MIB

#: Maps that a process makes beside those of whole arenas, for objects that overlap and are private to each other: half of what
#: Linux lets it have (`vm.max_map_count`). What exceeds that is copied.
OWN_MAPS = 30_000

#: An owner asks again how much memory there is after it has taken so much more of it (or less, where there is little, or there
#: are many owners), or given so much back.
HEADROOM_STEP = 64 * MIB

#: For so long whoever finds no memory waits for the others to give back what they keep warm.
RELIEF_SECONDS = 1.0
#: And only for so long when the others have nothing to give back: results may be let go of at any moment.
HOPELESS_SECONDS = 0.1
