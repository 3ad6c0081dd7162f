"""The benchmarks in a tiny form, so that they run whenever somebody wants to measure: every program, file and plot."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from benchmarks import (
    by_hand,
    contenders,
    groups,
    inputs,
    jobs,
    memory,
    parent,
    real_jobs,
    record,
    report,
    scenarios,
    sizes,
)
from benchmarks.measure import call_once
from benchmarks.scenarios import Timing
from tests import programs

ROOT = Path(__file__).resolve().parent.parent
FEW = "stdlib,arrowpool,by_hand,memcpy"
DRAWN = ("frame_in", "mixed_there_and_back", "tiny_single")


def run(*arguments, **environment):
    done = programs.run(["-m", *arguments], cwd=ROOT, env={**os.environ, **environment}, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """All scenarios, measured once with inputs of a few kB, as a table."""
    directory = tmp_path_factory.mktemp("measured")
    done = run(
        *("benchmarks.report", "--measure", "--no-plots", "--to", str(directory), "--contenders", FEW),
        *("--sizes", "0.01,0.04", "--scale", "0.0001", "--rounds", "1", "--scenario", *DRAWN, "--jobs", "rolling"),
    )
    return directory, done.stdout


def test_what_is_measured_is_written(measured):
    directory, _ = measured
    whole, compared, grown, held = (record.read(directory / f"{kind}.json") for kind in report.KINDS)
    names = FEW.split(",")
    assert [point.contender for point in whole.points] == ["serial", *names[:2]]
    assert [(point.scenario, point.contender) for point in compared.points] == [
        *(("frame_in", name) for name in names),
        *(("mixed_there_and_back", name) for name in names if name != "by_hand"),
        *(("tiny_single", name) for name in names[:2]),
    ]
    assert {(point.scenario, point.contender) for point in grown.points} == {
        (f"{scenario}_{size}", name) for scenario in sizes.SCENARIOS for size in (0.01, 0.04) for name in names
    }
    for point in (*whole.points, *compared.points, *grown.points):
        assert not point.failure
        assert len(point.seconds) == 1
        assert point.seconds[0] > 0
    assert all(point.nbytes == 10 * 8 * 125 for point in grown.points if point.scenario == "frame_in_0.01")
    assert {point.contender for point in held.points} == set(names) - {"memcpy"}
    assert all(min(point.peak.values()) >= 0 for point in held.points)
    assert any(point.peak["total"] > 0 for point in held.points)
    assert grown.command.startswith("python -m benchmarks.sizes --rounds 1 --contenders")
    assert "pandas" in compared.machine


def test_the_table(measured):
    directory, said = measured
    lines = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert lines[0] == ["| what", "unit", "serial", *FEW.split(",")[:-1], "memcpy |"]
    assert len({len(line) for line in lines}) == 1
    assert [line[1] for line in lines[2:]] == ["s"] * 4 + ["GB/s"] * 4 + ["MB"] * 3
    first = record.read(directory / "compare.json").points[0]
    assert lines[3][3] == f"{first.median:.3g}" + ("" if first.warmed else "*")


def test_the_plots(measured, tmp_path):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    files = [str(measured[0] / f"{kind}.json") for kind in report.KINDS]
    run("benchmarks.report", *files, "--to", str(tmp_path), MPLCONFIGDIR=str(tmp_path))
    for kind, wanted in (
        ("jobs", ["arrowpool", "stdlib", "times as fast as a loop"]),
        ("sizes", ["SharedMemory by hand", "arrowpool", "0.01", "0.04", "GB/s"]),
        ("compare", ["SharedMemory by hand", "stdlib", "seconds", "40 tiny tasks,"]),
        ("memory", ["SharedMemory by hand", "stdlib", "MB"]),
    ):
        texts = " ".join(ElementTree.parse(tmp_path / f"{kind}.svg").getroot().itertext())
        assert all(word in texts for word in wanted), (kind, texts)
        assert (tmp_path / f"{kind}.svg").stat().st_size < 200_000


def test_a_file_of_another_program(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"points": [{"seconds": [1]}]}))
    with pytest.raises(SystemExit):
        report.main([str(path), "--no-plots"])
    assert "was not written by --json" in capsys.readouterr().err


def test_a_record_is_read_as_it_was_written(tmp_path):
    points = (
        record.Point(scenario="a", title="A", contender="stdlib", nbytes=10**9, seconds=(3.0, 1.0, 2.0), peak={}),
        record.Point(scenario="a", title="A", contender="ray", peak={"total": 5}, failure="no"),
        record.Point(scenario="b", title="B", contender="ray", tasks=7, seconds=(2.0,), cpu=(1.0,), peak={}),
    )
    written = record.Record("compare", "a machine", "python", 2, 0.5, points)
    record.write(str(tmp_path / "a.json"), written)
    assert record.read(tmp_path / "a.json") == written
    assert points[0].throughput == 0.5
    assert math.isnan(points[1].median)
    assert report._cell("compare", points[1]) == "failed"


def test_sizes_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(sizes, "memory", lambda: (10**12, 1_200 * 10**6))
    few = [contenders.StdlibPool, contenders.Memcpy]
    found, lines = sizes.chosen([1, 100, 101, 201, 301], [*few, contenders.Joblib])
    assert {one.name: set(one.left_out) for one in found} == {
        "frame_in_1": set(),
        "frame_in_100": set(),
        "frame_in_101": set(),
        "frame_in_201": {"joblib"},
        "frame_there_and_back_1": set(),
        "frame_there_and_back_100": set(),
        "frame_there_and_back_101": {"joblib"},
    }
    assert [line.split(";")[0] for line in lines] == [
        "only stdlib, memcpy: in, a frame of 201 MB in 40 row chunks",
        "left out: in, a frame of 301 MB in 40 row chunks",
        "only stdlib, memcpy: there and back, a frame of 101 MB in 40 row chunks",
        "left out: there and back, a frame of 201 MB in 40 row chunks",
        "left out: there and back, a frame of 301 MB in 40 row chunks",
    ]
    assert inputs.frame_bytes(found[0].inputs()) == 10**6
    assert sizes.chosen([201], few)[0][0].name == "frame_in_201"
    assert sizes.chosen([201], [contenders.Joblib])[0] == []


@pytest.mark.parametrize("name", [one.name for one in scenarios.SCENARIOS if one.timing is Timing.WARM_CALL])
def test_every_scenario_in_a_tiny_form(name):
    scenario = scenarios.scaled(scenarios.by_name(name), 1e-3)
    made = scenario.inputs()
    with contenders.opened(contenders.ArrowPool()) as pool:
        assert call_once(pool, scenario, made) > 0


@pytest.mark.parametrize("name", ["frame_in", "frame_there_and_back"])
def test_by_hand_with_frames_of_several_sizes(name):
    with contenders.opened(contenders.ByHand()) as pool:
        for scale in (1e-3, 1e-3, 2e-3):
            scenario = scenarios.scaled(scenarios.by_name(name), scale)
            assert call_once(pool, scenario, scenario.inputs()) > 0
    assert not by_hand._attached, "attached in workers only"


def test_memory_of_the_work_and_of_nothing_else():
    """A frame of 8 MB there and back: at least the results; not Python, pandas and the inputs, which take more."""
    peak = memory.peak_of(
        "frame_there_and_back", "arrowpool", rounds=5, scale=0.1
    )  # sampled, so in more than one round
    nbytes = inputs.frame_bytes(scenarios.scaled(scenarios.by_name("frame_in"), 0.1).inputs())
    assert nbytes == 32_000_000
    assert peak.shared >= nbytes
    assert nbytes <= peak.total < 8 * nbytes


def test_scaled_inputs_have_a_row_in_each_chunk():
    assert len(inputs.float_frame(0)) == len(inputs.row_chunks(inputs.float_frame(0))) == inputs.CHUNKS
    assert np.array_equal(inputs.float_frame(1e-5).to_numpy(), inputs.float_frame(1e-5).to_numpy())


def test_real_jobs(tmp_path):
    """Each job by each kind of contender, the results compared with the loop's; and in a new process."""
    names = ["serial", "threads", "stdlib", "arrowpool"]
    few = ["--contenders", ",".join(names), "--scale", "0.001", "--rounds", "1"]
    jobs.main([*few, "--json", str(tmp_path / "jobs.json")])
    written = record.read(tmp_path / "jobs.json")
    assert [(point.scenario, point.contender) for point in written.points] == [
        (job.name, name) for job in real_jobs.JOBS for name in names
    ]
    assert not any(point.failure for point in written.points)


