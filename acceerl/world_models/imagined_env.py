"""One dream behind the Env protocol: the same verbs, step by step, as a real environment's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from acceerl.protocols import History
from acceerl.types import EnvSpec, Observation, StepResult
from acceerl.world_models.imagined import Imagination, Start
from acceerl.world_models.windows import advanced


class ImaginedEnv:
    """`starts[task]` are the contexts that a task's episodes begin with; of each task the last `held_out` evaluate.

    Every task has as many training states as the richest one: state i is its context i modulo their number. The step
    limit counts from the real episode's beginning, so a dream that begins later is shorter. Success is judged at the
    end of a tick of the world model; between two, `observe` predicts what would be seen. Luck, and noise where the
    world model has some, follow from the seed and the steps played, so that looking changes nothing.
    Raises ValueError when a task has no context left to train on.
    """

    def __init__(self, imagination: Imagination, starts: Sequence[Sequence[Start]], held_out: int = 1) -> None:
        _check(starts, imagination.spec, held_out)
        self.imagination, self.starts, self.held_out = imagination, starts, held_out
        most, world = max(len(contexts) for contexts in starts) - held_out, imagination.world.spec
        self._spec = replace(
            imagination.spec, cameras=world.cameras, proprio=world.proprio, train_states=range(most),
            eval_states=range(most, most + held_out),
        )  # fmt: skip
        self._pending: list[np.ndarray] = []
        self._task = self._seed = 0

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    @property
    def success(self) -> bool:
        return bool(self.imagination.succeeded.any())  # none before the first reset

    def reset(self, task: int, init_state: int, seed: int) -> None:
        """Begins a dream; `seed` decides the noise of world models that have some."""
        if task not in range(len(self.starts)):
            raise ValueError(f"imagined env: task {task} is not in 0..{len(self.starts) - 1}")
        if init_state not in range(self._spec.eval_states.stop):
            raise ValueError(f"imagined env: init_state {init_state} is not in 0..{self._spec.eval_states.stop - 1}")
        self._task, self._seed, self._pending = task, seed, []
        self.imagination.reset([self._start(task, init_state)])

    def step(self, action: np.ndarray) -> StepResult:
        """One control step; the reward comes with the tick that it completes. A dream that is over stays as it is."""
        dream = self.imagination
        if dream.over[0]:
            return StepResult(0.0, self.success, not self.success)
        before = dream.probability
        self._pending.append(np.clip(np.asarray(action, np.float32), -1, 1))
        if len(self._pending) == dream.stride or self._steps_taken() >= dream.limits[0]:
            self._draw_anew()
            dream.tick(self._padded()[None])
            self._pending = []
        reward = float(dream.earned(before, dream.probability, dream.succeeded)[0])
        return StepResult(reward, self.success, bool(dream.over[0]) and not self.success)

    def observe(self) -> Observation:
        past = self._now()
        images = {c: frames[0, -1].cpu().numpy().copy() for c, frames in past.images.items()}
        return Observation(images, past.proprio[0, -1].cpu().numpy().copy(), self.imagination.instructions[0])

    def state(self) -> np.ndarray:
        """The context, the open tick's actions, the seed and how far the dream is, float64 [n]."""
        dream, spec = self.imagination, self.imagination.world.spec
        pending = np.zeros((spec.stride, spec.action_dim))
        pending[: len(self._pending)] = self._pending or pending[:0]
        facts = [self._task, self._seed, dream.steps[0], dream.over[0], dream.succeeded[0], dream.probability[0],
                 len(self._pending)]  # fmt: skip
        past = (*dream.past.images.values(), dream.past.proprio, dream.past.actions)
        return np.concatenate([facts, pending.ravel(), *(x.cpu().numpy().ravel() for x in past)]).astype(np.float64)

    def set_state(self, state: np.ndarray) -> None:
        """Restores what `state` returned, on this env or another of the same models and tasks."""
        dream, spec = self.imagination, self.imagination.world.spec
        task, seed, steps, over, succeeded, probability, pending = state[:7]
        self._task, self._seed = int(task), int(seed)
        dream.reset([self.starts[self._task][0]])
        places = iter(np.split(state[7:], np.cumsum([spec.stride * spec.action_dim, *_sizes(dream.past)])[:-1]))
        self._pending = list(next(places).reshape(spec.stride, -1)[: int(pending)].astype(np.float32))
        images = {c: _like(next(places), frames) for c, frames in dream.past.images.items()}
        dream.past = History(images, _like(next(places), dream.past.proprio), _like(next(places), dream.past.actions))
        dream.steps[:], dream.over[:], dream.succeeded[:] = int(steps), bool(over), bool(succeeded)
        dream.probability[:] = probability

    def close(self) -> None:
        """Nothing is held."""

    def _start(self, task: int, init_state: int) -> Start:
        """Evaluation states are a task's own last contexts, which no training state is."""
        contexts, first = self.starts[task], self._spec.eval_states.start
        train = len(contexts) - self.held_out
        return contexts[train + init_state - first if init_state >= first else init_state % train]

    def _steps_taken(self) -> int:
        return int(self.imagination.steps[0]) + len(self._pending)

    def _padded(self) -> np.ndarray:
        """The tick's actions so far, [S, D]; the rest is not executed."""
        stride = self.imagination.stride
        return np.stack(self._pending + [self._pending[-1]] * (stride - len(self._pending)))

    def _now(self) -> History:
        """The past, with a frame predicted for the middle of a tick."""
        dream = self.imagination
        if not self._pending:
            return dream.past
        actions = torch.from_numpy(self._padded()[None]).to(dream.device)
        executed = torch.tensor([len(self._pending)], device=dream.device)
        self._draw_anew()
        return advanced(dream.past, actions, *dream.world.predict(dream.past, actions, executed, dream.drawn()))

    def _draw_anew(self) -> None:
        """Luck stays the same through a tick."""
        self.imagination.rng = np.random.default_rng((self._seed, int(self.imagination.steps[0])))
        reseed = getattr(self.imagination.world, "seed", None)
        if reseed is not None:
            numbers = np.random.SeedSequence((self._seed, self._steps_taken()))
            reseed(int(numbers.generate_state(1)[0]))


def _check(starts: Sequence[Sequence[Start]], spec: EnvSpec, held_out: int) -> None:
    if held_out < 1 or len(starts) != spec.n_tasks or min(map(len, starts)) <= held_out:
        counts = ", ".join(str(len(contexts)) for contexts in starts)
        raise ValueError(
            f"imagined env: {spec.n_tasks} tasks with ({counts}) contexts, {held_out} of each held out: hold out "
            "at least one, and give every task one more than those"
        )
    for task, contexts in enumerate(starts):
        assert all(start.assignment.task == task for start in contexts), f"a context of another task than {task}"


def _sizes(past: History) -> list[int]:
    return [*(frames.numel() for frames in past.images.values()), past.proprio.numel(), past.actions.numel()]


def _like(values: np.ndarray, tensor: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(values).to(tensor.dtype).reshape(tensor.shape).to(tensor.device)
