"""Dumps of rollouts with non-finite values, and their reproduction."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from advgrpo.config import AnyPolicyConfig, SamplingConfig
from advgrpo.config.algorithms import AnyAlgorithmConfig
from advgrpo.config.base import Section
from advgrpo.data.sampler import ImagePlan
from advgrpo.errors import CheckpointError
from advgrpo.models.policies.adapter import copy_into
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import Policy
from advgrpo.storage import download_folder, upload_folder
from advgrpo.storage.local import disk_errors
from advgrpo.storage.tensors import read_tensors, save_tensors
from advgrpo.training.algorithms import build_algorithm
from advgrpo.training.rollout import generate_rollout

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


@dataclass(frozen=True)
class TensorReport:
    """A tensor of the reproduced computation."""

    name: str
    not_finite: int
    values: int
    largest: float
    """Largest finite magnitude."""


def write_dump(location: str, dump: NonFiniteDump, tensors: Mapping[str, Tensor]) -> None:
    """Write a microbatch's inputs.

    Args:
        location: Local folder or `s3://` location.
        dump: Settings and images.
        tensors: `adapter.*`, the algorithm's state as `algorithm.*`, and what the rollout recorded.

    Raises:
        StorageError: If it cannot be written.
    """
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
            dump = NonFiniteDump.model_validate_json((folder / DUMP_FILE).read_bytes())
            return dump, read_tensors(folder / TENSORS_FILE)
        # pydantic's ValidationError is a ValueError.
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{location} does not hold the dump of a rollout: {error}",
                repair="pass the folder that the error message or the log of the run names",
            ) from error


def reproduce(
    dump: NonFiniteDump, tensors: Mapping[str, Tensor], policy: Policy
) -> Iterator[TensorReport]:
    """Compute a dumped microbatch again, first the rollout and then the gradients.

    Args:
        dump: Settings and images.
        tensors: As `read_dump` returns them.
        policy: The base model with an adapter of the same shape.

    Yields:
        A report of each tensor, in the order in which they are computed.
    """
    parameters = policy.trainable_parameters()
    copy_into(parameters, _with_prefix(ADAPTER, tensors))
    for name, parameter in parameters.items():
        yield _report(f"weight of {name}", parameter.detach())
    plans = [ImagePlan(i, prompt, sample) for i, (prompt, sample, _) in enumerate(dump.images)]
    texts = {prompt: text for prompt, _, text in dump.images}
    algorithm = build_algorithm(
        dump.algorithm, dump.sampling, policy, AdapterWeights(parameters), seed=dump.seed
    )
    algorithm.load_state(_with_prefix(ALGORITHM, tensors))
    rollout = generate_rollout(
        policy,
        algorithm.sample,
        plans,
        # Prompts of other microbatches are unknown, and never read.
        [texts.get(prompt, "") for prompt in range(max(texts) + 1)],
        microbatch_size=len(plans),
        rollout=dump.rollout,
    )
    embeddings = policy.embed([text for _, _, text in dump.images])
    for name in embeddings.prompts[0]:
        for position, tensor in enumerate(embeddings.tensors(name)):
            yield _report(f"embedding {name} of prompt {position}", tensor)
    for name, values in rollout.recorded.items():
        yield _report(name, values)
    yield _report("images", rollout.images)
    # A rollout that failed before its rewards has no advantages; any show where gradients fail.
    advantages = torch.tensor(dump.advantages or [1.0] * len(plans), device=policy.device)
    for loss in algorithm.losses(rollout, advantages, embeddings):
        for name, values in loss.values.items():
            yield _report(f"{name} at {loss.name}", values)
        yield _report(f"loss at {loss.name}", loss.total.detach())
        gradients = torch.autograd.grad(loss.total, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            yield _report(f"gradient of {name} at {loss.name}", gradient)


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): values
        for name, values in tensors.items()
        if name.startswith(prefix)
    }


def _report(name: str, values: Tensor) -> TensorReport:
    finite = torch.isfinite(values)
    largest = float(values[finite].abs().max()) if bool(finite.any()) else 0.0
    return TensorReport(name, int((~finite).sum()), values.numel(), largest)
