"""One MPI_COMM_WORLD in place of ports: who is which rank, and connections inside it. Read meeting.py first.

For sites where ports cannot work: all processes of a training are started by one `srun` (or mpiexec), with the site's
own MPI and fabric. Connections come about by the same knock and `come`, but what follows is no call of MPI: both
sides take the pair of ranks for their own. A pair of ranks can be taken once, since nothing tells late messages of a
first conversation from those of a second: whoever loses a living peer ends its process, and the world starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acceerl.channels.control import ControlPlane, Heard
from acceerl.channels.links import Peer
from acceerl.channels.meeting import Key, Meetings
from acceerl.channels.mpi_library import Misfit


class Lane:
    """The part of an intercommunicator that connections use, between this rank and another one of the world."""

    def __init__(self, world: Any, rank: int) -> None:
        self._world, self._rank = world, rank

    def Isend(self, buffer: Any, _dest: int, tag: int) -> Any:
        return self._world.Isend(buffer, self._rank, tag)

    def Irecv(self, buffer: Any, _source: int, tag: int) -> Any:
        return self._world.Irecv(buffer, self._rank, tag)

    def Iprobe(self, _source: int, tag: int) -> bool:
        return bool(self._world.Iprobe(self._rank, tag))

    def Free(self) -> None:
        """The pair of ranks stays taken."""


class WorldMeetings(Meetings):
    """All meetings of one rank; `size` is how many processes the training has.

    Collective: every rank of the world must make one. Raises Misfit for a world of another size, as where
    srun and MPI do not speak the same PMI and every process believes to be alone.
    """

    def __init__(
        self, mpi: Any, registry: ControlPlane, beat: Callable[[], None],
        talks_to: Callable[[str, int], bool], adopt: Callable[[Any, Peer | None], None], size: int,
    ) -> None:  # fmt: skip
        super().__init__(mpi, registry, beat, talks_to, adopt)
        self.world = mpi.COMM_WORLD
        refuse_other_size(self.world.size, size, registry)
        self.rank_of: dict[Key, int] = rank_table(self.world.allgather((registry.role, registry.index)))
        self.taken: set[Key] = set()
        self.gone: dict[Key, int] = {}  # incarnations

    def open_port(self) -> str:
        return "world"

    def on_knock(self, event: Heard) -> None:
        key = (event.role, event.index)
        if key not in self.taken:  # else it has knocked again before it heard the answer
            self.registry.tell("come", *key)
            self._take(key, None)

    def on_come(self, event: Heard) -> None:
        key = (event.role, event.index)
        if key in self.dials and key not in self.taken:
            self._take(key, Peer(*key, event.incarnation))

    def on_gone(self, event: Heard) -> None:
        super().on_gone(event)
        self.gone[event.role, event.index] = event.incarnation

    def redial(self, key: Key, after: float) -> None:
        """Nothing to do for a server that has left: this process is about to leave, too."""
        if key in self.taken and key not in self.gone:
            raise RuntimeError(f"lost {key[0]}[{key[1]}], and a world (channels=world) has one connection to each")

    def _take(self, key: Key, server: Peer | None) -> None:
        self.taken.add(key)
        self.adopt(Lane(self.world, self.rank_of[key]), server)


def refuse_other_size(found: int, expected: int, me: ControlPlane) -> None:
    """Raises Misfit unless the world has as many ranks as the training has processes."""
    if found == expected:
        return
    alone = "it believes to be alone: srun and its MPI speak different PMIs; set site.pmi (srun --mpi=list)"
    why = alone if found == 1 else "the launcher started another number"
    raise Misfit(f"{me.role}[{me.index}] finds {found} of {expected} processes in MPI_COMM_WORLD: {why}")


def rank_table(told: list[Key]) -> dict[Key, int]:
    """Ranks by role and index, from what each rank says of itself. Raises Misfit when two say the same.

    >>> rank_table([("learner", 0), ("rollout", 0)])
    {('learner', 0): 0, ('rollout', 0): 1}
    """
    table = {key: rank for rank, key in enumerate(told)}
    if len(table) < len(told):
        twice = next(key for rank, key in enumerate(told) if table[key] != rank)
        raise Misfit(f"two ranks of the world say that they are {twice[0]}[{twice[1]}]")
    return table
