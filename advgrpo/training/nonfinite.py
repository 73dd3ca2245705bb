"""Detection of NaN and infinity before they reach a weight.

Every check has the same result on all ranks, because it sees what all of them have or reduces over
them: either all ranks stop, or all skip the same rollout.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.policy import AnyPolicyConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.errors import NonFiniteError, StorageError
from advgrpo.models.policies.base import Policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage.files import list_files
from advgrpo.storage.locations import join
from advgrpo.telemetry.logging import event
from advgrpo.training.algorithms.base import Algorithm
from advgrpo.training.counters import Counters
from advgrpo.training.engines.base import PolicyEngine
from advgrpo.training.nonfinite_dump import ADAPTER, ALGORITHM, NonFiniteDump, write_dump
from advgrpo.training.rollout import Rollout

MAX_DUMPS = 20
"""Dumps of a run at most: one that skips many rollouts must not fill its workspace."""

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class Finding:
    """A value that is not finite."""

    tensor: str
    """Its name in messages."""

    value: float
    image: int
    """This rank's first image that is affected."""


class NonFiniteGuard:
    """Checks for values that are not finite, and dumps their inputs.

    Args:
        policy: The model being trained.
        engine: Its optimizer.
        algorithm: Gives the state that a dump must hold.
        prompts: All training prompts.
        config: The run's training settings.
        counters: How far the run has come.
        process_group: The training processes.
        seed: The run's seed.
        store: Local folder or `s3://` location of the dumps.
    """

    def __init__(
        self,
        policy: Policy,
        engine: PolicyEngine,
        algorithm: Algorithm,
        prompts: Sequence[str],
        config: TrainingConfig,
        counters: Counters,
        process_group: ProcessGroup,
        *,
        seed: int,
        store: str,
    ) -> None:
        self._policy, self._engine, self._algorithm = policy, engine, algorithm
        self._prompts, self._config, self._counters = prompts, config, counters
        self._process_group, self._seed, self._store = process_group, seed, store

    def check_rollout(self, rollout: Rollout) -> None:
        """Refuse recorded tensors or images that are not finite; every rank must call it.

        Raises:
            NonFiniteError: On all ranks, if any rank has one.
        """
        # Recorded tensors come first, because images are decoded from what follows from them.
        finding = first_not_finite({**rollout.recorded, "an image": rollout.images})
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
        # Before the rewards are gathered: each rank can still name its own image.
        self.report(first_not_finite(by_name), rollout)

    def report_step(
        self, finding: Finding | None, rollout: Rollout, advantages: Float[Tensor, "batch"]
    ) -> None:
        """Report why the optimizer step was skipped; every rank must call it.

        Args:
            finding: This rank's, if there is one.
            rollout: This rank's share.
            advantages: One per image.

        Raises:
            NonFiniteError: Always, on all ranks.
        """
        found = self._process_group.all_reduce_max(float(finding is not None))
        # The search computes gradients by microbatch, so an overflow of their sum is not found; nor
        # is anything under ZeRO-3. The step was skipped nonetheless, so some rank must report it.
        if not found and self._process_group.is_first:
            finding = Finding("the norm of the policy's gradient", float("nan"), 0)
        self.report(finding, rollout, advantages)

    def report(
        self,
        finding: Finding | None,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"] | None = None,
    ) -> None:
        """Report on all ranks what any of them found; every rank must call it.

        Args:
            finding: This rank's, if there is one.
            rollout: This rank's share.
            advantages: One per image, once they are known.

        Raises:
            NonFiniteError: On all ranks, if any rank found something; names what the first found.
        """
        if self._process_group.all_reduce_max(float(finding is not None)) == 0:
            return
        adapter = self._engine.adapter()
        # Collective, so it must not depend on whether this rank has a finding.
        state = self._algorithm.state()
        message = ""
        if finding is not None:
            message = self._describe_and_dump(finding, rollout, advantages, adapter, state)
        raise NonFiniteError(
            self._process_group.first_text(message),
            repair="run `advgrpo reproduce` on the dump to see which tensor is not finite first; "
            "if it is a matter of precision, set policy.forward_dtype=float32; if weights have "
            "grown, lower training.optimizer.learning_rate; to skip such rollouts, set "
            "training.non_finite.action=skip. The last checkpoint is intact",
        )

    def _describe_and_dump(
        self,
        finding: Finding,
        rollout: Rollout,
        advantages: Tensor | None,
        adapter: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> str:
        prompt_id, sample = (
            int(ids[finding.image]) for ids in (rollout.prompt_ids, rollout.samples)
        )
        where = (
            f"{finding.tensor} became {finding.value} on rank {self._process_group.rank} in "
            f"rollout {rollout.number} (prompt {self._prompts[prompt_id]!r}, seed {self._seed}, "
            f"image {sample} of its group)"
        )
        sizes = self._config.rollout
        size = sizes.microbatch if advantages is None else sizes.microbatch_of_update
        # The microbatch as it was computed: another grouping may round differently and hide the
        # fault.
        first = finding.image // size * size
        part = rollout.part(slice(first, first + size))
        name = f"rollout-{rollout.number:08d}-rank-{self._process_group.rank}"
        location = join(self._store, "non-finite", name)
        try:
            # Those that exist, not the skipped rollouts, some of which have no dump.
            names = {path.partition("/")[0] for path in list_files(join(self._store, "non-finite"))}
        except StorageError as error:
            return f"{where}; its dump could not be written: {error.message}"
        if len(names) >= MAX_DUMPS:
            return f"{where}; not dumped: the run has {len(names)} dumps already"
        dump = NonFiniteDump(
            message=where,
            seed=self._seed,
            rollout=rollout.number,
            images=tuple(
                (int(prompt), int(number), self._prompts[int(prompt)])
                for prompt, number in zip(part.prompt_ids, part.samples, strict=True)
            ),
            advantages=None
            if advantages is None
            else tuple(advantages[first : first + size].tolist()),
            # The dump needs the union that pydantic discriminates; every policy has one of its
            # members.
            policy=cast("AnyPolicyConfig", self._policy.config),
            sampling=self._config.sampling,
            algorithm=self._config.algorithm,
        )
        tensors = {ADAPTER + key: value for key, value in adapter.items()}
        tensors |= {ALGORITHM + key: value for key, value in state.items()}
        try:
            write_dump(location, dump, tensors | dict(part.recorded))
        # A failed write must not replace the error that the dump is about.
        except StorageError as error:
            return f"{where}; its dump could not be written: {error.message}"
        return f"{where}; dumped in {location}"

    def skip(self, fault: NonFiniteError) -> None:
        """Skip what is at fault if the settings allow it; every rank must call it.

        Raises:
            NonFiniteError: The fault, if the run stops at one, or after too many in a row.
        """
        config, counters = self._config.non_finite, self._counters
        if config.action == "stop":
            raise fault
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        # Once weights are broken every rollout fails, and skipping would never end.
        if counters.skipped_in_a_row > config.most_in_a_row:
            raise NonFiniteError(
                f"{fault.message}; that is {counters.skipped_in_a_row} rollouts in a row "
                f"(training.non_finite.most_in_a_row={config.most_in_a_row})",
                repair=fault.repair,
            ) from fault
        if self._process_group.is_first:
            fields = event("rollout_left_out", repair=fault.repair)
            logger.warning("skipped: %s", fault.message, extra=fields)


def first_not_finite(tensors: Mapping[str, Float[Tensor, "image *rest"]]) -> Finding | None:
    """Find the first tensor, and in it the first image, with a value that is not finite."""
    # In the order of computation: the first one is the cause, and later ones inherit from it.
    for name, values in tensors.items():
        finite = torch.isfinite(values)
        if bool(finite.all()):
            continue
        image = int((~finite).reshape(len(finite), -1).any(dim=1).int().argmax())
        bad = values[image][~finite[image]]
        return Finding(name, float(bad.flatten()[0]), image)
    return None
