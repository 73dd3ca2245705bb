"""The RL algorithms, by the `type` of their settings."""

from collections.abc import Callable

from advgrpo.config.base import AlgorithmConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import FlowModel
from advgrpo.training.algorithms.awm import Awm
from advgrpo.training.algorithms.base import Algorithm
from advgrpo.training.algorithms.grpo import Grpo
from advgrpo.training.algorithms.nft import Nft

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {"grpo": Grpo, "nft": Nft, "awm": Awm}
"""Implementation by the `type` of its settings."""


def build_algorithm(
    config: AlgorithmConfig,
    sampling: SamplingConfig,
    policy: FlowModel,
    adapter: AdapterWeights,
    *,
    seed: int,
) -> Algorithm:
    """Build the algorithm that `training.algorithm` selects.

    Args:
        config: Its settings.
        sampling: Steps and guidance.
        policy: The model being trained.
        adapter: Its weights.
        seed: The run's seed.
    """
    return ALGORITHMS[config.type](config, sampling, policy, adapter, seed=seed)
