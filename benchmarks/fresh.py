"""One scenario by one contender in this interpreter: `python -m benchmarks.fresh SCENARIO CONTENDER [--rounds N]`.

Started by `measure` for first calls and by `memory`, each time as a new process. Prints one JSON line at the end with the
seconds of the last call. With `--wait` it first says when the pool is open and works and the inputs are made (`ready`),
and begins when it is sent a line.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys

from benchmarks.contenders import PROCESSES, Contender, choose, opened, quiet_peers
from benchmarks.measure import first_call, timed
from benchmarks.real_jobs import JOBS
from benchmarks.scenarios import SCENARIOS, Scenario, by_name, scaled


def main() -> None:
    quiet_peers()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario")
    parser.add_argument("contender")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=PROCESSES)
    parser.add_argument("--first", action="store_true", help="the first call of a new pool")
    parser.add_argument("--wait", action="store_true")
    arguments = parser.parse_args()
    scenario = scaled(by_name(arguments.scenario, (*SCENARIOS, *JOBS)), arguments.scale)
    (kind,) = choose(arguments.contender)
    if arguments.first:
        print(json.dumps({"seconds": first_call(kind, scenario, arguments.workers)}), flush=True)
        return
    with opened(kind(arguments.workers)) as contender:
        calls(contender, scenario, arguments.rounds, wait=arguments.wait)


def calls(contender: Contender, scenario: Scenario, rounds: int, *, wait: bool) -> None:
    """The calls, one after the other; the last result is checked when all is measured."""
    if contender.name != "memcpy":
        # First of all: workers that start with the first call would count as the work's, or inherit the inputs.
        contender.map(abs, range(-8, 0))
    made = scenario.inputs()
    own = scenario.fresh(made)
    gc.collect()
    if wait:
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
    for turn in range(rounds):
        if turn:
            own = result = None  # what the round before held is no longer needed
            own = scenario.fresh(made)
        seconds, result = timed(contender, scenario, own)
    print(json.dumps({"seconds": seconds}), flush=True)
    contender.check(scenario, own, result)


if __name__ == "__main__":
    main()
