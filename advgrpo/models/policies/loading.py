"""The policy families, and the policy that settings name."""

from importlib import import_module
from pathlib import Path

import torch

from advgrpo.config.policy import PolicyConfig, SamplingConfig
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.saved_adapter import adapter_folder
from advgrpo.models.policies.transformer_policy import TransformerPolicy

FAMILIES: dict[str, str] = {
    "sd3": "advgrpo.models.policies.sd3:Sd3Policy",
    "z_image": "advgrpo.models.policies.z_image:ZImagePolicy",
    "qwen_image": "advgrpo.models.policies.qwen_image:QwenImagePolicy",
    "flux1": "advgrpo.models.policies.flux1:Flux1Policy",
    "flux2_klein": "advgrpo.models.policies.flux2_klein:Flux2KleinPolicy",
}
"""`policy.type` -> module and class. A family is imported when it is used: each loads another of
diffusers' pipelines, which takes a second."""


def policy_class(config: PolicyConfig) -> type[TransformerPolicy]:
    """Import the class of a policy's family."""
    module, _, name = FAMILIES[config.type].partition(":")
    found: type[TransformerPolicy] = getattr(import_module(module), name)
    return found


def load_policy(
    config: PolicyConfig,
    device: torch.device,
    adapter: Path | None = None,
    *,
    seed: int = 0,
    embeddings: StoredEmbeddings | None = None,
) -> Policy:
    """Load a base model and put an adapter on it.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        adapter: Folder of a trained adapter in peft's layout; None takes
            `config.adapter.initial_adapter`, or else a fresh adapter, which changes no image yet.
        seed: Of a fresh adapter.
        embeddings: Of the prompts that are expected; without them, text encoders are loaded for
            the first prompt.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture, or the adapter is
            for other modules, or its rank or alpha differs from the settings.
    """
    adapter = _adapter(config, adapter)
    policy_class(config).check(config, adapter=adapter)
    # Typed as the protocol from here on: callers use nothing that only some families have.
    family: type = policy_class(config)
    policy: Policy = family(config, device, adapter=adapter, seed=seed, embeddings=embeddings)
    return policy


def check_policy(config: PolicyConfig, sampling: SamplingConfig, adapter: Path | None) -> None:
    """Check that a policy can be loaded and sampled from, before anything large is loaded.

    Args:
        config: The policy's settings.
        sampling: How images will be sampled.
        adapter: As for `load_policy`.

    Raises:
        ConfigError: If the model has no guidance, or cannot draw images of this size.
        WeightsError: If the pipeline is another family's or incomplete, or the adapter is for
            another model.
    """
    policy_class(config).check(
        config, guidance_scale=sampling.guidance_scale, adapter=_adapter(config, adapter)
    )


def _adapter(config: PolicyConfig, adapter: Path | None) -> Path | None:
    # Only without an explicit adapter: one that was trained from the initial one includes it.
    if adapter is None and config.adapter.initial_adapter is not None:
        return adapter_folder(config.adapter.initial_adapter)
    return adapter
