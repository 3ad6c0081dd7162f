"""The same program on both pools, step by step, with a user and workers who write to all they have: every answer must be equal.

    ARROWPOOL_ORACLE_SECONDS=600 python -m pytest -n 0 tests/trials/test_oracle.py

A failure prints its seed (`ARROWPOOL_ORACLE_SEED` repeats it) and the shortest program found that goes wrong. Only what is deterministic
with the standard library's pool is compared: what a user writes to is either taken already, or the standard library takes
it at a moment that is known (an item of a generator, when it is asked for).
"""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import pickle
import random
import signal
import time

import pytest

import arrowpool
from arrowpool import WorkerLostError
from arrowpool.memory import facilities
from tests.trials import child, hostile, programs
from tests.trials.programs import HOWS, JOBS, KINDS, PLACES, SIZES, Cloud, Holder, closure_over, portrait

SECONDS = float(os.environ.get("ARROWPOOL_ORACLE_SECONDS", "10"))
SEED = int(os.environ.get("ARROWPOOL_ORACLE_SEED", random.SystemRandom().randrange(1 << 32)))
STEPS = 40
LIMIT = 30
SHRINK_SECONDS = 60
#: Both have so many workers.
WORKERS = 2
_SLOTS_AT_MOST = 12
_PORTRAIT_AT_MOST = 1_500

#: Instead of a slot: what the function has captured.
CAPTURED = -1
FORMS = ("plain", "partial", "method", "closure", "callable")
CALLS = ("apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")


class Slot(int):
    """In a recipe: the value with this number."""

    def __repr__(self):
        return f"Slot({int(self)})"


def numbered(function, pair):
    """For answers that come in any order."""
    return pair[0], function(pair[1])


class World:
    """A user with a pool, and all that the user has."""

    def __init__(self, pool, *, ours):
        self.pool = pool
        self.ours = ours
        self.values = [programs.make("floats", "tiny", 0)]
        self.kept = []
        #: What the function of the last call has captured.
        self.captured = None
        #: What was shared, and how it was then: ours knows that itself.
        self.shared = []
        self.leaving = []

    def value(self, slot, *, as_it_was=False):
        """What a call is given for that slot; or, of what is shared, the copy of then."""
        obj = self.values[slot % len(self.values)]
        return self.then(obj) if as_it_was or not self.ours else obj

    def then(self, obj):
        """How an object was when it was shared last; itself if it is not."""
        return next((then for shared, then in reversed(self.shared) if shared is obj), obj)

    def compose(self, recipe):
        if isinstance(recipe, Slot):
            return self.value(recipe)
        if isinstance(recipe, dict):
            return {key: self.compose(item) for key, item in recipe.items()}
        if isinstance(recipe, (list, tuple)):
            return type(recipe)(self.compose(item) for item in recipe)
        return recipe

    def function(self, job, form, captured):
        run = JOBS[job]
        self.captured = None
        if form == "plain":
            return run
        state = self.value(captured)
        # Of what is shared, the user's own, whose changes no call sees.
        self.captured = self.values[captured % len(self.values)]
        if form == "closure":
            # One that is in no argument: cloudpickle knows nothing of the pickle that it is in.
            state = pickle.loads(pickle.dumps(self.value(captured, as_it_was=True), 4))
            self.captured = state
        if form == "partial":
            return functools.partial(run, state)
        if form == "closure":
            closure = closure_over(run, state)
            return closure if self.ours else Cloud(closure)
        holder = Holder(state)
        if form == "method":
            return {"give": holder.give, "scribble_all": holder.scribble}.get(job, holder.look)
        return holder

    def change(self, slot, place, value):
        obj = self.captured if slot == CAPTURED else self.values[slot % len(self.values)]
        for shared, then in self.shared:
            if obj is then:  # the copy of then stands for what calls are sent; the user has the object
                obj = shared
        programs.change(obj, place, value)

    # Calls

    def call(self, method, function, items, chunksize):
        """The answers of a call, a list; or the exception."""
        pool = self.pool
        try:
            if method == "apply":
                return [pool.apply(function, tuple(items))]
            if method == "apply_async":
                results = [pool.apply_async(function, (item,)) for item in items]
                return [result.get(LIMIT) for result in reversed(results)]
            if method == "map":
                return pool.map(function, items, chunksize)
            if method == "map_async":
                return pool.map_async(function, items, chunksize).get(LIMIT)
            if method.startswith("starmap"):
                pairs = [(item, items[0]) for item in items]
                if method == "starmap":
                    return pool.starmap(function, pairs, chunksize)
                return pool.starmap_async(function, pairs, chunksize).get(LIMIT)
            return self.iterate(method, function, items, chunksize or 1)
        except ValueError as error:
            # Of several errors in a list's chunks, whichever comes first.
            return [str(type(error)) if "map" in method else error]

    def iterate(self, method, function, items, chunksize, written=None):
        """All answers of an iterator; each is written to as it comes, after it was looked at."""
        if method == "imap_unordered":
            function = functools.partial(numbered, function)
            items = enumerate(items)
        iterator = getattr(self.pool, method)(function, items, chunksize)
        answers = []
        while True:
            try:
                answer = next(iterator)
            except StopIteration:
                break
            except ValueError as error:
                answer = str(type(error)) if method == "imap_unordered" else error
            # An error carries no number, and is like any other.
            number = answer[0] if method == "imap_unordered" and not isinstance(answer, str) else -1
            answers.append((number, portrait(answer) if written is not None else answer))
            if written is not None:
                programs.change(answer, "all", written)
        if method == "imap_unordered":
            answers.sort(key=lambda numbered: numbered[0])
        return [answer for _, answer in answers]

    def generated(self, plan, recipe):
        """Items of a generator that writes to what the user has before it gives each."""
        for slot, place, value in plan:
            self.change(slot, place, value)
            yield self.compose(recipe)

    def leave(self):
        for manager in reversed(self.leaving):
            manager.__exit__(None, None, None)
        self.leaving.clear()
        self.shared.clear()


