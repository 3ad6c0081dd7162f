"""A frame from one process to another, by key or by file: `python -m benchmarks.shelf`.

Side by side: arrowpool's shelf; ArrowShelf's protocol as it is (`Table.from_pandas(preserve_index=False)`, written as IPC
to a bytes object, that written to a file in the temporary directory; read by mmap and `to_pandas`); Feather and Parquet
files in the temporary directory. Every frame is put here, got in another process, and compared there by its sums.
`--readers 16` says what so many readers of one frame cost in memory (proportional set size: shared pages are divided).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from pyarrow import feather

import arrowpool
from benchmarks.command import aligned, describe_machine, markdown

MB = 1_000_000


class Way(ABC):
    """How a frame gets from one process to another: put here, get there."""

    name: ClassVar[str]

    @abstractmethod
    def put(self, frame: pd.DataFrame) -> str: ...

    @abstractmethod
    def get(self, token: str) -> pd.DataFrame: ...

    def drop(self, token: str) -> None:
        os.unlink(token)


class Shelf(Way):
    name = "shelf"

    def put(self, frame: pd.DataFrame) -> str:
        return arrowpool.put(frame)

    def get(self, token: str) -> pd.DataFrame:
        frame: pd.DataFrame = arrowpool.get(token)
        return frame

    def drop(self, token: str) -> None:
        arrowpool.delete(token)


class PersistentShelf(Shelf):
    name = "shelf, persist"

    def put(self, frame: pd.DataFrame) -> str:
        return arrowpool.put(frame, persist=True)


class ArrowShelf(Way):
    name = "ArrowShelf's way"

    def put(self, frame: pd.DataFrame) -> str:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        path = _new_file(".arrow")
        Path(path).write_bytes(sink.getvalue().to_pybytes())
        return path

    def get(self, token: str) -> pd.DataFrame:
        frame: pd.DataFrame = pa.ipc.open_stream(pa.memory_map(token)).read_all().to_pandas()
        return frame


class Feather(Way):
    name = "feather"

    def put(self, frame: pd.DataFrame) -> str:
        path = _new_file(".feather")
        feather.write_feather(frame, path)
        return path

    def get(self, token: str) -> pd.DataFrame:
        frame: pd.DataFrame = feather.read_feather(token)
        return frame


class Parquet(Way):
    name = "parquet"

    def put(self, frame: pd.DataFrame) -> str:
        path = _new_file(".parquet")
        frame.to_parquet(path)
        return path

    def get(self, token: str) -> pd.DataFrame:
        return pd.read_parquet(token)


WAYS: tuple[type[Way], ...] = (Shelf, PersistentShelf, ArrowShelf, Feather, Parquet)


def _new_file(suffix: str) -> str:
    handle, path = tempfile.mkstemp(suffix)
    os.close(handle)
    return path


def numbers(nbytes: int) -> pd.DataFrame:
    rows = nbytes // 80
    values = np.random.default_rng(7).standard_normal((10, rows))
    return pd.DataFrame({f"x{i}": column for i, column in enumerate(values)}).copy()


def strings(nbytes: int) -> pd.DataFrame:
    """Half of it is text: two columns of text and two of numbers."""
    rows = nbytes // 60
    rng = np.random.default_rng(7)
    words = np.array([f"a text of {i:08d}" for i in range(10_000)])
    frame = pd.DataFrame({"x": rng.standard_normal(rows), "n": np.arange(rows)})
    for name in ("s", "t"):
        frame[name] = pd.Series(words[rng.integers(len(words), size=rows)], dtype="string[pyarrow]")
    return frame


FRAMES: dict[str, Callable[[int], pd.DataFrame]] = {"numbers": numbers, "strings": strings}


def sums(frame: pd.DataFrame) -> list[float]:
    """A value for each column that all of it goes into."""
    return [
        float(frame[name].sum() if frame[name].dtype.kind in "if" else frame[name].str.len().sum()) for name in frame
    ]


class Reader:
    """Another process. It gets objects on request and reports how long that took."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.shelf", "--read"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@contextlib.contextmanager