def test_a_first_call_of_a_real_job_and_its_memory(capsys):
    jobs.main(
        [*("--jobs", "rolling", "--first-call", "--memory", "--workers", "1", "--rounds", "1"),
         *("--scale", "0.01", "--contenders", "arrowpool")]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "first call of a new pool in a new process, 1 workers" in said
    assert "failed" not in said
    assert "Peak MB" in said


def test_a_contender_that_is_not_installed_is_left_out_with_a_word(monkeypatch, capsys):
    monkeypatch.setattr(contenders.Mpire, "installed", classmethod(lambda cls: False))
    jobs.main(["--jobs", "rolling", "--contenders", "serial,mpire", "--scale", "0.001", "--rounds", "1"])
    said = capsys.readouterr().out
    assert "mpire is left out: it is not installed" in said
    assert "rolling: serial" in said


def test_a_real_job_whose_result_differs_fails():
    job = scenarios.scaled(scenarios.by_name("small_in", real_jobs.JOBS), 0.001)
    made = job.inputs()
    right = job.run(contenders.Serial(), made)
    job.check(made, right)
    with pytest.raises(AssertionError):
        job.check(made, [right[0] + 1, *right[1:]])
    with pytest.raises(AssertionError):
        job.check(made, right[:-1])


def test_what_a_task_costs_the_parent(capsys, tmp_path):
    path = tmp_path / "parent.json"
    parent.main(["--scale", "0.01", "--rounds", "1", "--sleepers", "2,3", "--json", str(path)])
    said = capsys.readouterr().out.splitlines()
    for one in parent.TRAFFIC:
        lines = [line for line in said if re.match(rf"{re.escape(one.title)} +(stdlib|arrowpool) ", line)]
        assert len(lines) == 2
        for line in lines:
            microseconds, _, one_ms, ten_ms = line.split()[-4:]
            assert float(one_ms) == pytest.approx(1_000 / float(microseconds), rel=0.01)
            assert float(ten_ms) == pytest.approx(10_000 / float(microseconds), rel=0.01)
    for slept in parent.SLEPT:
        lines = [line for line in said if re.match(rf"{re.escape(slept.title)} +(stdlib|arrowpool) ", line)]
        assert len(lines) == 2
        # No pool is faster than ideal workers: a task sleeps at least as long as it is asked to.
        assert all(float(figure) >= 1 for line in lines for figure in line.split()[-2:])
    written = record.read(path)
    assert written.command == "python -m benchmarks.parent --scale 0.01 --rounds 1 --sleepers 2,3"
    names = [one.name for one in parent.TRAFFIC] + [f"{one.name}_{n}" for n in (2, 3) for one in parent.SLEPT]
    assert [(point.scenario, point.contender) for point in written.points] == [
        (name, contender) for name in names for contender in ("stdlib", "arrowpool")
    ]
    assert all(len(point.cpu) == len(point.seconds) == 1 and point.cpu[0] > 0 for point in written.points)
    shown = [line.split()[-4] for line in said if re.match(r"a number in, None back +(stdlib|arrowpool) ", line)]
    assert shown == [f"{point.cpu[0] / point.tasks * 1e6:.1f}" for point in written.points[:2]]


def test_a_result_that_differs_is_an_error():
    class Wrong(contenders.Serial):
        def map(self, fn, items, chunksize=None):
            return [fn(item) for item in reversed(items)]

    with pytest.raises(AssertionError):
        parent.costs([Wrong()], dataclasses.replace(parent.TRAFFIC[0], task=parent.same), [1, 2], rounds=1)
    with pytest.raises(SystemExit):
        parent.main(["--traffic", "other"])


def test_groups(capsys):
    groups.main(["--scale", "0.005", "--rounds", "1", "--jobs", "rsi,rsi_shuffled,mean"])
    out = capsys.readouterr().out
    assert re.search(r"^RSI and MACD of 2,000 tickers x 250 days +[\d.]+ \([\d.]+\)", out, re.MULTILINE)
    with pytest.raises(AssertionError):
        groups.check(pd.Series([1.0]), pd.Series([2.0]))
