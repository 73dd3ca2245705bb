"""The machines of a job, as Kubeflow's training operator describes them to each of its pods."""

import os
from dataclasses import dataclass

from advgrpo.errors import ConfigError

_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

ALONE = {"PET_NNODES": "1"}
"""Variables of what a machine does by itself."""


@dataclass(frozen=True)
class Nodes:
    """Where this machine stands among those of a job; a single one needs no operator."""

    count: int = 1
    rank: int = 0
    """This machine's number; the first one speaks for all."""

    address: str = "localhost"
    """Host name of the first machine."""

    port: int = 0
    """Port of the first machine at which processes meet; 0 takes any that is free."""

    @property
    def is_first(self) -> bool:
        """Whether this machine records, and writes results."""
        return self.rank == 0

    def processes_here(self, processes: int) -> int:
        """Give this machine's share of a job's processes.

        Raises:
            ConfigError: If the machines would get unequal shares.
        """
        each, rest = divmod(processes, self.count)
        if rest:
            raise ConfigError(
                f"processes={processes} do not split over {self.count} machines",
                repair=f"use a multiple of {self.count}",
            )
        return each


def nodes() -> Nodes:
    """Read what the operator says in `PET_*`, the variables of torchrun's options.

    Raises:
        ConfigError: If a variable is missing or no number.

    Source:
        Kubeflow training-operator 1.9, `pkg/controller.v1/pytorch/envvar.go`.
    """
    try:
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
            f"the job has several machines, but its environment is incomplete: {error}",
            repair="run it as a PyTorchJob, or set PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and "
            "PET_MASTER_PORT",
        ) from error


def forget_ranks() -> None:
    """Remove what the operator says of this machine in the variables of a training process.

    It sets `RANK` to the machine's number and `WORLD_SIZE` to the count of processes, so that the
    one process that starts and awaits a machine's training processes would take itself for one.
    """
    for name in _OF_RANKS:
        os.environ.pop(name, None)