def readers(count: int) -> Iterator[list[Reader]]:
    """So many of them, ready."""
    started = [Reader() for _ in range(count)]
    try:
        for reader in started:
            reader.ask("ready")
        yield started
    finally:
        for reader in started:
            reader.close()


def read() -> None:
    """What a reader does."""
    ways = {way.name: way() for way in WAYS}
    kept: list[Any] = []
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        answer: Any = None
        if command == "get":
            name, token = arguments
            began = time.perf_counter()
            frame = ways[name].get(token)
            got = time.perf_counter() - began
            answer = got, sums(frame)
            del frame
        elif command == "keep":
            name, token = arguments
            kept.append(ways[name].get(token))
            answer = sums(kept[-1])
        elif command == "drop":
            kept.clear()
        print(json.dumps(answer), flush=True)


def memcpy(nbytes: int) -> Callable[[], float]:
    """Seconds of one `np.copyto` of as many bytes into warm memory."""
    source, target = np.ones(nbytes, dtype=np.uint8), np.zeros(nbytes, dtype=np.uint8)
    np.copyto(target, source)

    def copy() -> float:
        began = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - began

    return copy


def compare(nbytes: int, rounds: int) -> list[list[str]]:
    """Median seconds of put and get, all ways in turn; the first round is a warm-up."""
    rows = [["frame", "way", "put s", "get s", "put, of memcpy"]]
    for kind, make in FRAMES.items():
        frame = make(nbytes)
        expected = sums(frame)
        copy = memcpy(int(frame.memory_usage(index=False).sum()))
        copies = []
        puts: dict[str, list[float]] = {way.name: [] for way in WAYS}
        gets: dict[str, list[float]] = {way.name: [] for way in WAYS}
        with readers(1) as (reader,):
            for number in range(rounds + 1):
                copies.append(copy())
                for way in (kind_of_way() for kind_of_way in WAYS):
                    began = time.perf_counter()
                    token = way.put(frame)
                    put = time.perf_counter() - began
                    got, seen = reader.ask("get", way.name, token)
                    way.drop(token)
                    if not np.allclose(seen, expected):
                        raise AssertionError(f"{way.name} delivered something else")
                    if number:
                        puts[way.name].append(put)
                        gets[way.name].append(got)
        limit = statistics.median(copies)
        for name in puts:
            put, get = statistics.median(puts[name]), statistics.median(gets[name])
            rows.append([kind, name, f"{put:.3f}", f"{get:.4f}", f"{limit / put:.2f}"])
        rows.append([kind, "memcpy", f"{limit:.3f}", "", ""])
    return rows


def memory(nbytes: int, count: int) -> list[list[str]]:
    """Memory of `count` readers that have read all of one frame, compared with one copy of it."""
    rows = [["frame", "way", "one copy MB", f"{count} readers MB", "ratio"]]
    frame = numbers(nbytes)
    copy = float(frame.memory_usage(index=False).sum())
    for way in (Shelf(), PersistentShelf(), ArrowShelf()):
        token = way.put(frame)
        with readers(count) as started:
            before = [_pss(reader) for reader in started]
            for reader in started:
                reader.ask("keep", way.name, token)
            # Of pages that this process has mapped as well, it has its own share.
            cost = sum(_pss(reader) for reader in started) - sum(before)
        way.drop(token)
        rows.append(["numbers", way.name, f"{copy / MB:.0f}", f"{cost / MB:.0f}", f"{cost / copy:.2f}"])
    return rows


def _pss(reader: Reader) -> int:
    pss: int = psutil.Process(reader.process.pid).memory_full_info().pss
    return pss


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A frame from one process to another: the shelf, and files.")
    parser.add_argument("--mb", type=int, default=1000, help="megabytes of the frame (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one warm-up (default 5)")
    parser.add_argument("--readers", type=int, default=16, help="readers of one frame, of a tenth of its size")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.read:
        read()
        return
    show = markdown if arguments.markdown else aligned
    print(describe_machine([]))
    print(show(compare(arguments.mb * MB, arguments.rounds)))
    print()
    print(show(memory(arguments.mb * MB // 10, arguments.readers)))


if __name__ == "__main__":
    main()
