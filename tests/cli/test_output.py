"""Commands whose output is not read to its end, or contains what a terminal would obey."""

from __future__ import annotations

import os

import pytest

import arrowpool
from arrowpool.cli.output import printable, until_not_read
from tests import programs


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["top", "--interval", "0.01"],
        ["clean"],
        ["doctor"],
        ["demo", "--rows", "400", "--processes", "1"],
        ["bench", "--megabytes", "1", "--seconds", "1", "--processes", "1"],
    ],
    ids=lambda command: command[0],
)
def test_output_that_is_not_read_ends_a_command_quietly(own_shelf, command):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        done = programs.run(["-m", "arrowpool", *command], stdout=output, timeout=100)
    assert done.stderr == ""
    assert done.returncode == 141


def test_another_broken_pipe_is_an_error():
    def fail():
        raise BrokenPipeError("a worker's")

    with pytest.raises(BrokenPipeError, match="a worker's"):
        until_not_read(fail)


def test_names_of_types_are_printed_on_one_line(own_shelf):
    cls = type("A\n\x1b[31mB", (), {"__reduce__": lambda self: (int, (7,))})
    key = arrowpool.put(cls())
    listed = programs.run(["-m", "arrowpool", "ls"], timeout=100)
    assert listed.returncode == 0, listed.stderr
    line = next(line for line in listed.stdout.splitlines() if line.startswith(key))
    assert r"A\n\x1b[31mB" in line


def test_what_is_printable_stays_as_it_is():
    assert printable("Größe 表 a") == "Größe 表 a"
