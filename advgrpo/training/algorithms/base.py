"""The interface of RL algorithms.

For each rollout, the loop calls `sample`; then, for each microbatch of each optimizer step,
`losses`, with one backward pass for each loss. A new algorithm is a file with such a class, its
settings in `config/algorithms.py`, and a line in `ALGORITHMS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from advgrpo.config.base import AlgorithmConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.rollout import Rollout, Sample


@dataclass(frozen=True)
class PassLoss:
    """Loss of a microbatch in one backward pass."""

    name: str
    """Name of the pass in messages, such as `denoising step 3`."""

    total: Float[Tensor, ""]
    """Differentiated; a mean over the microbatch."""

    values: Mapping[str, Float[Tensor, "..."]]
    """Detached values that the check and the metrics need, by name."""


class Algorithm(ABC):
    """An RL algorithm. Methods that are not abstract are optional.

    Args:
        config: Its settings.
        sampling: Steps and guidance.
        policy: The model being trained.
        adapter: Its adapter's weights, for algorithms that sample or score with others.
        seed: The run's seed; every draw must follow from it and from what it is for.
    """

    def __init__(
        self,
        config: AlgorithmConfig,
        sampling: SamplingConfig,
        policy: FlowModel,
        adapter: AdapterWeights,
        *,
        seed: int,
    ) -> None:
        self.config, self.sampling, self.policy, self.adapter = config, sampling, policy, adapter
        self.seed = seed

    @abstractmethod
    def sample(
        self, plans: Sequence[ImagePlan], embeddings: PromptEmbeddings, rollout: int
    ) -> Sample:
        """Denoise a microbatch of a rollout and record what the losses need.

        Args:
            plans: Which images.
            embeddings: Of their prompts.
            rollout: Count of rollouts before this one.
        """

    def record(self, clean: Float[Tensor, "batch channel height width"]) -> dict[str, Tensor]:
        """Return what the losses need of images that another model generated: their latents.

        Only called if `config.learns_from_any_image`.

        Args:
            clean: Their clean latents.
        """
        return {"clean_latents": clean}

    @abstractmethod
    def losses(
        self,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"],
        embeddings: PromptEmbeddings,
    ) -> Iterator[PassLoss]:
        """Compute a microbatch's losses, one for each of `config.trained_steps` backward passes.

        A loss is differentiated before the next one is computed, so that only one graph is in
        memory.

        Args:
            rollout: The microbatch.
            advantages: One per image.
            embeddings: Of the images' prompts.
        """

    @abstractmethod
    def metrics(
        self,
        passes: Sequence[Mapping[str, Tensor]],
        process_group: ProcessGroup,
        *,
        unchanged: int,
    ) -> dict[str, float]:
        """Describe an update; every rank must call it.

        Args:
            passes: Values of this rank's losses, in the order of the backward passes.
            process_group: The training processes.
            unchanged: The first passes, which precede all optimizer steps of the rollout.

        Raises:
            TrainingError: On all ranks, if the update cannot have had its effect.
        """

    def check_before_update(  # noqa: B027
        self, values: Mapping[str, Tensor], process_group: ProcessGroup
    ) -> None:
        """Check losses of the rollout's first microbatch, while the policy is unchanged.

        Every rank must call it, before the backward pass.

        Args:
            values: Of a loss of this rank.
            process_group: The training processes.

        Raises:
            TrainingError: On all ranks, if rollout and update disagree.
        """

    def finish_update(self, optimizer_steps: int) -> None:  # noqa: B027
        """Update the algorithm's own state after a rollout's optimizer steps, before `metrics`.

        Every rank must call it.

        Args:
            optimizer_steps: Count of the run's optimizer steps so far.
        """

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint and a dump must hold besides the adapter, by name."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore what `state` returned."""
