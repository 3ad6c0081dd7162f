"""The doctor: on this machine, and on machines that lack something."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import re
import resource
import subprocess
import sys

import psutil
import pytest

from arrowpool.cli import doctor, doctor_checks, doctor_memory
from arrowpool.cli.findings import Grade
from arrowpool.memory import arena, limits, platform
from arrowpool.memory.limits import Limits
from arrowpool.memory.platform import pagemap
from tests import programs
from tests.conftest import needs

PROGRAM = """
import sys
from arrowpool.cli import doctor
if __name__ == "__main__":
    sys.exit(doctor.run())
"""


def run(tmp_path, **limits):
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    pairs = {getattr(resource, name): (limit, limit) for name, limit in limits.items()}
    return programs.run([script], timeout=100, limits=pairs)


def findings(check):
    return {finding.subject: finding for finding in check()}


def test_this_machine(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for method in multiprocessing.get_all_start_methods():
        assert re.search(rf"^ok +{method} .*results equal", done.stdout, re.MULTILINE)
    for subject in (
        "start method",
        "cores",
        "shared memory",
        "arena",
        "memory",
        "budget",
        "heap of workers",
        "open files",
        "/dev/shm",
    ):
        assert re.search(rf"^(ok|slow) +{subject} ", done.stdout, re.MULTILINE), subject
    assert max(len(line) for line in done.stdout.splitlines()) <= doctor._WIDTH
    assert not done.stderr


def test_a_limit_on_the_size_of_files_leaves_no_shared_memory(tmp_path):
    limit = 64 << 20
    done = run(tmp_path, RLIMIT_FSIZE=limit)
    assert done.returncode == 1
    assert re.search(r"^wrong +shared memory +not available", done.stdout, re.MULTILINE)
    assert "ulimit -f unlimited" in done.stdout
    assert re.search(r"^wrong +fork .*but everything", done.stdout, re.MULTILINE)


def test_too_few_descriptors(tmp_path):
    done = run(tmp_path, RLIMIT_NOFILE=48)
    assert done.returncode == 1
    assert re.search(r"^wrong +open files +48;", done.stdout, re.MULTILINE)
    assert "-> Pool() may fail. Run `ulimit -n" in done.stdout


def test_little_address_space(tmp_path):
    limit = 2600 << 20
    done = run(tmp_path, RLIMIT_AS=limit)
    assert "limited to 2.7 GB (RLIMIT_AS)" in re.sub(r"\s+", " ", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_memfd(monkeypatch, caplog):
    def refused(name, size):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(platform, "create_memory", refused)
    monkeypatch.setattr(arena, "_said_where", False)
    found = findings(doctor_memory.shared_memory)
    assert found["shared memory"].grade is Grade.SLOW
    assert "no memfd here (Function not implemented)" in found["shared memory"].found
    assert "memfd_create" in found["shared memory"].advice
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert findings(doctor_memory.page_scan)["written pages"].grade is Grade.SLOW


def test_no_shared_memory_at_all(monkeypatch):
    def refused(name, size, directory=None, **_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(platform, "create_memory", refused)
    monkeypatch.setattr(platform, "create_unlinked", refused)
    found = findings(doctor_memory.shared_memory)
    assert {name: finding.grade for name, finding in found.items()} == {"shared memory": Grade.WRONG}
    assert "everything is pickled" in found["shared memory"].advice


def test_workers_that_could_write(monkeypatch):
    monkeypatch.setattr(platform, "read_only", os.dup)  # as without /proc
    assert findings(doctor_memory.shared_memory)["protection"].grade is Grade.SLOW


def test_a_kernel_without_pagemap_scan(monkeypatch):
    monkeypatch.setattr(pagemap, "_PAGEMAP_SCAN", 0xC06066FF)
    assert findings(doctor_memory.page_scan)["written pages"].grade is Grade.SLOW


def test_an_arena_that_is_smaller_than_wanted(monkeypatch):
    monkeypatch.setattr(arena, "create", lambda capacity: platform.create_memory("arrowpool-test", capacity // 2))
    found = findings(doctor_memory.shared_memory)["arena"]
    assert found.grade is Grade.SLOW
    assert "were refused" in found.found


def test_little_memory_and_a_container(monkeypatch):
    gigabyte = 10**9
    monkeypatch.setattr(doctor_checks, "memory", lambda: (gigabyte, gigabyte // 8))
    monkeypatch.setattr(limits, "memory", lambda: (gigabyte, gigabyte // 8))
    monkeypatch.setattr(doctor_checks, "limits", lambda: Limits(gigabyte, 64 << 20))
    found = findings(doctor_checks.memory_now)
    assert psutil.virtual_memory().total > gigabyte
    assert found["container limit"].grade is Grade.OK
    assert found["memory"].grade is Grade.SLOW
    assert found["budget"].grade is Grade.SLOW
    assert "spill_dir" in found["budget"].advice


@needs("mallopt")
def test_workers_that_keep_no_freed_memory():
    # New processes: the C library reads its own variables when a process starts.
    def told(**environment):
        command = [sys.executable, "-m", "arrowpool", "doctor"]
        # Each array is a map of its own, too small for a huge page.
        little = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "65536")
        environment = {**os.environ, **little, **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        return re.sub(r"\s+", " ", done.stdout)

    assert "ok heap of workers workers keep" in told()
    without = told(ARROWPOOL_WITHOUT="mallopt")
    assert "slow heap of workers memory for temporaries is new in each task" in without
    assert "-> ARROWPOOL_WITHOUT names mallopt." in without


@pytest.mark.parametrize("mode", ["never", "deny", "advise", "within_size"])
def test_huge_pages(monkeypatch, tmp_path, mode):
    setting = tmp_path / "shmem_enabled"
    setting.write_text("always within_size advise never deny force\n".replace(mode, f"[{mode}]"))
    monkeypatch.setattr(doctor_checks, "_SHMEM_HUGE_PAGES", setting)
    found = findings(doctor_checks.memory_now)["huge pages"]
    assert found.found.startswith(f"{mode} for shared memory")
    assert (f"`echo advise > {setting}`" in found.advice) == (mode in ("never", "deny"))


def test_fewer_cores_than_the_machine_has(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(doctor_checks, "default_size", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))
    found = findings(doctor_checks.start_method)["cores"]
    assert found.grade is Grade.SLOW
    assert found.found.startswith(f"{doctor_checks._usable_cores()} of the machine's 64")
    assert doctor_checks._usable_cores() <= 3


def test_a_check_that_fails_is_a_finding(monkeypatch, capsys):
    def no_such_thing():
        raise PermissionError("not for you")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (no_such_thing,))
    assert doctor.run(["fork"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^wrong +no such thing +PermissionError: not for you", said, re.MULTILINE)
    assert re.search(r"^ok +fork ", said, re.MULTILINE)
