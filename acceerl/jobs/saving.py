"""What becomes of a learner's state: a checkpoint of the run, and from there a learner again."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acceerl.channels.collective import Collective, read_shards, shard_files
from acceerl.config import Config, to_dict
from acceerl.protocols import PolicySpec
from acceerl.roles.learner import Learner
from acceerl.runtime.rundir import Run
from acceerl.stores import checkpoint
from acceerl.stores.replay import Replay

if TYPE_CHECKING:
    from acceerl.channels.collective_shards import Files

log = logging.getLogger(__name__)
State = dict[str, Any]


class Saver:
    """Writes a learner's state as a checkpoint of the run, and frees spooled segments that no checkpoint names.

    Of a policy that ranks have divided, each rank writes its part beside training; rank 0 gives the checkpoint its name
    when all have written. `settle` waits for that.
    """

    def __init__(self, run: Run, config: Config, spec: PolicySpec, replay: Replay, collective: Collective) -> None:
        self.run, self.config, self.spec, self.replay, self.collective = run, config, spec, replay, collective
        self.files: Files | None = None
        self.beside = ThreadPoolExecutor(1, "saving")
        self.writing: Future[State] | None = None

    def __call__(self, state: State) -> None:
        whole = state | {"policy_spec": asdict(self.spec), "config": to_dict(self.config)}
        if "tensors" in state["trainer"]:
            self._begin(whole)
            return
        checkpoint.save(self.run.checkpoints, _step(whole), whole, self.config.learner.keep)
        self._free(whole)

    def busy(self) -> bool:
        """Is a checkpoint being written?"""
        return self.writing is not None and not self.writing.done()

    def settle(self) -> None:
        """Returns when what was begun is on disk. Raises OSError when it could not be written."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            state = writing.result()
            if self.collective.rank == 0:
                self._free(state)

    def _begin(self, state: State) -> None:
        self.settle()
        if self.files is None:
            self.files = shard_files()
        beside = self.run.checkpoints / f"ckpt-{_step(state):08d}.partial"
        if self.collective.rank == 0:
            checkpoint.begin(self.run.checkpoints, _step(state))
        self.collective.barrier()  # nobody writes before the folder is empty
        trainer = dict(state["trainer"])
        written = self.files.write(trainer.pop("tensors"), beside / checkpoint.DIVIDED)
        self.writing = self.beside.submit(self._finish, written, beside, state | {"trainer": trainer})

    def _finish(self, written: Future[Any], beside: Path, state: State) -> State:
        error = written.exception()
        if error is not None:
            raise OSError(f"{beside}: cannot be saved ({error}): free disk space and resume") from error
        if self.collective.rank == 0:
            checkpoint.finish(beside, _step(state), state, self.config.learner.keep)
        return state

    def _free(self, state: State) -> None:
        kept = [state["replay"], *checkpoint.each(self.run.checkpoints, "replay")]
        self.replay.retain([i for replay in kept for i in replay["ids"]], state["replay"]["logs"])


def resume(learner: Learner, path: Path, config: Config, collective: Collective) -> None:
    """Continues from a checkpoint of any number of ranks, however they held the policy."""
    state = checkpoint.load(path, spec=asdict(learner.trainer.policy.spec))
    _refuse_damaged(path, collective)
    if "moments" in state["trainer"]:
        state["trainer"]["read"] = partial(read_shards, folder=path / checkpoint.DIVIDED)
    learner.load(state, keep_replay=config.replay.on_resume == "keep")
    log.info("resumed from %s at update %d", path.name, learner.counters.updates)


def _refuse_damaged(path: Path, collective: Collective) -> None:
    """Ranks share the reading of large files."""
    damaged = [
        name for part in collective.gather(checkpoint.damaged(path, collective.rank, collective.size)) for name in part
    ]
    if damaged:
        raise ValueError(
            f"{path}: {damaged[0]} is damaged: its checksum differs: resume from an earlier ckpt-* beside it"
        )


def _step(state: State) -> int:
    return int(state["counters"]["updates"])