class Both:
    """The two worlds, and what may happen in them: every method that is a step of a program."""

    def __init__(self, theirs, ours):
        self.worlds = [World(theirs, ours=False), World(ours, ours=True)]
        self.pending = []
        self.children = []

    def both(self, act):
        """Let the same happen in both; what is answered must be equal."""
        theirs, ours = (act(world) for world in self.worlds)
        expected, got = portrait(theirs), portrait(ours)
        compare(got, expected)
        return theirs, ours

    def store(self, answers):
        """Some of what came is used further on."""
        for world, answer in zip(self.worlds, answers, strict=True):
            values = [one for one in answer if not isinstance(one, (BaseException, int, str, type(None)))]
            # What goes into one call after the other would otherwise become ever deeper.
            world.values += [one for one in values[-2:] if len(repr(portrait(one))) < _PORTRAIT_AT_MOST]
            del world.values[_SLOTS_AT_MOST:]

    def make(self, kind, size, seed):
        for world in self.worlds:
            world.values.append(programs.make(kind, size, seed))
        if len(self.worlds[0].values) > _SLOTS_AT_MOST and not self.worlds[0].shared:
            for world in self.worlds:
                del world.values[0]

    def derive(self, slot, how):
        for world in self.worlds:
            world.values.append(programs.derive(world.values[slot % len(world.values)], how))

    def change(self, slot, place, value):
        for world in self.worlds:
            world.change(slot, place, value)

    def call(self, method, job, form, captured, items, chunksize):
        self.store(
            self.both(
                lambda world: world.call(method, world.function(job, form, captured), world.compose(items), chunksize)
            )
        )

    def generate(self, method, job, form, captured, recipe, plan, chunksize, written):
        """Items are written to before each is given, what is captured too; and answers when they have come."""
        answers = self.both(
            lambda world: world.iterate(
                method, world.function(job, form, captured), world.generated(plan, recipe), chunksize, written
            )
        )
        if written is None:
            self.store(answers)

    def windows(self, slot, width, job, chunksize):
        """Windows that overlap."""

        def act(world):
            # Also of what is shared: a slice of it is another object, in the state that it has now.
            obj = world.values[slot % len(world.values)]
            whole = (
                obj if hasattr(obj, "iloc") or getattr(obj, "ndim", 0) == 1 else programs.make("floats", "large", slot)
            )
            step = max(1, width // 3)
            rows = whole.iloc if hasattr(whole, "iloc") else whole
            return world.call("map", JOBS[job], [rows[at : at + width] for at in range(0, 6 * step, step)], chunksize)

        self.store(self.both(act))

    def several_at_once(self, job, form, captured, recipe, plan):
        """Small arguments of `apply_async` are taken at once: what is written afterwards is not seen."""

        def act(world):
            results = []
            for slot, place, value in plan:
                function, args = world.function(job, form, captured), (world.compose(recipe),)
                if not world.ours:
                    function, args = pickle.loads(pickle.dumps((function, args)))
                results.append(world.pool.apply_async(function, args))
                world.change(slot, place, value)
            answers = []
            for result in results:
                try:
                    answers.append(result.get(LIMIT))
                except ValueError as error:
                    answers.append(error)
            return answers

        world = self.worlds[0]
        if len(pickle.dumps((world.value(captured), world.compose(recipe)))) < 8_000:
            self.both(act)

    # Sharing

    def share(self, slot):
        for world in self.worlds:
            obj = world.values[slot % len(world.values)]
            if isinstance(obj, (list, dict, tuple, str, bytes, bytearray, Holder, set)) or obj is None:
                return
            then = pickle.loads(pickle.dumps(obj, 4))
            if world.ours:
                manager = world.pool.share(obj)
                manager.__enter__()
                world.leaving.append(manager)
            world.shared.append((obj, then))

    def call_about_what_is_shared(self, jobs):
        """Its answers are asked for later, maybe after the block; what was shared may be written to meanwhile."""
        if not self.worlds[0].shared:
            return
        results = []
        for world in self.worlds:
            items = [obj if world.ours else world.then(obj) for obj, _ in world.shared]
            pending = [world.pool.map_async(JOBS[job], items, 1) for job in jobs]
            results.append(pending if world.ours else [portrait(one.get(LIMIT)) for one in pending])
        self.pending.append(results)

    def ask(self):
        if self.pending:
            theirs, ours = self.pending.pop()
            for expected, result in zip(theirs, ours, strict=True):
                compare(portrait(result.get(LIMIT)), expected)

    def unshare(self):
        for world in self.worlds:
            world.leave()

    # What is kept

    def keep(self, slot):
        for world in self.worlds:
            kept = world.pool.apply(JOBS["give"], (world.value(slot),))
            del world.kept[:-5]
            world.kept.append((kept, portrait(kept)))

    def look_at_what_is_kept(self):
        for world in self.worlds:
            for kept, then in world.kept:
                assert portrait(kept) == then, "what was kept here has changed"

    def look_at_what_workers_keep(self):
        for world in self.worlds:
            assert set(world.pool.map(JOBS["check"], range(8), 1)) == {0}, "what a worker kept has changed"

    def collect(self):
        gc.collect()

    def fork(self):
        """A child that sees all that the user has, for as long as the program goes on."""
        if len(self.children) > 2:
            return self.end_child()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                before = [portrait(world.values) for world in self.worlds]
                os.read(reader, 1)
                status = 0 if before == [portrait(world.values) for world in self.worlds] else 3
            finally:
                os._exit(status)
        os.close(reader)
        self.children.append((child, writer))
        return None

    def end_child(self):
        if self.children:
            child, writer = self.children.pop(0)
            os.write(writer, b"!")  # not only closed: workers that were forked since have it, too
            os.close(writer)
            _, status = os.waitpid(child, 0)
            assert status == 0, "what a child saw has changed"

    def kill(self):
        """A worker is replaced."""
        pool = self.worlds[1].pool
        if self.pending or not pool._task_handler.workers:
            return
        os.kill(pool._task_handler.workers[0].process.pid, signal.SIGKILL)
        for _ in range(3):
            try:
                assert pool.map_async(JOBS["check"], range(2), 1).get(LIMIT) == [0, 0]
            except WorkerLostError:
                continue
            return

    def end(self):
        while self.pending:
            self.ask()
        while self.children:
            self.end_child()
        self.look_at_what_is_kept()
        self.look_at_what_workers_keep()
        for world in self.worlds:
            world.leave()


def compare(got, expected):
    """Fail with the first place where two portraits differ, and how one comes there."""
    if got == expected:
        return
    way = []
    while type(got) is type(expected) and isinstance(got, (list, tuple)) and len(got) == len(expected):
        at = next((i for i, pair in enumerate(zip(got, expected, strict=True)) if pair[0] != pair[1]), None)
        if at is None:
            break
        way.append(at)
        got, expected = got[at], expected[at]
    raise AssertionError(f"at {way}: got {str(got)[:500]}, expected {str(expected)[:500]}")


# Programs


class Author:
    """Writes programs, at random: lists of steps, each a name and its arguments."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def program(self, length):
        steps = [self.make() for _ in range(3)]
        weights = {
            self.make: 2,
            self.derive: 1,
            self.change: 3,
            self.call: 8,
            self.generate: 5,
            self.windows: 1,
            self.several_at_once: 2,
            self.share: 2,
            self.call_about_what_is_shared: 2,
            self.keep: 1,
        }
        plain = ("ask", "unshare", "look_at_what_is_kept", "look_at_what_workers_keep", "collect", "fork", "end_child")
        weights |= {functools.partial(self.plain, name): 1 for name in plain} | {
            functools.partial(self.plain, "kill"): 0.3
        }
        for write in self.rng.choices(list(weights), list(weights.values()), k=length):
            steps.append(write())
        return steps

    def plain(self, name):
        return name, {}

    def slot(self):
        return self.rng.randrange(_SLOTS_AT_MOST)

    def form(self):
        return self.rng.choice([*FORMS, "plain", "plain"])

    def job(self):
        return self.rng.choice(sorted(JOBS))

    def job_in_chunks(self):
        """For an iterator: in chunks, it ends with the first error, while the rest of the items is still taken."""
        return self.rng.choice(sorted(set(JOBS) - {"fail"}))

    def recipe(self, depth=2):
        kind = self.rng.choice(["slot", "slot", "list", "pair", "dict"]) if depth else "slot"
        if kind == "slot":
            return Slot(self.slot())
        inner = [self.recipe(depth - 1) for _ in range(self.rng.randrange(1, 4))]
        if kind == "list":
            return inner
        return tuple(inner) if kind == "pair" else dict(zip("abc", inner, strict=False))

    def plan(self, longest):
        count = self.rng.randrange(1, longest)
        # Mostly the same thing again and again, as a buffer is used.
        slots = [self.rng.choice([CAPTURED, self.slot(), self.slot()])] * count
        if self.rng.random() < 0.3:
            slots = [self.slot() for _ in range(count)]
        return [(slot, self.rng.choice(PLACES), self.rng.randrange(200)) for slot in slots]

    def make(self):
        kind, size = self.rng.choice(sorted(KINDS)), self.rng.choice(sorted(SIZES))
        return "make", {"kind": kind, "size": size, "seed": self.rng.randrange(200)}

    def derive(self):
        return "derive", {"slot": self.slot(), "how": self.rng.choice(HOWS)}

    def change(self):
        return "change", {"slot": self.slot(), "place": self.rng.choice(PLACES), "value": self.rng.randrange(200)}

    def call(self):
        method, chunksize = self.rng.choice(CALLS), self.rng.choice([None, 1, 2, 5])
        return "call", {
            "method": method,
            "job": self.job_in_chunks() if method.startswith("imap") and chunksize != 1 else self.job(),
            "form": self.form(),
            "captured": self.slot(),
            "items": [self.recipe() for _ in range(self.rng.randrange(1, 6))],
            "chunksize": chunksize,
        }

    def generate(self):
        chunksize = self.rng.choice([1, 1, 1, 2, 3])
        return "generate", {
            "method": self.rng.choice(["imap", "imap_unordered"]),
            "job": self.job() if chunksize == 1 else self.job_in_chunks(),
            "form": self.form(),
            "captured": self.slot(),
            "recipe": self.recipe(1),
            "plan": self.plan(9),
            "chunksize": chunksize,
            "written": self.rng.choice([None, 5]),
        }

    def windows(self):
        width = self.rng.choice([3, 50, 5_000])
        return "windows", {
            "slot": self.slot(),
            "width": width,
            "job": self.job(),
            "chunksize": self.rng.choice([None, 1]),
        }

    def several_at_once(self):
        return "several_at_once", {
            "job": self.job(),
            "form": self.rng.choice(["plain", "partial", "method"]),
            "captured": self.slot(),
            "recipe": self.recipe(1),
            "plan": self.plan(6),
        }

    def share(self):
        return "share", {"slot": self.slot()}

    def call_about_what_is_shared(self):
        jobs = [self.rng.choice(["look", "scribble_all", "keep", "give"]) for _ in range(self.rng.randrange(1, 6))]
        return "call_about_what_is_shared", {"jobs": jobs}

    def keep(self):
        return "keep", {"slot": self.slot()}


def carry_out(program, without):
    """Run a program in both worlds, on a system without this; raise where they differ. In a child."""
    hostile.do_without(without)
    pools = [context.get_context("fork").Pool(WORKERS) for context in (multiprocessing, arrowpool)]
    run_steps(program, *pools)
    for pool in pools:
        pool.terminate()
        pool.join()


def run_steps(program, theirs, ours):
    """Run a program on both pools; raise where their answers differ."""
    both = Both(theirs, ours)
    for number, (name, arguments) in enumerate(program):
        try:
            getattr(both, name)(**arguments)
        except BaseException as error:
            raise AssertionError(f"step {number}, {name}: {error}") from error
    both.end()


def fails(program, without):
    """What goes wrong with a program; None if nothing does."""
    outcome = child.run(carry_out, program, without, limit=LIMIT)
    return None if outcome.wrong is None else f"{outcome.wrong}\n{outcome.said}"


def spelled(program):
    return "\n".join(f"    {step!r}," for step in program)


def shrink(program, without, until):
    """A shorter program that goes wrong, too: without one piece after the other, in ever smaller pieces."""
    size = len(program) // 2
    while size and time.monotonic() < until:
        at = len(program)
        while at > 0 and time.monotonic() < until:
            at -= size
            shorter = program[: max(at, 0)] + program[at + size :]
            if any(fails(shorter, without) for _ in range(2)):
                program = shorter
        size //= 2
    return program


# pandas before 3 warns of writes to rows of another frame; to write to them is the point here.
@pytest.mark.filterwarnings(r"ignore:\s*A value is trying to be set on a copy of a slice")
@pytest.mark.timeout(SECONDS + SHRINK_SECONDS + 3 * LIMIT + 60)
def test_every_answer_is_that_of_the_standard_librarys_pool():
    print(f"ARROWPOOL_ORACLE_SEED={SEED}")
    until = time.monotonic() + SECONDS
    rng = random.Random(SEED)
    count = 0
    while not count or time.monotonic() < until:
        program = Author(rng.randrange(1 << 32)).program(STEPS)
        # Half of the time on a system that has all.
        names = sorted(facilities.NAMES)
        without = ",".join(rng.choice([[], [], names, rng.sample(names, 3)]))
        wrong = fails(program, without)
        count += 1
        if wrong is not None:
            told = f"program {count} of seed {SEED}, ARROWPOOL_WITHOUT={without}"
            if fails(program, without) is None:
                pytest.fail(f"{told}, once: {wrong}\n{spelled(program)}", pytrace=False)
            short = shrink(program, without, time.monotonic() + SHRINK_SECONDS)
            pytest.fail(
                f"{told}: {wrong}\nis also wrong, for {fails(short, without)}:\n{spelled(short)}",
                pytrace=False,
            )
    print(f"{count} programs of {STEPS} steps")
