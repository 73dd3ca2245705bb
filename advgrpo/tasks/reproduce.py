"""Reproduction of a dumped microbatch with non-finite values."""

from collections.abc import Iterator

from advgrpo.config.tasks import parse_json
from advgrpo.models.policies import load_policy
from advgrpo.runtime.devices import device
from advgrpo.training.nonfinite_dump import NonFiniteDump, TensorReport, read_dump
from advgrpo.training.nonfinite_dump import reproduce as compute


def reproduce(
    location: str, *, forward_dtype: str | None = None
) -> tuple[str, Iterator[TensorReport]]:
    """Recompute a dumped microbatch on this machine.

    Args:
        location: Folder or `s3://` location of the dump.
        forward_dtype: Precision of the transformer; None for the run's own.

    Returns:
        The dump's message, and a report of each tensor as it is computed.

    Raises:
        StorageError: If the dump cannot be fetched.
        CheckpointError: If the location is not a dump.
        ConfigError: If the precision does not exist.
        WeightsError: If the base model's weights are missing or damaged.
    """
    dump, tensors = read_dump(location)
    config = dump.policy
    if forward_dtype is not None:
        changed = config.model_copy(update={"forward_dtype": forward_dtype})
        text = dump.model_copy(update={"policy": changed}).model_dump_json(warnings=False)
        config = parse_json(NonFiniteDump, text, where="--forward-dtype").policy
    return dump.message, compute(dump, tensors, load_policy(config, device(), seed=dump.seed))
