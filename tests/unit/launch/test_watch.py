"""`acceerl watch` and `ps` over fabricated status files: what they show, how wide, and with which code they end."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from acceerl.config import from_dict
from acceerl.launch import watch as watching
from acceerl.launch.cli import main
from acceerl.launch.leader import whoami
from acceerl.launch.ps import ps
from acceerl.launch.watch import folded, watch
from acceerl.runtime.rundir import Run


def process(role, index=0, **changes):
    row = {"role": role, "index": index, "pid": 4242 + index, "host": "node1", "running": True, "state": "running",
           "restarts": 0, "age": 0.2, "rate": 10.0, "of": "env_steps", "waiting": {"inference": 0.36},
           "memory_mb": 377.0}  # fmt: skip
    return {**row, **changes}


PROCESSES = [
    process("learner", rate=0.934, of="updates", waiting={}, memory_mb=2449.0),
    process("inference", rate=412.3, of="decisions", waiting={"rollout": 0.62, "learner": 0.004}),
    process("rollout", 0, rate=1240.2, restarts=2),
    process("rollout", 1, state="restarting", running=False, pid=0, rate=None, waiting={}, memory_mb=None, age=None),
]


def status(**changes):
    whole = {
        "state": "running", "reason": "", "error": "", "attempt": 2, "began": time.time() - 3725,
        "supervisor": whoami(), "counters": {"updates": 12345, "env_steps": 9, "decisions": 8},
        "rates": {"updates": 0.93, "env_steps": 4960.0}, "success": 0.6234, "lag": 1.24,
        "last_checkpoint": "ckpt-00012300", "processes": PROCESSES,
    }  # fmt: skip
    return {**whole, **changes}


@pytest.fixture
def run(tmp_path):
    return Run.create(from_dict({"runs": str(tmp_path), "name": "blue"}))


def shown(run, written, width=120, **options):
    run.write_status(written)
    screen = Console(width=width, height=40, file=io.StringIO())
    code = watch(run.path, once=True, screen=screen, **options)
    return code, screen.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_says_everything(run, width):
    code, text = shown(run, status(), width)
    assert code == 0
    assert max(map(len, text.splitlines())) <= width
    for part in ("blue  running  attempt 2  1:02:0", "updates 12,345 (0.93/s)", "env steps 9 (4,960/s)",
                 "success in training 62.3 %", "policy lag 1.2", "last checkpoint ckpt-00012300", "0.93 upd.",
                 "412 dec.", "1,240 steps", "rollout 62%", "restarting", "2,449", "inference[0]"):  # fmt: skip
        assert part in text, part
    assert "learner 0%" not in text
    assert ("node1" in text) == (width == 120)


def test_a_narrow_table_names_hosts_when_they_differ(run):
    _, text = shown(run, status(processes=[process("learner"), process("rollout", host="node2")]), 80)
    assert "node1" in text
    assert "node2" in text


def test_a_lost_run_says_how_to_go_on_and_ends_with_1(run):
    code, text = shown(run, status(supervisor={**whoami(), "time": 1.0}))
    assert code == 1
    assert "blue  lost" in text
    assert f"acceerl train resume={run.path}" in text
    assert "running" not in text, "nobody knows what its processes do"


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("stopped", 75), ("failed", 1), ("running", 0), ("scoring", 0)]
)
def test_the_exit_code_tells_how_the_run_ended(run, state, code):
    assert shown(run, status(state=state, reason="because", error="it broke"))[0] == code


def test_reasons_and_errors_are_shown(run):
    _, text = shown(run, status(state="failed", reason="rollout[1] crashed again and again", error="no GL library"))
    assert "reason: rollout[1] crashed again and again" in text
    assert "error: no GL library" in text


def test_a_pipe_gets_table_after_table_until_the_run_ends(run, monkeypatch):
    written = iter([status(), status(), status(state="stopped")])
    monkeypatch.setattr(Run, "status", lambda self: next(written))
    screen = Console(width=120, file=io.StringIO())
    assert watch(run.path, every=0.01, screen=screen) == 75
    assert screen.file.getvalue().count("policy lag") == 3


def test_a_terminal_gets_a_live_table_until_the_run_ends(run, monkeypatch):
    written = iter([status(), status(state="done")])
    monkeypatch.setattr(Run, "status", lambda self: next(written))
    screen = Console(width=100, height=30, file=io.StringIO(), force_terminal=True)
    assert watch(run.path, every=0.01, screen=screen) == 0
    assert "done" in screen.file.getvalue()


def test_what_an_older_version_wrote_can_be_watched(run):
    old = [{"role": "learner", "index": 0, "pid": 7, "running": True, "restarts": 1}]
    _, text = shown(run, {"state": "done", "attempt": 1, "supervisor": whoami(), "counters": {}, "processes": old})
    assert "learner[0]" in text


def test_many_processes_share_rows_and_odd_ones_keep_theirs():
    rows = [process("rollout", i, restarts=1, age=float(i)) for i in range(50)]
    rows += [process("rollout", 50, state="starting"), process("learner")]
    assert len(folded(rows, limit=60)) == 52
    together, odd, alone = folded(rows, limit=20)
    assert (together["name"], together["rate"], together["restarts"], together["age"]) == (
        "rollout x 50",
        500.0,
        50,
        49.0,
    )
    assert together["waiting"]["inference"] == pytest.approx(0.36)
    assert (odd["name"], alone["name"]) == ("rollout[50]", "learner[0]")


def test_learner_ranks_that_share_a_row_make_one_update_together():
    rows = [process("learner", i, rate=0.9 + 0.01 * i, of="updates") for i in range(4)]
    [together] = folded(rows, limit=2)
    assert (together["name"], together["rate"]) == ("learner x 4", 0.93)


def test_nothing_to_watch_is_one_line(run, capsys):
    assert main(["watch", str(run.path)]) == 2
    assert "has no status.json: no training has begun there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "says"), [("once=yes", "choose true or false"), ("every=0", "give seconds"), ("n=1", "its keys: once")]
)
def test_wrong_options_are_refused(run, option, says, capsys):
    run.write_status(status())
    assert main(["watch", str(run.path), option]) == 2
    assert says in capsys.readouterr().err


def test_ps_lists_the_newest_first_with_every_state(tmp_path):
    owner = {**whoami(), "host": "node7"}
    written = {
        "old": status(state="done", supervisor={**owner, "time": time.time() - 90_000}),
        "dead": status(supervisor={**owner, "time": time.time() - 600}),
        "young": status(supervisor=whoami()),
    }
    for name, record in written.items():
        Run.create(from_dict({"runs": str(tmp_path), "name": name})).write_status(record)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "status.json").write_text("{")
    (tmp_path / "no_training").mkdir()
    screen = Console(width=120, file=io.StringIO())
    assert ps(tmp_path, screen) == 0
    header, *lines = screen.file.getvalue().splitlines()
    assert header.split() == ["run", "state", "updates", "success", "steps/s", "heard", "supervisor"]
    assert [line.split()[:2] for line in lines] == [
        ["young", "running"], ["dead", "lost"], ["old", "done"], ["broken", "unreadable"]]  # fmt: skip
    assert "4,960" in lines[0]
    assert "25.0 h" in lines[2]
    assert f"node7:{owner['pid']}" in lines[2]


def test_ps_takes_its_folder_as_a_word_or_a_key(tmp_path, capsys, monkeypatch):
    for arguments in (["ps", str(tmp_path)], ["ps", f"runs={tmp_path}"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"no trainings in {tmp_path}\n"
    assert main(["ps", "nowhere"]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_a_pipe_is_wide_enough_for_the_whole_table(monkeypatch):
    assert watching.best_console().width == watching.PIPE_WIDTH
