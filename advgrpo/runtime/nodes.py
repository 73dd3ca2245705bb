"""The machines of a job, from the environment that a job operator sets in each pod."""

import os
from dataclasses import dataclass

from advgrpo.errors import ConfigError

_RANK_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)

SINGLE_NODE = {"PET_NNODES": "1"}
"""Environment of work that each machine does without the others."""


@dataclass(frozen=True)
class Nodes:
    """This machine among those of a job; the defaults are those of a single machine."""

    count: int = 1
    rank: int = 0
    """Number of this machine."""

    address: str = "localhost"
    """Host name of the first machine."""

    port: int = 0
    """Port of the rendezvous on the first machine; 0 for any free port."""

    @property
    def is_first(self) -> bool:
        """Whether this is machine 0, which records and writes results."""
        return self.rank == 0

    def processes_here(self, processes: int) -> int:
        """Return this machine's share of a job's processes.

        Raises:
            ConfigError: If the machines would get unequal shares.
        """
        each, rest = divmod(processes, self.count)
        if rest:
            raise ConfigError(
                f"processes={processes}: cannot be split evenly over {self.count} machines",
                repair=f"use a multiple of {self.count}",
            )
        return each


def nodes() -> Nodes:
    """Return the job's machines, from `PET_*`, the variables of torchrun's options.

    Raises:
        ConfigError: If a variable is missing or not a number.
    """
    try:
        # torchrun also takes a range, for instance "2:4"; jobs start with its lower end.
        count = int(os.environ.get("PET_NNODES", "1").partition(":")[0])
        if count == 1:
            return Nodes()
        return Nodes(
            count=count,
            rank=int(os.environ["PET_NODE_RANK"]),
            address=os.environ["PET_MASTER_ADDR"],
            port=int(os.environ["PET_MASTER_PORT"]),
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the environment of the job's machines is incomplete: {error}",
            repair="set PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, as a job "
            "operator does",
        ) from error


def remove_rank_variables() -> None:
    """Remove the variables of a training process that the operator sets in a pod."""
    # The operator sets RANK to the number of the machine and WORLD_SIZE to the count of processes.
    # The process that launches the ranks of a machine would take itself for one of them.
    for name in _RANK_VARIABLES:
        os.environ.pop(name, None)
