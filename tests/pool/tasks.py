"""What the workers run, in a module that every start method can import."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import gc
import importlib
import os
import pickle
import signal
import sys
import threading
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

# Spawned workers import this: pandas only where it is used.
if TYPE_CHECKING:
    import pandas as pd


def square(x):
    return x * x


def add(x, y, *, z=0):
    return x + y + z


def pid(_=None):
    return os.getpid()


def identity(x):
    return x


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Unhashable:
    factor: int

    def __call__(self, x):
        return self.factor * x


def wait_for(seconds):
    time.sleep(seconds)
    return seconds


def wait_or_die(seconds):
    if seconds < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return wait_for(seconds)


def fail(message):
    raise ValueError(message)


def fail_if_odd(x):
    if x % 2:
        raise ValueError(f"odd: {x}")
    return x


def unpicklable(_=None):
    return lambda: 42


def first(array):
    return float(array.flat[0])


DIES, SLEEPS = -1.0, -2.0


def first_or_trouble(array):
    value = first(array)
    if value == DIES:
        die("sigkill")
    elif value == SLEEPS:
        time.sleep(3)
    return value


def total(frame):
    return float(frame.to_numpy().sum())


def write_and_sum(array):
    array += 1
    return float(array.sum())


def write_frame(frame):
    frame.iloc[0, 0] = -1.0
    return frame


def same_object(pair):
    a, b = pair
    return a is b


def is_writeable(array):
    return bool(array.flags.writeable)


def length(x):
    return len(x)


def listed(count):
    return list(range(count))


def double(x):
    return x * 2


def summed(frame):
    return frame.sum()


@dataclasses.dataclass
class Holder:
    frame: pd.DataFrame
    extra: dict


def unpack(holder):
    return float(holder.frame.to_numpy().sum()) + float(holder.extra["array"].sum())


class Scaled:
    """A callable that carries an array."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        result = float(self.weights.sum()) * x
        self.weights[:] = -1  # must not be seen by any other task
        return result


def state_and(state, x):
    return first_of(state), x


def first_of(state):
    """The first value in a container, an array or a frame."""
    if isinstance(state, dict):
        return state["i"]
    return float(state[0]) if isinstance(state, np.ndarray) else float(state.iloc[0, 0])


class Counter:
    """A method and a callable with a state, which may be an array."""

    def __init__(self, state):
        self.state = state

    def method(self, x):
        return first_of(self.state), x

    __call__ = method


def is_same(a, b):
    return a is b


def state_and_same(state, a, b):
    return state["i"], a is b


def call_on(function, container):
    return function(container["deep"])


def is_inside(a, b):
    return a is b[0]


def one_is_written(a, b):
    """What is written to the one shows in the other, as they are the same."""
    a[0] = 5
    return float(b[0])


KEPT = None


def keep(array):
    global KEPT
    KEPT = array
    KEPT[0] = 123.0


def kept():
    return None if KEPT is None else KEPT.copy()


STATE = None


def initialize(value, lock=None):
    global STATE
    if lock is not None:
        with lock:
            pass
    STATE = value


def state(_=None):
    return STATE


def state_sum(_=None):
    return float(np.asarray(STATE).sum())


class NeedsTwo(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, a, b):
        super().__init__(a)
        self.b = b

    def __reduce__(self):
        # What a plain exception does; said here, since libraries that pickle tracebacks change the default.
        return type(self), self.args


class Custom(Exception):
    pass


class Base(BaseException):
    pass


def raise_needs_two(_=None):
    raise NeedsTwo(1, 2)


def raise_custom(*args):
    raise Custom(*args)


def raise_base(_=None):
    raise Base("not an Exception")


def _explode(where):
    raise RuntimeError(f"cannot be rebuilt {where}")


class CannotBeRebuilt:
    def __reduce__(self):
        return _explode, ("here",)


def cannot_be_rebuilt(_=None):
    return CannotBeRebuilt()


def _explode_with(array):
    raise RuntimeError(f"cannot be rebuilt with {len(array):,} values")


class LargeAndCannotBeRebuilt:
    def __reduce__(self):
        return _explode_with, (np.ones(100_000),)


def large_and_cannot_be_rebuilt(_=None):
    return LargeAndCannotBeRebuilt()


class Speechless(Exception):
    """An exception that cannot say anything of itself."""

    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


