"""All contenders side by side in one run: `python -m benchmarks.compare`.

Prints one table: median seconds of each contender, how many times as fast `arrowpool` is as the standard library and as the best
peer, its share of the speed of `np.copyto`, and whether the scenario's goals are met.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.command import begin, describe_machine, new_parser, points_of
from benchmarks.contenders import PEERS, PROCESSES, Contender, choose
from benchmarks.measure import SLOW, Measurement, measure
from benchmarks.scenarios import SCENARIOS, Goal, Scenario, by_name, scaled

OURS = "arrowpool"


def main(argv: Sequence[str] | None = None) -> None:
    parser = new_parser("arrowpool, the standard library and peers, interleaved in one run.")
    parser.add_argument("--scenario", nargs="+", metavar="NAME", help=", ".join(s.name for s in SCENARIOS))
    run = begin("compare", parser, argv)
    arguments = run.arguments
    try:
        scenarios = [by_name(name) for name in arguments.scenario] if arguments.scenario else list(SCENARIOS)
        kinds = choose(arguments.contenders)
    except LookupError as error:
        parser.error(str(error.args[0]))
    scenarios = [scaled(scenario, arguments.scale) for scenario in scenarios]

    print(describe_machine(kinds))
    header = ["scenario", *(kind.name for kind in kinds), "x stdlib", "x best peer", "of memcpy", "goal", ""]
    rows, notes, points = [header], [], []
    for scenario, measurements in zip(scenarios, measure(scenarios, kinds, rounds=arguments.rounds), strict=True):
        rows.append(row(scenario, kinds, measurements))
        notes += remarks(scenario, kinds, measurements)
        points += points_of(scenario, measurements)
        print(f"{scenario.name}: " + ", ".join(f"{m.contender} {cell(m)}" for m in measurements), flush=True)
    print()
    print(run.show(rows))
    print()
    print(
        f"Median seconds of {arguments.rounds} interleaved rounds after one warm-up, {PROCESSES} workers, "
        "every result checked.\nOf memcpy: the time of one np.copyto of the same bytes into warm memory, "
        "divided by arrowpool's time."
    )
    print("\n".join(notes))
    run.write(kinds, points)


def row(scenario: Scenario, kinds: Sequence[type[Contender]], measurements: Sequence[Measurement]) -> list[str]:
    """The scenario's row of the table."""
    median = {m.contender: m.median for m in measurements}
    cells = []
    for kind in kinds:
        found = next((m for m in measurements if m.contender == kind.name), None)
        cells.append("-" if found is None else cell(found))
    ours = median.get(OURS, math.nan)
    peers = {name: seconds for name, seconds in median.items() if name in PEERS and not math.isnan(seconds)}
    best = min(peers, key=peers.__getitem__, default="")
    against_best = f"{ratio(peers[best] / ours)} {best}" if best else "-"
    share = f"{median['memcpy'] / ours:.2f}" if "memcpy" in median and not math.isnan(ours) else "-"
    missed = [] if math.isnan(ours) else misses(scenario, median)
    verdict = "" if math.isnan(ours) or scenario.goal == Goal() else "missed: " + ", ".join(missed) if missed else "met"
    times_stdlib = ratio(median.get("stdlib", math.nan) / ours)
    return [scenario.name, *cells, times_stdlib, against_best, share, describe_goal(scenario.goal), verdict]


def cell(measurement: Measurement) -> str:
    if measurement.failure:
        return "failed"
    return f"{measurement.median:.4g}" + ("" if measurement.warmed else "*")


def ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}x" if value < 100 else f"{value:.0f}x"


def describe_goal(goal: Goal) -> str:
    parts = []
    if goal.stdlib is not None:
        parts.append(f"{goal.stdlib:.3g}x stdlib")
    if goal.ray is not None:
        parts.append(f"{goal.ray:g}x ray")
    if goal.memcpy is not None:
        parts.append(f"{goal.memcpy:g} of memcpy")
    if goal.task_ms is not None:
        parts.append(f"a copy + {goal.task_ms:g} ms a task")
    return ", ".join(parts) or "-"


def misses(scenario: Scenario, median: dict[str, float]) -> list[str]:
    """The goals that were missed, each with the ratio that was reached. Goals whose reference did not run are left out."""
    goal, ours = scenario.goal, median[OURS]
    missed = []
    for name, wanted in (("stdlib", goal.stdlib), ("ray", goal.ray)):
        reached = median.get(name, math.nan) / ours
        if wanted is not None and reached < wanted:
            missed.append(f"{ratio(reached)} {name}")
    share = median.get("memcpy", math.nan) / ours
    if goal.memcpy is not None and share < goal.memcpy:
        missed.append(f"{share:.2f} of memcpy")
    task_ms = (ours - median.get("memcpy", math.nan)) * 1e3 / max(scenario.tasks, 1)
    if goal.task_ms is not None and task_ms > goal.task_ms:
        missed.append(f"{task_ms:.2f} ms a task")
    return missed


def remarks(scenario: Scenario, kinds: Sequence[type[Contender]], measurements: Sequence[Measurement]) -> list[str]:
    """Notes that explain the scenario's row."""
    lines = [f"{scenario.name}: {scenario.title}."]
    once = [m.contender for m in measurements if not m.warmed]
    if once:
        lines.append(f"  * {', '.join(once)}: over {SLOW:g} s a call, so one round without a warm-up.")
    for kind in kinds:
        if kind.name in scenario.left_out:
            lines.append(f"  {kind.name} left out: {scenario.left_out[kind.name]}.")
    lines += [f"  {m.contender} failed: {m.failure}" for m in measurements if m.failure]
    return lines


if __name__ == "__main__":
    main()
