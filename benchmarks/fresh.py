"""One scenario by one contender in this interpreter: `python -m benchmarks.fresh SCENARIO CONTENDER [--rounds N]`.

Started by `measure` for first calls and by `memory`, each time as a new process. Prints one JSON line when the inputs
are made and the pool is open (`ready`), and one at the end with the seconds of the last call.
"""

from __future__ import annotations

import argparse
import json

from benchmarks.contenders import choose, opened, quiet_peers
from benchmarks.measure import call_once, first_call
from benchmarks.scenarios import Timing, by_name


def main() -> None:
    quiet_peers()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario")
    parser.add_argument("contender")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    scenario = by_name(arguments.scenario)
    (kind,) = choose(arguments.contender)
    if scenario.timing is Timing.FIRST_CALL:
        print(json.dumps({"seconds": first_call(kind, scenario)}), flush=True)
        return
    made = scenario.make()
    with opened(kind()) as contender:
        print(json.dumps({"ready": True}), flush=True)
        for _ in range(arguments.rounds):
            seconds = call_once(contender, scenario, made)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
