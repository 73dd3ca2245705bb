"""What is kept of a rollout that went wrong, and how it is computed anew."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from advgrpo.config import AnyPolicyConfig, SamplingConfig
from advgrpo.config.algorithms import AlgorithmConfig
from advgrpo.config.base import Section
from advgrpo.data.sampler import ImagePlan
from advgrpo.errors import CheckpointError
from advgrpo.models.policies.adapter import copy_into
from advgrpo.models.policies.base import Policy
from advgrpo.storage import download_folder, upload_folder
from advgrpo.storage.local import disk_errors
from advgrpo.storage.tensors import read_tensors, save_tensors
from advgrpo.training.rollout import Denoiser, generate_rollout
from advgrpo.training.step_losses import step_losses

FACTS_FILE, TENSORS_FILE = "facts.json", "tensors.safetensors"
ADAPTER = "adapter."


class NonFiniteDump(Section):
    """All that one microbatch of a rollout depends on, besides the base model's weights."""

    what: str
    """What went wrong, in words."""

    seed: int
    """The run's."""

    rollout: int
    images: tuple[tuple[int, int, str], ...]
    """Prompt id, position in the group and prompt of each image."""

    advantages: tuple[float, ...] | None
    policy: AnyPolicyConfig
    sampling: SamplingConfig
    algorithm: AlgorithmConfig


@dataclass(frozen=True)
class TensorReport:
    """One tensor as it was computed anew."""

    name: str
    not_finite: int
    values: int
    largest: float
    """Largest finite magnitude."""


def keep(location: str, kept: NonFiniteDump, tensors: Mapping[str, Tensor]) -> None:
    """Write a microbatch's inputs.

    Args:
        location: Local folder or `s3://` location.
        kept: What it depends on.
        tensors: `adapter.*`, `latents` and `log_probs`.

    Raises:
        StorageError: If it cannot be written.
    """
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with disk_errors("write", location), TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_tensors(copies, folder / TENSORS_FILE)
        (folder / FACTS_FILE).write_text(kept.model_dump_json(indent=1), encoding="utf-8")
        upload_folder(folder, location)


def read_kept(location: str) -> tuple[NonFiniteDump, dict[str, Tensor]]:
    """Read what `keep` wrote.

    Raises:
        StorageError: If it cannot be fetched.
        CheckpointError: If it is damaged or something else.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kept"
        download_folder(location, folder)
        try:
            kept = NonFiniteDump.model_validate_json((folder / FACTS_FILE).read_bytes())
            return kept, read_tensors(folder / TENSORS_FILE)
        # One of pydantic's is a ValueError.
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{location} does not hold a kept rollout: {error}",
                repair="give the folder that the error message or the log names",
            ) from error


def reproduce(
    kept: NonFiniteDump, tensors: Mapping[str, Tensor], policy: Policy
) -> Iterator[TensorReport]:
    """Compute a kept microbatch anew, first the rollout and then the gradients.

    Args:
        kept: What it depends on.
        tensors: As they were kept.
        policy: The base model with an adapter of the same shape.

    Yields:
        A report of each tensor, in the order in which they are computed.
    """
    copy_into(
        policy.trainable_parameters(),
        {name.removeprefix(ADAPTER): v for name, v in tensors.items() if name.startswith(ADAPTER)},
    )
    for name, parameter in policy.trainable_parameters().items():
        yield _report(f"weight of {name}", parameter.detach())
    plans = [ImagePlan(i, prompt, sample) for i, (prompt, sample, _) in enumerate(kept.images)]
    texts = {prompt: text for prompt, _, text in kept.images}
    denoiser = Denoiser(policy, kept.sampling, kept.algorithm)
    rollout = generate_rollout(
        policy,
        denoiser,
        plans,
        [texts.get(prompt, "") for prompt in range(max(texts) + 1)],
        sampling=kept.sampling,
        microbatch_size=len(plans),
        rollout=kept.rollout,
        seed=kept.seed,
    )
    embeddings = policy.embed([text for _, _, text in kept.images])
    for name in embeddings.prompts[0]:
        for position, tensor in enumerate(embeddings.tensors(name)):
            yield _report(f"embedding {name} of prompt {position}", tensor)
    yield _report("latents", rollout.latents)
    yield _report("log-probabilities", rollout.log_probs)
    yield _report("images", rollout.images)
    advantages = torch.tensor(kept.advantages or [1.0] * len(plans), device=policy.device)
    parameters = policy.trainable_parameters()
    for loss in step_losses(policy, denoiser, kept.algorithm, rollout, advantages, embeddings):
        where = f"at denoising step {loss.step}"
        if loss.divergence is not None:
            yield _report(f"divergence from the base policy {where}", loss.divergence.detach())
        yield _report(f"loss {where}", loss.total.detach())
        gradients = torch.autograd.grad(loss.total, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            yield _report(f"gradient of {name} {where}", gradient)


def _report(name: str, values: Tensor) -> TensorReport:
    fine = torch.isfinite(values)
    largest = float(values[fine].abs().max()) if bool(fine.any()) else 0.0
    return TensorReport(name, int((~fine).sum()), values.numel(), largest)
