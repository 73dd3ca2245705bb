"""Settings of a rollout: its size, and its images that train the policy."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import NonNegativeInt, PositiveInt, Section


class SelectionConfig(Section):
    """The best and the worst images of a group; the others cost no pass of the update."""

    best: PositiveInt
    """Images with the highest rewards."""

    worst: PositiveInt
    """Images with the lowest rewards."""

    @property
    def images(self) -> int:
        """Images of both kinds."""
        return self.best + self.worst


class RolloutConfig(Section):
    """Size of a rollout, over all ranks."""

    # 48 groups of 16 as in the released code.
    prompts_per_update: PositiveInt = 48
    """Groups of a rollout, each of another prompt."""

    # A single image has no advantage.
    group_size: Annotated[int, Field(ge=2)] = 16
    """Images of each prompt."""

    microbatch_size: PositiveInt | Literal["auto"] = "auto"
    """Images that pass the transformer at once on a rank, in the rollout and, unless
    `update_microbatch_size` is set, in the update. `auto` is the largest number that fits into the
    memory of a GPU, at most 16, and on a CPU at most 8."""

    update_microbatch_size: PositiveInt | None = None
    """Images that pass the transformer at once in the update, which keeps activations; with
    `training.compile`, the trained steps of a rollout keep them too. If it is not
    `microbatch_size`, ratios before the first step are 1 only up to rounding, 2e-4 in bfloat16:
    `algorithm.clip_range` must be more than twice that."""

    select: SelectionConfig | None = None
    """Images of each group that train the policy, by their rewards; null for all. Advantages are
    those of the whole group, and the discriminator is trained on all images. Every rank must have
    whole groups."""

    replayed_rollouts: NonNegativeInt = 0
    """Earlier rollouts whose images train the policy again with each new one, by what the
    discriminator says of them now: fewer images to sample, for more passes of the update. In the
    first updates, the rollouts at hand stand in for those that are not there yet. For `nft` alone,
    whose loss does not need images of the present policy."""

    references_per_prompt: NonNegativeInt = 0
    """Reference images of each prompt of a rollout that train the policy with it, as images that
    are certainly good. They cost passes of the update, but no sampling. If a prompt has more, each
    rollout draws some. For `nft` alone."""

    @model_validator(mode="after")
    def _selects_some(self) -> Self:
        if self.select is not None and self.select.images >= self.group_size:
            raise ValueError(
                f"select.best={self.select.best} and select.worst={self.select.worst} are all of "
                f"group_size={self.group_size} images; lower them, or set select=null"
            )
        return self

    @property
    def trained_per_group(self) -> int:
        """Images of each group that train the policy."""
        return self.group_size if self.select is None else self.select.images

    @property
    def images(self) -> int:
        """Images of a rollout."""
        return self.prompts_per_update * self.group_size

    @property
    def trained_per_prompt(self) -> int:
        """Images of each prompt of a rollout that train the policy in an update.

        Replayed ones, which may have other prompts, and reference images included.
        """
        own = self.trained_per_group * (1 + self.replayed_rollouts)
        return own + self.references_per_prompt

    @property
    def trained_images(self) -> int:
        """Images that train the policy in an update."""
        return self.prompts_per_update * self.trained_per_prompt

    @property
    def microbatch(self) -> int:
        """Images that pass the transformer at once in the rollout; 1 before `auto` is fitted."""
        return 1 if self.microbatch_size == "auto" else self.microbatch_size

    @property
    def microbatch_of_update(self) -> int:
        """Images that pass the transformer at once in the update."""
        return self.update_microbatch_size or self.microbatch