def _raise_speechless():
    raise Speechless


class SpeechlessWhenRebuilt:
    def __reduce__(self):
        return _raise_speechless, ()


class SpeechlessWhenPickled:
    def __repr__(self):
        raise RuntimeError("no words")

    def __reduce__(self):
        raise Speechless


def make(name):
    return globals()[name]()


class Proxy:
    """A callable whose attributes come from elsewhere, which fails; its class says nothing of where it was made."""

    __module__ = property(lambda self: "nowhere")

    def __reduce__(self):
        return make, ("Proxy",)

    def __getattr__(self, name):
        raise RuntimeError("not connected")

    def __call__(self, x):
        return x

    def __iter__(self):
        return iter([1, 2])


class CallsWhenPickled:
    def __init__(self, function):
        self._function = function

    def __reduce__(self):
        self._function()
        return int, (3,)


_scratch = np.empty(100_000)


class Packed:
    """Keeps small numbers; is pickled as large ones, in memory that is used again for the next object."""

    def __init__(self, value):
        self.small = np.full(50_000, value, "f4")

    def __getstate__(self):
        state = _scratch[: len(self.small)]
        state[:] = self.small
        return {"small": state}

    def __setstate__(self, state):
        self.small = state["small"].astype("f4")


class Offered(Packed):
    """Offers that memory as a buffer that only others may write to."""

    def __reduce_ex__(self, protocol):
        memory = memoryview(self.__getstate__()["small"]).toreadonly()
        return unpacked, (pickle.PickleBuffer(memory) if protocol >= 5 else bytes(memory),)


def unpacked(memory):
    return Packed(np.frombuffer(memory)[0])


def packed(count, kind=Packed):
    return [kind(value) for value in range(count)]


def first_packed(*many):
    return [float(one.small[0]) for one in many]


class NoTruth(dict):
    """A container that says what is in it only to who knows how to ask, much as SciPy's dictionaries of keys."""

    def __bool__(self):
        raise ValueError("its truth is ambiguous")

    def __len__(self):
        raise ValueError("its length is ambiguous")

    def values(self):
        raise ValueError("its values lie elsewhere")

    def __reduce__(self):
        return no_truth_of, (list(dict.values(self)),)


def no_truth_of(values):
    return NoTruth(enumerate(values))


def size_of_dict(obj):
    return dict.__len__(obj)


def die(how):
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "_exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(3)
    elif how == "interrupt":
        raise KeyboardInterrupt


class DiesWhenRebuilt:
    def __reduce__(self):
        return os._exit, (7,)


class DiesWhenPickled:
    def __reduce__(self):
        os._exit(8)


def dies_when_pickled(_=None):
    return DiesWhenPickled()


def dies_here_when_rebuilt(_=None):
    return CannotBeRebuilt()


def fail_initializer():
    raise ValueError("no database")


def exit_initializer():
    os._exit(5)


def frame_of(i, rows=20_000):
    import pandas as pd

    return pd.DataFrame(np.full((rows, 4), float(i)), columns=list("abcd"))


def note_and_wait(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), began, time.monotonic()


def signal_and_block(path, _=None):
    with open(path, "w") as fifo:
        fifo.write(f"{os.getpid()}\n")
    threading.Event().wait()


def wait_until_it_waits(pid):
    """Return once the main thread of a process has slept for a while.

    A signal that comes in the instant in which it begins to wait for a lock does not wake it, as Python has it.
    """
    before = None
    while True:
        with open(f"/proc/{pid}/task/{pid}/status") as status:
            now = [line for line in status if line.startswith(("State", "voluntary_ctxt"))]
        if now == before and "sleeping" in now[0]:
            return
        before = now
        time.sleep(0.02)


def fail_and_be_interrupted_at_once(path):
    """Raise. While the exception is handled, tell the parent, and wait for the parent's signal."""
    be_interrupted_on_the_way_into("_failure", path)
    raise ValueError("first")


def be_interrupted_on_the_way_into(name, path, signals=1):
    """When this thread calls a function of that name, tell the parent, and wait for its signals before the function runs."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def hook(frame, event, _):
        if event == "call" and frame.f_code.co_name == name:
            sys.setprofile(None)
            with open(path, "w") as fifo:
                fifo.write("now\n")
            for _ in range(signals):
                os.read(reading, 1)
            signal.set_wakeup_fd(-1)
            os.close(reading)
            os.close(writing)

    signal.set_wakeup_fd(writing)
    sys.setprofile(hook)


def spin(_=None):
    """Compute indefinitely, in one call that never releases the interpreter's lock."""
    sum(iter(int, 1))


