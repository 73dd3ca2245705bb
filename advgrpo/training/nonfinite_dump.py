"""Dumps of rollouts with non-finite values."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from advgrpo.config.algorithms import AnyAlgorithmConfig
from advgrpo.config.base import Section
from advgrpo.config.policy import AnyPolicyConfig, SamplingConfig
from advgrpo.errors import CheckpointError
from advgrpo.storage.folders import download_folder, upload_folder
from advgrpo.storage.local import disk_errors
from advgrpo.storage.tensors import read_tensors, save_tensors
from advgrpo.strict_json import unique_keys

DUMP_FILE, TENSORS_FILE = "dump.json", "tensors.safetensors"
ADAPTER, ALGORITHM = "adapter.", "algorithm."
"""Prefixes of the tensors' names."""


class NonFiniteDump(Section):
    """All that one microbatch of a rollout depends on, besides tensors and the base model."""

    message: str
    """Which value became NaN or infinite, and where."""

    seed: int
    """The run's."""

    rollout: int
    images: tuple[tuple[int, int, str], ...]
    """Prompt id, position in the group and prompt of each image."""

    advantages: tuple[float, ...] | None
    policy: AnyPolicyConfig
    sampling: SamplingConfig
    algorithm: AnyAlgorithmConfig


def write_dump(location: str, dump: NonFiniteDump, tensors: Mapping[str, Tensor]) -> None:
    """Write a microbatch's inputs.

    Args:
        location: Local folder or `s3://` location.
        dump: Settings and images.
        tensors: `adapter.*`, the algorithm's state as `algorithm.*`, and what the rollout recorded.

    Raises:
        StorageError: If it cannot be written.
    """
    # Slices of a rollout are views, which safetensors refuses.
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with disk_errors("write", location), TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_tensors(copies, folder / TENSORS_FILE)
        (folder / DUMP_FILE).write_text(dump.model_dump_json(indent=1), encoding="utf-8")
        upload_folder(folder, location)


def read_dump(location: str) -> tuple[NonFiniteDump, dict[str, Tensor]]:
    """Read what `write_dump` wrote.

    Raises:
        StorageError: If it cannot be fetched.
        CheckpointError: If it is damaged or something else.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "dump"
        download_folder(location, folder)
        try:
            dump = NonFiniteDump.model_validate_json(unique_keys((folder / DUMP_FILE).read_bytes()))
            return dump, read_tensors(folder / TENSORS_FILE)
        # pydantic's ValidationError is a ValueError.
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{location} does not hold the dump of a rollout: {error}",
                repair="pass the folder that the error message or the log of the run names",
            ) from error
