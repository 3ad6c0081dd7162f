"""The rows of a trace as a plot. Needs matplotlib, which is imported when a plot is drawn.

Colours are those of Okabe and Ito, which people tell apart whatever their sight, from dark (running) to light (waiting), so that the
plot can be read in grey.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Sequence
from typing import Any

from arrowpool.engine.recorder import Activity
from arrowpool.timeline.rows import Bar, Row

#: Colour and pattern of each activity, in the order in which they are drawn: later ones lie on top.
_LOOKS = {
    Activity.WAIT: ("#f0f0f0", ""),
    Activity.DRAW: ("#CC79A7", "xxxx"),
    Activity.ENCODE: ("#F5C04A", ""),
    Activity.RUN: ("#00446b", ""),
    Activity.REBUILD: ("#8fd0f5", "////"),
    Activity.COPY: ("#D55E00", ""),
    Activity.SEND: ("#7cc9ac", "...."),
    Activity.DELIVER: ("#CC79A7", "++++"),
    Activity.CUT: ("#F0E442", "----"),
    Activity.JOIN: ("#4f9f86", "||||"),
    Activity.START: ("#999999", "\\\\\\\\"),
}
#: Gaps and bars below this part of the whole width are not seen.
_PIXEL = 1 / 4000
#: A plot has at most this many rows; the file has all.
_MOST_ROWS = 100
_ROW_INCHES, _WIDTH_INCHES, _MARGIN_INCHES = 0.32, 9.5, 1.3


def draw(rows: Sequence[Row], nanoseconds: int, title: str, axes: Any = None) -> Any:
    """Draw the rows; return the axes.

    Parameters
    ----------
    rows : sequence of Row
        From top to bottom.
    nanoseconds : int
        Length of the trace.
    title : str
        Above the plot.
    axes : matplotlib.axes.Axes, optional
        Where to draw. By default in a new figure of pyplot.

    Raises
    ------
    ModuleNotFoundError
        When matplotlib is not installed.
    """
    if axes is None:
        pyplot = _import("matplotlib.pyplot")
        _, axes = pyplot.subplots(figsize=_size(rows), layout="constrained")
    if len(rows) > _MOST_ROWS:
        title += f"; the first {_MOST_ROWS} of {len(rows):,} rows"
        rows = rows[:_MOST_ROWS]
    scale, unit = _unit(nanoseconds)
    least = nanoseconds * _PIXEL
    patches = _import("matplotlib.patches")
    seen = {bar.activity for row in rows for bar in row.bars}
    for activity, (colour, hatch) in _LOOKS.items():
        for height, row in enumerate(rows):
            spans = _spans((bar for bar in row.bars if bar.activity is activity), least)
            if spans:
                axes.broken_barh(
                    [(began / scale, (ended - began) / scale) for began, ended in spans],
                    (height - 0.4, 0.8),
                    facecolor=colour,
                    hatch=hatch,
                    edgecolor="#555555" if hatch else colour,
                    linewidth=0,
                )
    for height, row in enumerate(rows):
        for bar in filter(_is_unusual, row.bars):
            axes.text(
                bar.ended / scale, height, "X", ha="center", va="center", fontsize=9, fontweight="bold", color="#cc0000"
            )
        axes.text(1.01, height, _share(row, nanoseconds), transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_xlim(0, nanoseconds / scale)
    axes.set_xlabel(f"{unit} since the trace began")
    axes.set_title(title, loc="left", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    threads = sum(not row.is_worker for row in rows)
    if 0 < threads < len(rows):
        axes.axhline(threads - 0.5, color="#999999", linewidth=0.8)
    handles = [
        patches.Patch(facecolor=colour, hatch=hatch, edgecolor="#555555", linewidth=0.5, label=activity.value)
        for activity, (colour, hatch) in _LOOKS.items()
        if activity in seen
    ]
    if any(_is_unusual(bar) for row in rows for bar in row.bars):
        lines = _import("matplotlib.lines")
        handles.append(
            lines.Line2D(
                [], [], color="#cc0000", marker="x", linestyle="", markeredgewidth=2, label="failed or cut short"
            )
        )
    inches = axes.figure.get_size_inches()[1]
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, -0.55 / max(0.5, inches - _MARGIN_INCHES)),
        ncols=5,
        fontsize=8,
        frameon=False,
    )
    return axes


def png(rows: Sequence[Row], nanoseconds: int, title: str) -> bytes:
    """The plot as a PNG file, without pyplot and so without a figure that stays."""
    figure = _import("matplotlib.figure").Figure(figsize=_size(rows), layout="constrained")
    draw(rows, nanoseconds, title, figure.subplots())
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _is_unusual(bar: Bar) -> bool:
    """Whether a task raised an exception, or did not come to its end."""
    return bool(bar.note) and bar.activity is Activity.RUN


def _spans(bars: Iterable[Bar], least: float) -> list[tuple[float, float]]:
    """Began and ended of the bars. Those that are too near to each other to be told apart are one."""
    spans: list[tuple[float, float]] = []
    for bar in bars:
        if spans and bar.began - spans[-1][1] < least:
            spans[-1] = (spans[-1][0], max(spans[-1][1], bar.ended))
        else:
            spans.append((bar.began, max(bar.ended, bar.began + least)))
    return spans


def _share(row: Row, nanoseconds: int) -> str:
    """How much of the time a worker runs tasks, and a thread of the parent waits; or is busy, if its waits are not recorded."""
    seconds, whole = row.seconds(), nanoseconds / 1e9
    activity = Activity.RUN if row.is_worker else Activity.WAIT
    if activity in seconds or row.is_worker:
        return f"{activity.value} {seconds.get(activity, 0.0) / whole:.0%}"
    return f"busy {sum(seconds.values()) / whole:.0%}"


def _unit(nanoseconds: int) -> tuple[float, str]:
    return (1e9, "seconds") if nanoseconds >= 2e9 else (1e6, "milliseconds")


def _size(rows: Sequence[Row]) -> tuple[float, float]:
    return _WIDTH_INCHES, _MARGIN_INCHES + _ROW_INCHES * max(3, min(len(rows), _MOST_ROWS))


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "a plot needs matplotlib, which is not installed; install it with: pip install 'arrowpool[plot]'",
            name=error.name,
        ) from error
