"""NaN and infinity: found before they reach a weight, named, and kept to be looked at.

Every check comes to the same end on all ranks, as it looks at what all of them have or asks all of
them; so either all of them stop, or all leave the same rollout out.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config import AnyPolicyConfig, TrainingConfig
from advgrpo.errors import NonFiniteError, StorageError
from advgrpo.models.policies.base import Policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage import join
from advgrpo.telemetry.logging import event
from advgrpo.training.counters import Counters
from advgrpo.training.engine import PolicyEngine
from advgrpo.training.nonfinite_dump import NonFiniteDump, keep
from advgrpo.training.rollout import Rollout

MOST_KEPT = 20
"""How many rollouts a run keeps at most: one that leaves many out must not fill its workspace."""

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class Finding:
    """A value that is not finite."""

    tensor: str
    """Which one, in words."""

    value: float
    image: int
    """This rank's first image that is touched."""


class NonFiniteGuard:
    """Looks for values that are not finite.

    Args:
        policy: The model being trained.
        engine: Its optimizer.
        prompts: All training prompts.
        config: The run's training settings.
        counters: How far the run has come.
        process_group: The training processes.
        seed: The run's seed.
        store: Local folder or `s3://` location for what is kept.
    """

    def __init__(
        self,
        policy: Policy,
        engine: PolicyEngine,
        prompts: Sequence[str],
        config: TrainingConfig,
        counters: Counters,
        process_group: ProcessGroup,
        *,
        seed: int,
        store: str,
    ) -> None:
        self._policy, self._engine, self._prompts, self._config = policy, engine, prompts, config
        self._counters, self._process_group, self._seed, self._store = (
            counters,
            process_group,
            seed,
            store,
        )

    def check_rollout(self, rollout: Rollout) -> None:
        """Refuse latents, log-probs or images that are not finite; every rank must call it.

        Raises:
            NonFiniteError: On all ranks, if any rank has one.
        """
        finding = first_not_finite(
            {
                "latents": rollout.latents,
                "the log-probability": rollout.log_probs,
                "an image": rollout.images,
            }
        )
        self.report(finding, rollout)

    def check_rewards(
        self, terms: Float[Tensor, "image term"], names: Sequence[str], rollout: Rollout
    ) -> None:
        """Refuse rewards that are not finite; every rank must call it with its own images.

        Args:
            terms: One row per image of this rank.
            names: Of the terms.
            rollout: The same images.

        Raises:
            NonFiniteError: On all ranks, if any rank has one.
        """
        by_name = {f"the reward {name}": terms[:, i] for i, name in enumerate(names)}
        self.report(first_not_finite(by_name), rollout)

    def report_step(
        self, finding: Finding | None, rollout: Rollout, advantages: Float[Tensor, "batch"]
    ) -> None:
        """Say on all ranks why the optimizer step was left out; every rank must call it.

        Raises:
            NonFiniteError: Always, on all ranks.
        """
        found = self._process_group.all_reduce_max(float(finding is not None))
        if not found and self._process_group.is_first:
            finding = Finding("the norm of the policy's gradient", float("nan"), 0)
        self.report(finding, rollout, advantages)

    def report(
        self,
        finding: Finding | None,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"] | None = None,
    ) -> None:
        """Say on all ranks what any of them found; every rank must call it.

        Args:
            finding: This rank's, if there is one.
            rollout: This rank's share.
            advantages: One per image, once they are known.

        Raises:
            NonFiniteError: On all ranks, if any rank found something; says what the first found.
        """
        if self._process_group.all_reduce_max(float(finding is not None)) == 0:
            return
        adapter = self._engine.adapter()
        words = ""
        if finding is not None:
            words = self._say_and_keep(finding, rollout, advantages, adapter)
        raise NonFiniteError(
            self._process_group.first_text(words),
            repair="see what `advgrpo reproduce` says of the kept folder; if it is the precision, "
            "set policy.forward_dtype=float32; if the weights have grown, lower "
            "training.optimizer.learning_rate; training.non_finite.action=skip leaves such "
            "rollouts out. The last checkpoint is intact",
        )

    def _say_and_keep(
        self,
        finding: Finding,
        rollout: Rollout,
        advantages: Tensor | None,
        adapter: Mapping[str, Tensor],
    ) -> str:
        prompt_id, sample = (
            int(ids[finding.image]) for ids in (rollout.prompt_ids, rollout.samples)
        )
        where = (
            f"{finding.tensor} became {finding.value} on rank {self._process_group.rank} in "
            f"rollout {rollout.update} (prompt {self._prompts[prompt_id]!r}, seed {self._seed}, "
            f"image {sample} of its group)"
        )
        if self._counters.skipped >= MOST_KEPT:
            return f"{where}; not kept, as {MOST_KEPT} before it were"
        sizes = self._config.rollout
        size = sizes.microbatch_size if advantages is None else sizes.microbatch_of_update
        first = finding.image // size * size
        chosen = slice(first, first + size)
        name = f"rollout-{rollout.update:08d}-rank-{self._process_group.rank}"
        location = join(self._store, "non-finite", name)
        kept = NonFiniteDump(
            what=where,
            seed=self._seed,
            rollout=rollout.update,
            images=tuple(
                (int(prompt), int(number), self._prompts[int(prompt)])
                for prompt, number in zip(
                    rollout.prompt_ids[chosen], rollout.samples[chosen], strict=True
                )
            ),
            advantages=None if advantages is None else tuple(advantages[chosen].tolist()),
            policy=cast("AnyPolicyConfig", self._policy.config),
            sampling=self._config.sampling,
            algorithm=self._config.algorithm,
        )
        tensors = {f"adapter.{key}": value for key, value in adapter.items()}
        tensors |= {"latents": rollout.latents[chosen], "log_probs": rollout.log_probs[chosen]}
        try:
            keep(location, kept, tensors)
        except StorageError as error:
            return f"{where}; it could not be kept: {error.message}"
        return f"{where}; kept in {location}"

    def skip(self, fault: NonFiniteError) -> None:
        """Go on without what is at fault, if the run is told to; every rank must call it.

        Raises:
            NonFiniteError: The fault, if the run stops at one, or after too many in a row.
        """
        config, counters = self._config.non_finite, self._counters
        if config.action == "stop":
            raise fault
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row > config.most_in_a_row:
            raise NonFiniteError(
                f"{fault.message}; that is {counters.skipped_in_a_row} rollouts in a row "
                f"(training.non_finite.most_in_a_row={config.most_in_a_row})",
                repair=fault.repair,
            ) from fault
        if self._process_group.is_first:
            note = event("rollout_left_out", repair=fault.repair)
            logger.warning("left out: %s", fault.message, extra=note)


def first_not_finite(tensors: Mapping[str, Float[Tensor, "image *rest"]]) -> Finding | None:
    """Find the first tensor, and in it the first image, with a value that is not finite."""
    for name, values in tensors.items():
        fine = torch.isfinite(values)
        if bool(fine.all()):
            continue
        image = int((~fine).reshape(len(fine), -1).any(dim=1).int().argmax())
        bad = values[image][~fine[image]]
        return Finding(name, float(bad.flatten()[0]), image)
    return None
