"""Drills that SIGKILL: random rollouts beside a learner that must not notice, each role in turn, the supervisor."""

from __future__ import annotations

import itertools
import random
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.e2e.drills.curves import Rates, gaps, success_break, update_times
from tests.e2e.drills.outcome import Outcome
from tests.e2e.drills.training import UP_S, Training
from tests.e2e.drills.whole import broken_files
from tests.e2e.running import events, status, updates, wait_for

# Deliberate kills look like a crash loop; its guard has tests of its own (tests/unit/launch).
NO_CRASH_LOOP = "supervisor.crash_limit=1000"
QUIET = 3.0  # heartbeat and status.json are this late at most, in seconds
STALL_S = 30.0  # no machine is so slow that a living training makes no update for so long
GONE_S = 30.0  # after the supervisor's death nothing may run for longer


def rollouts(
    folder: Path, minutes: float = 5.0, every: float = 15.0, world: str = "tabletop", seed: int = 0
) -> Outcome:
    """SIGKILLs a random rollout every `every` seconds: does the learner go on, and how soon is the throughput back?"""
    outcome, draw = Outcome("rollouts"), random.Random(seed)
    with Training(folder, world, NO_CRASH_LOOP) as training:
        training.up(3)
        began = time.time()
        time.sleep(2 * every)  # what the throughput is compared with
        kills = [kill_and_wait(training, draw, every) for _ in range(max(1, round(minutes * 60 / every)))]
        ended = time.time()
        outcome.check("the learner never restarts", training.restarts("learner") == 0)
        outcome.check("the training goes on and ends with 0", training.finish() == 0)
        outcome.nothing("nothing is left running", [str(p) for p in training.strays()])
        outcome.nothing("no file is broken", broken_files(training.run))
        updates_go_on(outcome, update_times(training.run), began, ended)
        throughput_returns(outcome, training.samples, began, kills, ended)
    return outcome


def kill_and_wait(training: Training, draw: random.Random, every: float) -> tuple[float, float]:
    """Kills one rollout and lets the period pass. Returns when it was killed and when its next life was there."""
    index = draw.randrange(len([row for row in status(training.run)["processes"] if row["role"] == "rollout"]))
    before = training.restarts("rollout", index)
    killed = training.kill("rollout", index)
    training.replaced("rollout", index, before)
    back = time.time()
    time.sleep(max(0.0, killed + every - back))
    return killed, back


def updates_go_on(outcome: Outcome, times: list[float], began: float, ended: float) -> None:
    measured = gaps(times, began, ended)
    outcome.figures |= {"updates": sum(began < t < ended for t in times), **measured}
    outcome.figures["longest_over_median"] = measured["longest_gap_s"] / measured["median_gap_s"]
    outcome.check(f"the learner never stands still for {STALL_S:g} s", measured["longest_gap_s"] < STALL_S)
    outcome.check(
        "the longest gap between updates is at most 3 times the median",
        measured["longest_gap_s"] <= 3 * measured["median_gap_s"],
        timed=True,
    )


def throughput_returns(
    outcome: Outcome, samples: list[tuple[float, Any]], began: float, kills: list[tuple[float, float]], ended: float,
    within: float = 10.0,
) -> None:  # fmt: skip
    """Decisions per second over 4 s, against the median before the first kill."""
    rates = Rates.of([t for t, _ in samples], [s["counters"]["decisions"] for _, s in samples])
    before = rates.between(began, kills[0][0] - 4.0)
    usual = median(before)
    untils = [killed for killed, _ in kills[1:]] + [ended]
    waits = [rates.back_after(back, 0.9 * usual, until) for (_, back), until in zip(kills, untils, strict=True)]
    known = [wait for wait in waits if wait is not None]
    outcome.figures |= {
        "kills": len(kills),
        "decisions_per_s_before": usual,
        "decisions_per_s_during": float(median(rates.between(kills[0][0], ended))),
        "share_of_spans_below_90_before": float((before < 0.9 * usual).mean()),
        "restart_median_s": median(back - killed for killed, back in kills),
        "restart_longest_s": max(back - killed for killed, back in kills),
        "back_median_s": median(known) if known else None,
        "back_longest_s": max(known, default=None) if len(known) == len(waits) else None,
        "kills_without_return": len(waits) - len(known),
    }
    outcome.check(
        f"after every restart the throughput is back (>= 90 % of the median before) within {within:g} s",
        len(known) == len(waits) and max(known) <= within,
        timed=True,
    )