def note_and_spin(path):
    note(path)
    spin()


def leave_a_child(seconds):
    """Fork a child that lives on; return its process id."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    return child


def pick(array, index):
    return float(array[index])


def total_of_array(array):
    return float(array.sum())


def add_one(array):
    return array + 1


def first_after(seconds, array):
    time.sleep(seconds)
    return float(array.flat[0])


def wait_for_path(path):
    while path is not None and not os.path.exists(path):
        time.sleep(0.005)
    return path


def wait_for_file(array, path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return float(array[0])


def write_at(array, index):
    array[index] += 1
    return float(array.sum())


def write_first_sum_second(first, second):
    first += 1
    return float(second.sum())


def overwrite(frame):
    """Write to two columns in place; their sum."""
    frame.iloc[:, 0] = -2.0
    for block in frame._mgr.blocks:
        block.values[..., 1, :] = -2.0
    return float(frame.iloc[:, :2].to_numpy().sum())


def write_one_cell(obj):
    """Write to one cell of what a frame or a series is made of; how many are changed."""
    values = obj._mgr.blocks[0].values
    values[(1,) * values.ndim] = -1.0
    return int((values == -1.0).sum())


def contiguous_columns(frame):
    """For each column, whether its elements lie side by side."""
    return [frame[name].to_numpy().flags.c_contiguous for name in frame]


def extend_and_pickle(frame):
    """Append a polars frame to itself; bytes of its pickle."""
    frame.extend(frame.clone())
    return len(pickle.dumps(frame))


def digest(obj):
    """A few numbers that tell objects with other contents apart."""
    import pandas as pd

    if isinstance(obj, Scaled):
        obj = obj.weights
    module = type(obj).__module__
    if module.startswith("polars"):
        obj = obj["x"].to_numpy()
    elif module.startswith("pyarrow"):
        kind = type(obj).__name__
        return (
            kind,
            str(getattr(obj, "schema", "")),
            digest(obj.to_pandas(use_threads=False) if hasattr(obj, "columns") else obj.to_numpy(False)),
        )
    if isinstance(obj, np.ndarray):
        return obj.shape, obj.dtype.str, obj.flags.writeable, zlib.crc32(np.ascontiguousarray(obj))
    hashed = pd.util.hash_pandas_object(obj)
    return str(getattr(obj, "dtypes", "")), len(obj), zlib.crc32(hashed.to_numpy())


def digest_of(obj, i):
    return digest(obj)


def contents_of(held, i):
    """A number that tells what a holder of a table, a frame or bytes has in it."""
    inner = held.frame
    rows = inner.to_pylist() if hasattr(inner, "to_pylist") else inner.rows() if hasattr(inner, "rows") else inner
    return zlib.crc32(repr(rows).encode())


def first_and_names(obj, i):
    """The first value of an Arrow or polars object, and what it calls its columns."""
    names = getattr(obj, "column_names", None) or getattr(obj, "columns", None) or []
    value = obj[0] if not names else obj[names[0]][0]
    return float(value.as_py() if hasattr(value, "as_py") else value), ",".join(names)


def digest_of_both(one, two):
    assert one["deep"][0] is not None
    return digest(two[0])


def type_name(obj):
    return type(obj).__name__


class Meta(type):
    """Whose classes go as a registered reducer says."""


class Known(metaclass=Meta):
    pass


def as_known(name):
    return Known


def reduce_to_known(cls):
    return as_known, (cls.__name__,)


def is_known(cls):
    return cls is Known


def as_list(n):
    return [n]


def reduce_to_list(obj):
    return as_list, (len(obj),)


def register_arrays(n):
    """In a worker, for good."""
    copyreg.pickle(np.ndarray, reduce_to_list)
    return np.ones(n)


def meet(array, directory, count):
    """Whether so many tasks come to run at the same time."""
    open(os.path.join(directory, str(os.getpid())), "w").close()
    deadline = time.monotonic() + 20
    while len(os.listdir(directory)) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(os.listdir(directory)) == count


def get_ready(array, directory, count, module):
    """Have each of so many workers import what the tests of a module need, and return a large result."""
    for name in ("cloudpickle", "pandas", module):
        importlib.import_module(name)
    assert meet(array, directory, count)
    return array * 2


def note_pid_and_block(path):
    """Report the process id, then compute indefinitely in Python code that signals can interrupt."""
    note(path)
    while True:
        time.sleep(0.01)


def read_file(path):
    """One line of a file; waits for it, where that is a named pipe."""
    with open(path, "rb", buffering=0) as file:
        return file.readline()


def extend_path(directory):
    sys.path.append(directory)


def name_of_module(name):
    return importlib.import_module(name).__name__


def note_pid_and_block_once(path):
    """Block the first time it is run, and answer the second."""
    runs = note(path)
    if runs == 1:
        threading.Event().wait()
    return runs


def die_until(path, run):
    """End the process, until this is the run of that number."""
    runs = note(path)
    if runs < run:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs


def be_killed_while(folder):
    """Kill the process while a file is there."""
    if os.path.exists(os.path.join(folder, "kill")):
        note(os.path.join(folder, "killed"))
        os.kill(os.getpid(), signal.SIGKILL)


def note(path):
    """Append this process's id to a file; return how many there are."""
    with open(path, "a+") as file:
        file.write(f"{os.getpid()}\n")
        file.flush()
        file.seek(0)
        return len(file.readlines())


