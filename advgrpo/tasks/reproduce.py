"""Reproduction of a dumped microbatch with non-finite values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from advgrpo.config.tasks import parse_json
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.adapter_weights import AdapterWeights, copy_into
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.loading import load_policy
from advgrpo.runtime.devices import device
from advgrpo.training.algorithms.registry import build_algorithm
from advgrpo.training.nonfinite_dump import ADAPTER, ALGORITHM, NonFiniteDump, read_dump
from advgrpo.training.rollout import Rollout, generate_rollout


@dataclass(frozen=True)
class TensorReport:
    """A tensor of the reproduced computation."""

    name: str
    not_finite: int
    values: int
    largest: float
    """Largest finite magnitude."""


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
        # model_copy does not validate, so the text is parsed again below.
        changed = config.model_copy(update={"forward_dtype": forward_dtype})
        text = dump.model_copy(update={"policy": changed}).model_dump_json(warnings=False)
        config = parse_json(NonFiniteDump, text, where="--forward-dtype").policy
    return dump.message, recompute(dump, tensors, load_policy(config, device(), seed=dump.seed))


def recompute(
    dump: NonFiniteDump, tensors: Mapping[str, Tensor], policy: Policy
) -> Iterator[TensorReport]:
    """Compute a dumped microbatch again: the rollout, unless it ended well, and the gradients.

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
    if dump.advantages is None:
        rollout = generate_rollout(
            policy,
            algorithm.sample,
            plans,
            # Prompts of other microbatches are unknown, and never read.
            [texts.get(prompt, "") for prompt in range(max(texts) + 1)],
            # One microbatch, as it was computed: another grouping may round differently.
            microbatch_size=len(plans),
            rollout=dump.rollout,
        )
    else:
        # Images of an update may come from earlier policies or be reference images.
        rollout = Rollout(
            number=dump.rollout,
            prompt_ids=torch.tensor([plan.prompt_id for plan in plans]),
            samples=torch.tensor([plan.sample for plan in plans]),
            images=torch.zeros(len(plans), 3, 0, 0),
            recorded={
                name: values.to(policy.device)
                for name, values in tensors.items()
                if not name.startswith((ADAPTER, ALGORITHM))
            },
        )
    embeddings = policy.embed([text for _, _, text in dump.images])
    for name in embeddings.prompts[0]:
        for position, tensor in enumerate(embeddings.tensors(name)):
            yield _report(f"embedding {name} of prompt {position}", tensor)
    for name, values in rollout.recorded.items():
        yield _report(name, values)
    if rollout.images.numel():
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
    # max() of no values is an error.
    largest = float(values[finite].abs().max()) if bool(finite.any()) else 0.0
    return TensorReport(name, int((~finite).sum()), values.numel(), largest)