def each_role(
    folder: Path, kills: int = 20, minutes: float = 10.0, evaluators: int = 1, seed: int = 0, save: float = 10.0
) -> Outcome:
    """SIGKILLs the roles in turn at random moments of one run: does it go on, and is everything whole afterwards?"""
    outcome, draw = Outcome("each_role"), random.Random(seed)
    overrides = [NO_CRASH_LOOP, f"evaluator.processes={evaluators}", "evaluator.episodes=20", "evaluator.envs=4"]
    with Training(folder, "tabletop", *overrides, f"learner.checkpoint_every={save}") as training:
        training.up(3)
        wait_for("a checkpoint", training.saved)
        moments = sorted(draw.uniform(0, 60 * minutes) for _ in range(kills))
        done = _kill_in_turn(training, moments, draw)
        training.up(3)
        _counters_stayed(outcome, training)
        outcome.check("the training goes on, resumes and ends with 0", training.finish() == 0)
        outcome.check("its state is done", status(training.run)["state"] == "done")
        outcome.nothing("nothing is left running", [str(p) for p in training.strays()])
        outcome.nothing("no file is broken", broken_files(training.run))
        worst = success_break(training.run, [time for time, _, _ in done])
    outcome.figures |= {"kills": len(done), "worst_success_fall_in_standard_errors": worst}
    outcome.figures |= {f"kills_of_{role}": sum(r == role for _, r, _ in done) for role in {r for _, r, _ in done}}
    outcome.check("the success curve continues (no fall of 4 standard errors over a kill)", worst < 4)
    return outcome


def _kill_in_turn(training: Training, moments: list[float], draw: random.Random) -> list[tuple[float, str, int]]:
    began, done = time.time(), []
    rows = status(training.run)["processes"]
    roles = itertools.cycle(dict.fromkeys(row["role"] for row in rows))
    for moment, role in zip(moments, roles, strict=False):
        time.sleep(max(0.0, began + moment - time.time()))
        index = draw.randrange(sum(row["role"] == role for row in rows))
        done.append((training.kill(role, index), role, index))
    return done


def _counters_stayed(outcome: Outcome, training: Training) -> None:
    """Steps and decisions never fall; updates never fall below a checkpoint that was there `QUIET` seconds before."""
    samples = training.samples
    for name in ("env_steps", "decisions"):
        values = [s["counters"][name] for _, s in samples]
        outcome.check(f"the counter {name} never goes back", values == sorted(values))
    saved = [(e["time"], e["updates"]) for e in training.checkpoints()]
    behind = [
        f"at {when:.1f}: {s['counters']['updates']} updates, {floor} were saved before"
        for when, s in samples
        if s["counters"]["updates"] < (floor := max((u for t, u in saved if t < when - QUIET), default=0))
    ]
    outcome.nothing("updates never go back beyond the last checkpoint", behind)


def supervisor(folder: Path, world: str = "latency") -> Outcome:
    """SIGKILLs the supervisor: does everything end within 30 s, and does the run resume where it was saved?"""
    outcome = Outcome("supervisor")
    with Training(folder, world) as training:
        training.up(3)
        saved = int(wait_for("a checkpoint", training.saved))
        training.job.send_signal(signal.SIGKILL)
        training.job.wait()
        killed = time.monotonic()
        _wait_gone(training, killed)
        outcome.figures["gone_after_s"] = time.monotonic() - killed
        outcome.nothing("nothing is left running after 30 s", [str(p) for p in training.strays()])
        saved, told = training.saved(), updates(training.run)
        training.resume()
        training.up()
        wait_for("updates beyond the checkpoint", lambda: updates(training.run) > saved, UP_S)
        counted = [s["counters"]["updates"] for _, s in training.samples if s["attempt"] == 2]
        outcome.check("the resumed run counts on from what status.json said", min(counted) >= told)
        again = len(events(training.run, "learner", "first_update")) - 1
        outcome.figures |= {"updates_saved": saved, "updates_when_killed": told, "updates_after": updates(training.run)}
        outcome.check("the learner did not begin again", again == 0)
        outcome.check("it ends with 0", training.finish() == 0)
        outcome.nothing("no file is broken", broken_files(training.run))
    return outcome


def _wait_gone(training: Training, killed: float) -> None:
    while training.strays() and time.monotonic() < killed + GONE_S:
        time.sleep(0.5)