def scribble_and_die_until(path, run, array):
    """The same, after writing to the argument: what the next run sees must be clean."""
    total = float(array.sum())
    array[:] = -1
    die_until(path, run)
    return total


def fork_a_reader(array, gate, answer):
    """The forked process waits at the gate, then says what is in the array now. Both are named pipes that others have open."""
    if os.fork() == 0:
        try:
            with open(gate, "rb", 0) as waited_for:
                waited_for.read(1)
            with open(os.open(answer, os.O_WRONLY | os.O_NONBLOCK), "w") as file:
                file.write(f"{array.min()} to {array.max()}")
        finally:
            os._exit(0)


def fork_and_exit(seconds):
    """Leave a child behind that lives on for a while, and end."""
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    os._exit(9)


def half(array):
    return array[: len(array) // 2]


def zeros(count):
    return np.zeros(count)


def leave_in_a_cycle(array):
    cycle = [array]
    cycle.append(cycle)


def collect_garbage(_):
    gc.collect()
    time.sleep(0.02)  # long enough for the next one to go to another worker


def scribble(obj):
    """Write to all the memory of an object that is writeable, and return it."""
    import pandas as pd

    parts = [obj]
    if isinstance(obj, (pd.DataFrame, pd.Series)):
        parts = [block.values for block in obj._mgr.blocks]
    for part in parts:
        array = part._data if hasattr(part, "_mask") else getattr(part, "_ndarray", part)
        if isinstance(array, np.ndarray) and array.flags.writeable and not array.dtype.hasobject and array.size:
            array.reshape(-1).view(np.ndarray)[...] = np.zeros((), dtype=array.dtype)
    return obj


def close_of(key):
    import arrowpool

    return float(arrowpool.get(key)["close"].iloc[1])


def put_frame(i, directory):
    import arrowpool

    os.environ["ARROWPOOL_SHELF_DIR"] = directory  # the forkserver has none of the test's environment
    return arrowpool.put(frame_of(i), persist=True)


#: What tasks leave in a worker: the last few of each.
_left = collections.deque(maxlen=50)


def make_temporaries(sizes):
    """Arrays of so many bytes, several at a time, and something small among them that stays for a while."""
    live = collections.deque(maxlen=5)
    for size in sizes:
        live.append(np.ones(size, dtype=np.uint8))
        _left.append(bytes(1000))


def wait_for_file_open(path):
    """Open a pipe for reading, which waits until it is opened for writing; then wait until it is gone."""
    os.close(os.open(path, os.O_RDONLY))
    while os.path.exists(path):
        time.sleep(0.001)
    return "read"


def read_pipe_of(group):
    """Open the pipe that the group names, which waits until it is opened for writing; return what is written."""
    with open(group["path"].iloc[0]) as pipe:
        return pipe.read()


def pass_or_wait(path):
    """Return at once without a path; otherwise as `wait_for_file_open`."""
    return wait_for_file_open(path) if path else ""
