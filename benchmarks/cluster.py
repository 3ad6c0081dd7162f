"""The pool on a Dask cluster, next to Dask by hand and joblib's backend: `python -m benchmarks.cluster`.

A cluster of two nodes on this machine. The first table counts bytes: those that each node and the scheduler have received over all
their connections (the kernel's own count, TCP_INFO), and shared memory. The second one compares times: the contenders take turns, and
the best of each counts.

captured   a function that has captured an array, over 40 tasks
chunks     40 arrays, one for each task; by hand: `scatter(direct=True, hash=False)`, `map`, `gather`
tiny       5,000 tasks of a few microseconds: in default chunks, and with a chunksize of 1; by hand: `map` with a `batch_size`
short      2,000 tasks that sleep for a millisecond, with a chunksize of 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
from distributed import Client, LocalCluster

from arrowpool.integrations.dask import Pool

TASKS = 40
#: Offset of `tcpi_bytes_received` in the kernel's `struct tcp_info`.
_RECEIVED = 128


def square(x: int) -> int:
    return x * x


def nap(x: int) -> int:
    time.sleep(0.001)
    return x


def received(server: Any) -> int:
    """Bytes that the connections of a Dask worker or scheduler have received, on those that are open."""
    import psutil

    total = 0
    for connection in psutil.Process().net_connections(kind="tcp"):
        if connection.status != "ESTABLISHED" or connection.fd < 0:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as there:
            info = there.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            total += struct.unpack_from("Q", info, _RECEIVED)[0]
    return total


def received_by_worker(dask_worker: Any) -> int:
    return received(dask_worker)


def received_by_scheduler(dask_scheduler: Any) -> int:
    return received(dask_scheduler)


def shared(dask_worker: Any) -> int:
    """Bytes of arenas that a Dask worker and its children have, each once."""
    import psutil

    arenas = {}
    this = psutil.Process()
    for pid in (this.pid, *(child.pid for child in this.children(recursive=True))):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                with contextlib.suppress(OSError):
                    if "arrowpool" in os.readlink(path):
                        status = os.stat(path)
                        arenas[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(arenas.values())


class Watch:
    """Peak of the shared memory of each node, while it runs."""

    def __init__(self, client: Client):
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.peak = 0

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, *self._client.run(shared).values())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def count_bytes(client: Client, pool: Any, name: str, call: Callable[[], Any], nbytes: int) -> None:
    """Print what one call sends."""
    before = client.run(received_by_worker), client.run_on_scheduler(received_by_scheduler)
    call()
    after = client.run(received_by_worker), client.run_on_scheduler(received_by_scheduler)
    nodes = [after[0][node] - before[0][node] for node in before[0]]
    with Watch(client) as watch:
        call()
    print(
        f"{name:<24}{nbytes / 1e6:8.1f} MB of data"
        f"{max(nodes) / 1e6:10.1f} MB into a node{sum(nodes) / 1e6:10.1f} MB into all"
        f"{(after[1] - before[1]) / 1e6:8.2f} MB to the scheduler"
        f"{watch.peak / 1e6:10.1f} MB shared in a node",
        flush=True,
    )


def by_hand(client: Client, function: Callable[[Any], Any], items: list[Any]) -> Any:
    futures = client.scatter(items, direct=True, hash=False)
    return client.gather(client.map(function, futures, pure=False))


def captured_by_hand(client: Client, array: np.ndarray[Any, Any]) -> Any:
    future = client.scatter(array, direct=True, hash=False, broadcast=True)
    return client.gather(client.map(_add_sum, range(TASKS), array=future, pure=False))


def _add_sum(i: int, array: np.ndarray[Any, Any]) -> float:
    return float(array[:1000].sum()) + i


def with_joblib(client: Client, function: Callable[[Any], Any], items: Any) -> Any:
    with joblib.parallel_config("dask", client=client):
        return joblib.Parallel()(joblib.delayed(function)(item) for item in items)


def compare(name: str, contenders: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Print the best time of each contender."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for contender, call in contenders.items():
            began = time.perf_counter()
            call()
            seconds = time.perf_counter() - began
            best[contender] = min(seconds, best.get(contender, seconds))
    ours = best["arrowpool"]
    others = "".join(f"{contender:>14} {seconds:7.3f} s" for contender, seconds in best.items())
    print(f"{name:<24}{others}{ours / best['by hand']:10.2f} x by hand", flush=True)


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=nodes, threads_per_worker=1, dashboard_address=None, memory_limit=0, silence_logs=50
        ) as local,
        Client(local) as client,
    ):
        yield client


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the sizes: 1 is 100 MB, 40 times 8 MB, 5,000 tasks"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    scale = arguments.scale
    array = np.random.default_rng(0).random(max(int(12_500_000 * scale), 1000))
    chunks = [np.random.default_rng(i).random(max(int(1_000_000 * scale), 1)) for i in range(TASKS)]
    tiny, short = max(int(5_000 * scale), 20), max(int(2_000 * scale), 20)

    def captured(i: int) -> float:
        return float(array[:1000].sum()) + i

    with cluster(2) as client, Pool(client) as pool:
        pool.map(square, range(100), 1)
        count_bytes(client, pool, "captured", lambda: pool.map(captured, range(TASKS), 1), array.nbytes)
        count_bytes(client, pool, "chunks", lambda: pool.map(np.sum, chunks, 1), sum(chunk.nbytes for chunk in chunks))
        print()
        compare(
            "captured",
            {
                "arrowpool": lambda: pool.map(captured, range(TASKS), 1),
                "by hand": lambda: captured_by_hand(client, array),
            },
            arguments.rounds,
        )
        compare(
            "chunks",
            {
                "arrowpool": lambda: pool.map(np.sum, chunks, 1),
                "by hand": lambda: by_hand(client, np.sum, chunks),
                "joblib": lambda: with_joblib(client, np.sum, chunks),
            },
            arguments.rounds,
        )
        compare(
            "tiny, default chunks",
            {
                "arrowpool": lambda: pool.map(square, range(tiny)),
                "by hand": lambda: client.gather(client.map(square, range(tiny), pure=False, batch_size=200)),
            },
            arguments.rounds,
        )
        compare(
            "tiny, chunksize 1",
            {
                "arrowpool": lambda: pool.map(square, range(tiny), 1),
                "by hand": lambda: client.gather(client.map(square, range(tiny), pure=False)),
                "joblib": lambda: with_joblib(client, square, range(tiny)),
            },
            arguments.rounds,
        )
        compare(
            "short, chunksize 1",
            {
                "arrowpool": lambda: pool.map(nap, range(short), 1),
                "by hand": lambda: client.gather(client.map(nap, range(short), pure=False)),
                "joblib": lambda: with_joblib(client, nap, range(short)),
            },
            arguments.rounds,
        )


if __name__ == "__main__":
    main()
