"""The plots of a run: whole jobs beside a loop, throughput against size, seconds beside peers, peak memory. Called by `report`; needs matplotlib.

A contender has the same colour everywhere. SVG files are small (text stays text) and the same for the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import inputs
from benchmarks.record import Point, Record, by_scenario

LABELS = {"by_hand": "SharedMemory by hand", "futures": "ProcessPoolExecutor", "ray": "Ray", "memcpy": "memcpy"}
# Okabe and Ito's colours, which people tell apart whatever their sight; what is compared with most is the most distinct.
COLOURS = {
    "arrowpool": "#D55E00",
    "stdlib": "#000000",
    "by_hand": "#009E73",
    "ray": "#0072B2",
    "joblib": "#56B4E9",
    "mpire": "#CC79A7",
    "dask": "#E69F00",
    "futures": "#999999",
    "memcpy": "#777777",
    "threads": "#009E73",
}
MARKERS = dict(zip(COLOURS, "osDvP^X<.h", strict=True))
#: Scenarios in two lines, in the size that they were measured in.
SHORT = {
    "frame_in": "{mb:g} MB frame in,\n40 row chunks",
    "frame_there_and_back": "{mb:g} MB frame\nthere and back",
    "mixed_in": "mixed frame of\n{rows:,} rows, in",
    "mixed_there_and_back": "mixed frame of {rows:,} rows,\nthere and back",
    "arrow_slices": "40 slices of a\n{mb:g} MB Arrow table",
    "numpy_arrays": "40 NumPy arrays\nof {piece:g} MB",
    "partial_frame": "{mb:g} MB frame\ncaptured by 40 tasks",
    "tiny_single": "{tasks:,} tiny tasks,\nchunksize 1",
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "arrowpool",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",
}


def draw(records: Iterable[Record], directory: Path, form: str) -> list[Path]:
    """Draw one plot for each record; return the files, ``sizes.svg`` and so on."""
    drawn = []
    directory.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(_STYLE):
        for record in records:
            figure = {"jobs": _jobs, "sizes": _sizes, "compare": _bars, "memory": _memory}[record.kind](record)
            workers = f"{record.workers} workers; load when it began {record.load:g}"
            figure.text(0.01, 0.008, f"{record.machine}, {workers}", fontsize=6, color="#555555", va="bottom")
            path = directory / f"{record.kind}.{form}"
            figure.savefig(path, dpi=150, metadata={"Date": None} if form == "svg" else None)
            plt.close(figure)
            drawn.append(path)
    return drawn


def _label(contender: str) -> str:
    return LABELS.get(contender, contender)


def _short(point: Point) -> str:
    _, scaled, size = point.title.partition(" (inputs times ")
    scale = float(size.rstrip(")")) if scaled else 1.0
    return SHORT.get(point.scenario, point.scenario).format(
        mb=inputs.ROWS * inputs.COLUMNS * 8 / 1e6 * scale,
        rows=inputs.scaled(inputs.MIXED_ROWS, scale),
        piece=8 * scale,
        tasks=inputs.scaled(20_000, scale),
    )


def _contenders(points: Iterable[Point]) -> list[str]:
    found = {point.contender for point in points}
    return [name for name in COLOURS if name in found]


def _jobs(record: Record) -> Any:
    """How many times as fast as a loop each contender is: a row for each job, a mark for each contender."""
    groups = by_scenario(record.points)
    figure, axes = plt.subplots(figsize=(9.5, 1.5 + 0.36 * len(groups)))
    titles = []
    for row, points in enumerate(groups.values()):
        loop = next(point.median for point in points if point.contender == "serial")
        # A job that is called as the one before it, but for its chunksize.
        titles.append(points[0].title.replace("...", "       the same,"))
        for contender in reversed(_contenders(points)):
            (median,) = [point.median for point in points if point.contender == contender]
            axes.plot(
                loop / median,
                row,
                marker=MARKERS[contender],
                markersize=9 if contender == "arrowpool" else 5.5,
                color=COLOURS[contender],
                linestyle="",
                label=_label(contender) if row == 0 else None,
                zorder=3 if contender == "arrowpool" else 2,
            )
    axes.axvline(1, color="#000000", linewidth=1)
    axes.set_yticks(range(len(titles)), titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2])
    axes.set_xlabel("times as fast as a loop (1x)")
    axes.grid(True, axis="both", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="upper right", ncols=len(labels), frameon=False, fontsize=8)
    figure.suptitle("Whole jobs: further right is better", x=0.01, ha="left", fontweight="bold")
    figure.tight_layout(rect=(0, 0.03, 1, 0.97))
    return figure


def _sizes(record: Record) -> Any:
    """Throughput against size, both axes logarithmic: one panel each for in, and there and back."""
    panels: dict[str, list[Point]] = {}
    for point in record.points:
        panels.setdefault(point.scenario.rpartition("_")[0], []).append(point)
    figure, all_axes = plt.subplots(1, len(panels), figsize=(9.5, 4.4), sharey=True, squeeze=False)
    for axes, (name, points) in zip(all_axes[0], panels.items(), strict=True):
        for contender in _contenders(points):
            line = sorted(
                (float(point.scenario.rpartition("_")[2]), point.throughput)
                for point in points
                if point.contender == contender and not math.isnan(point.median)
            )
            axes.plot(
                *zip(*line, strict=True),
                color=COLOURS[contender],
                marker=MARKERS[contender],
                markersize=4,
                linewidth=2.4 if contender == "arrowpool" else 1.2,
                linestyle="--" if contender == "memcpy" else "-",
                label=_label(contender),
                zorder=3 if contender == "arrowpool" else 2,
            )
        there_and_back = name.endswith("there_and_back")
        axes.set_title(
            "a frame back for each chunk (x * 2)" if there_and_back else "in (sum of a column of each chunk)"
        )
        axes.set_xlabel("size of the frame, in 40 row chunks (MB)")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted({float(point.scenario.rpartition("_")[2]) for point in points}))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    all_axes[0][0].set_ylabel("throughput, bytes of all frames moved (GB/s)")
    handles, labels = all_axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(0.805, 0.5), frameon=False, fontsize=8)
    figure.suptitle("Throughput of pool.map against size: higher is better", x=0.01, ha="left", fontweight="bold")
    figure.subplots_adjust(left=0.08, right=0.8, top=0.85, bottom=0.17, wspace=0.06)
    return figure


def _bars(record: Record) -> Any:
    """Seconds of each contender, one panel a scenario, each with a scale of its own."""
    groups = by_scenario(record.points)
    rows = -(-len(groups) // 3)
    figure, all_axes = plt.subplots(rows, 3, figsize=(9.5, 0.9 + 2.3 * rows), squeeze=False)
    for axes in all_axes.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, group in zip(all_axes.flat, groups.values(), strict=False):
        points = sorted((point for point in group if point.seconds), key=lambda point: point.median)
        _draw_bars(axes, points, [point.median for point in points], "{:.3g}")
        axes.set_title(_short(points[0]), fontsize=9)
        axes.set_xlabel("seconds", fontsize=7)
    figure.suptitle(
        "Seconds of one call: shorter is better (each panel has its own scale)", x=0.01, ha="left", fontweight="bold"
    )
    figure.tight_layout(rect=(0, 0.03, 1, 0.98), h_pad=1.5)
    return figure


def _memory(record: Record) -> Any:
    """Peak memory that the machine has to have, one panel a scenario."""
    groups = by_scenario(record.points)
    figure, all_axes = plt.subplots(
        1,
        len(groups),
        figsize=(9.5, 1.5 + 0.3 * len(_contenders(record.points))),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for axes, points in zip(all_axes[0], groups.values(), strict=True):
        ordered = sorted(points, key=lambda point: list(COLOURS).index(point.contender))
        _draw_bars(axes, ordered, [point.peak["total"] / 1e6 for point in ordered], "{:.0f}")
        axes.set_title(_short(points[0]), fontsize=7)
        axes.set_xlabel("MB", fontsize=7)
    figure.suptitle(
        "Peak memory above the open pool and its inputs, all processes: shorter is better",
        x=0.01,
        ha="left",
        fontweight="bold",
    )
    figure.tight_layout(rect=(0, 0.04, 1, 0.98))
    return figure


def _draw_bars(axes: Any, points: Sequence[Point], lengths: Sequence[float], form: str) -> None:
    drawn = axes.barh(
        [_label(point.contender) for point in points],
        lengths,
        color=[COLOURS[point.contender] for point in points],
        height=0.7,
    )
    axes.bar_label(drawn, [form.format(length) for length in lengths], padding=2, fontsize=7)
    axes.margins(x=0.18)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
