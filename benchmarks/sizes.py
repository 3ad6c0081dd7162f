"""How cost grows with size: one float frame in 40 row chunks, from 1 MB to 4 GB: `python -m benchmarks.sizes`.

Prints GB/s of each contender, a sum of a column (in) and a frame back for each chunk (there and back), interleaved as in
`compare`. Where there is not enough memory for all contenders, only the most important ones are measured; where there is not even
enough for these, the size is left out. Both are said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arrowpool.memory.limits import memory
from benchmarks.command import begin, describe_machine, new_parser, points_of
from benchmarks.contenders import Contender, choose
from benchmarks.inputs import COLUMNS, ROWS
from benchmarks.measure import measure
from benchmarks.record import by_scenario
from benchmarks.scenarios import Scenario, by_name, scaled

SIZES = (1, 4, 16, 64, 256, 1024, 2048, 4096)
#: Contenders that are kept where memory is short.
FEW = ("stdlib", "arrowpool", "memcpy")
#: How many times a frame has to fit into memory with all contenders, and with these few: itself, its copy of the round, and
#: what contenders keep of it and of the results, all at the same time.
SCENARIOS = {"frame_in": (9, 4), "frame_there_and_back": (12, 7)}
_FULL_BYTES = ROWS * COLUMNS * 8


def chosen(sizes: Sequence[float], kinds: Sequence[type[Contender]]) -> tuple[list[Scenario], list[str]]:
    """The scenarios of all sizes (MB) that fit into memory, and a line for each that leaves a contender out."""
    _, available = memory()
    fitting, lines = [], []
    others = {kind.name: "memory is short" for kind in kinds if kind.name not in FEW}
    stay = ", ".join(kind.name for kind in kinds if kind.name in FEW)
    for name, (for_all, for_few) in SCENARIOS.items():
        most = for_all if others else for_few
        least = for_few if stay else for_all
        for size in sizes:
            what = f"{'in' if name == 'frame_in' else 'there and back'}, a frame of {size:g} MB in 40 row chunks"
            scenario = replace(scaled(by_name(name), size * 1e6 / _FULL_BYTES), name=f"{name}_{size:g}", title=what)
            if size * 1e6 * most <= available:
                fitting.append(scenario)
            elif size * 1e6 * least <= available:
                fitting.append(replace(scenario, left_out={**scenario.left_out, **others}))
                lines.append(f"only {stay}: {what}; for all, memory would have to hold it some {most} times")
            else:
                lines.append(f"left out: {what}; memory would have to hold it some {least} times")
    return fitting, lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = new_parser("Throughput against size.", scale=None)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), metavar="MB,MB", help="default: %(default)s")
    run = begin("sizes", parser, argv)
    arguments = run.arguments
    try:
        kinds = choose(arguments.contenders)
        scenarios, lines = chosen([float(size) for size in arguments.sizes.split(",")], kinds)
    except (LookupError, ValueError) as error:
        parser.error(str(error.args[0]))
    print(describe_machine(kinds))
    for line in lines:
        print(line)
    points = []
    for scenario, measurements in zip(scenarios, measure(scenarios, kinds, rounds=arguments.rounds), strict=True):
        # The title says the size itself.
        points += points_of(replace(scenario, scale=1.0), measurements)
        print(f"{scenario.name}: " + ", ".join(f"{m.contender} {m.median:.4g} s" for m in measurements), flush=True)
    rows = [["GB/s", *(kind.name for kind in kinds)]]
    for name, group in by_scenario(points).items():
        found = {point.contender: point.throughput for point in group}
        rows.append([name, *(f"{found[kind.name]:.3g}" if kind.name in found else "-" for kind in kinds)])
    print()
    print(run.show(rows))
    print(f"\nMedian of {arguments.rounds} rounds; bytes of the frame, there and back counted twice.")
    run.write(kinds, points)


if __name__ == "__main__":
    main()
