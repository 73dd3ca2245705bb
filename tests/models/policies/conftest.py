from pathlib import Path

import pytest
import torch

from advgrpo.models.policies import Policy, load_policy
from advgrpo.testing import TinyModels, write_tiny_models

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def policy(tiny: TinyModels) -> Policy:
    return load_policy(tiny.config().policy, CPU)


@pytest.fixture
def trained(policy: Policy) -> Policy:
    """A policy whose adapter changes its images."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return policy


@pytest.fixture
def adapter(trained: Policy, tmp_path: Path) -> Path:
    from advgrpo.models.policies.adapter import save_adapter

    folder = tmp_path / "adapter"
    save_adapter(folder, trained.trainable_parameters(), trained.config.adapter)
    return folder
