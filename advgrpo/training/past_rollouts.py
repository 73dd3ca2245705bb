"""Earlier rollouts that train the policy again, with their rewards of today."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.models.discriminators.base import Features
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.rollout import Rollout


@dataclass(frozen=True)
class RewardedRollout:
    """This rank's share of a rollout; the leading axis of each tensor is the image."""

    rollout: Rollout
    """Without pixels."""

    features: Features
    """The discriminator's, without prompts, on the CPU."""

    terms: Float[Tensor, "image term"]
    """Rewards when it was generated, on the CPU."""


@dataclass(frozen=True)
class TrainedImages:
    """The images that an update trains the policy on: a rollout and those before it."""

    rollout: Rollout
    """This rank's share of all; images of an optimizer step are adjacent."""

    terms: Float[Tensor, "prompt sample term"]
    """Of all ranks, rollout by rollout."""

    now: RewardedRollout | None = None
    """The new rollout, if it will train the policy again."""


class PastRollouts:
    """The newest rollouts that trained the policy.

    Args:
        capacity: Number of rollouts.
        group_size: Images of each prompt.
        optimizer_steps: Optimizer steps that share a rollout.
        positions: Of this rank's images, which are those of every rollout.
        process_group: The training processes.
    """

    def __init__(
        self,
        capacity: int,
        *,
        group_size: int,
        optimizer_steps: int,
        positions: Sequence[int],
        process_group: ProcessGroup,
    ) -> None:
        self.capacity = capacity
        self._group_size, self._positions = group_size, list(positions)
        self._process_group = process_group
        self._newest_first: deque[RewardedRollout] = deque(maxlen=capacity)
        by_rollout = torch.arange((1 + capacity) * len(self._positions))
        self.order = by_rollout.view(1 + capacity, optimizer_steps, -1).transpose(0, 1).flatten()
        """Of images that come rollout by rollout, such that those of a step are adjacent."""

    def add(self, rewarded: RewardedRollout) -> None:
        """Add a rollout, and drop the oldest beyond the capacity."""
        self._newest_first.appendleft(rewarded)

    def join(
        self,
        now: RewardedRollout,
        terms: Float[Tensor, "prompt sample term"],
        terms_now: Callable[[RewardedRollout], Float[Tensor, "image term"]],
    ) -> TrainedImages:
        """Join a rollout and those before it, newest first; every rank must call it.

        Args:
            now: The new rollout.
            terms: Its rewards, of all ranks.
            terms_now: Rewards this rank's images of a rollout once more.
        """
        past = self._before(now)
        joined = Rollout.joined([now.rollout, *(each.rollout for each in past)])
        gathered = [
            self._process_group.gather_in_order({"": terms_now(each)}, self._positions)[""]
            for each in past
        ]
        all_terms = torch.cat([terms, *(each.view_as(terms) for each in gathered)])
        return TrainedImages(joined.part(self.order), all_terms, now)

    def _before(self, now: RewardedRollout) -> list[RewardedRollout]:
        # The rollouts at hand stand in for those that are not there yet.
        past = list(self._newest_first) or [now]
        return [
            self._with_new_noise(past[number % len(past)], number + 1)
            for number in range(self.capacity)
        ]

    def _with_new_noise(self, past: RewardedRollout, number: int) -> RewardedRollout:
        # Noise follows from an image's position in its group. These are beyond the group, so that
        # an image that occurs twice, or a prompt, has another one each time.
        samples = past.rollout.samples + number * self._group_size
        return replace(past, rollout=replace(past.rollout, samples=samples))

    def state(self) -> dict[str, Tensor]:
        """Gather the rollouts of all ranks as tensors by name; every rank must call it."""
        return {
            f"{number}.{name}": value
            for number, past in enumerate(self._newest_first)
            for name, value in self._process_group.gather_in_order(
                _tensors(past), self._positions
            ).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore this rank's share of what `state` returned."""
        self._newest_first.clear()
        for number in range(len({name.partition(".")[0] for name in state})):
            values = {
                name: value[self._positions] for name, value in _part(state, f"{number}.").items()
            }
            self._newest_first.append(_rewarded(values, self._process_group.device))


def _tensors(past: RewardedRollout) -> dict[str, Tensor]:
    rollout = past.rollout
    return {
        "number": torch.full_like(rollout.prompt_ids, rollout.number),
        "prompt_ids": rollout.prompt_ids,
        "samples": rollout.samples,
        "terms": past.terms,
        **{f"recorded.{name}": value for name, value in rollout.recorded.items()},
        **{f"features.{name}": value for name, value in past.features.items()},
    }


def _rewarded(values: Mapping[str, Tensor], device: torch.device) -> RewardedRollout:
    rollout = Rollout(
        number=int(values["number"][0]),
        prompt_ids=values["prompt_ids"],
        samples=values["samples"],
        images=torch.zeros(len(values["samples"]), 3, 0, 0),
        recorded={name: value.to(device) for name, value in _part(values, "recorded.").items()},
    )
    return RewardedRollout(rollout, _part(values, "features."), values["terms"])


def _part(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
