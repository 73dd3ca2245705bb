"""Encoding of prompts into a store of embeddings."""

from collections.abc import Sequence

import torch

from advgrpo.config.policy import PolicyConfig
from advgrpo.models.policies.base import TextEncoders
from advgrpo.models.policies.embeddings import not_encoded, write_embeddings
from advgrpo.models.policies.loading import policy_class
from advgrpo.storage.locations import join
from advgrpo.telemetry.progress import Progress

PROMPTS_PER_SHARD = 64

CPU = torch.device("cpu")


def text_encoders(config: PolicyConfig, device: torch.device = CPU) -> TextEncoders:
    """Return a policy's text encoders; they are loaded when they encode."""
    return policy_class(config).text_encoders(config, device)


def unconditional_prompt(config: PolicyConfig) -> str:
    """Return the prompt that a policy's guidance leads away from."""
    return policy_class(config).unconditional_prompt


def embeddings_location(config: PolicyConfig, store: str, device: torch.device = CPU) -> str:
    """Return where a store has a policy's embeddings: below the fingerprint of its encoders."""
    return join(store, text_encoders(config, device).fingerprint())


def encode_prompts(
    config: PolicyConfig,
    prompts: Sequence[str],
    *,
    store: str,
    device: torch.device = CPU,
    share: int = 0,
    shares: int = 1,
) -> str:
    """Encode the prompts that a store lacks, shard by shard, and free the text encoders.

    Args:
        config: The policy's settings.
        prompts: Those that a run needs; no encoder is loaded if the store has all.
        store: Local folder or `s3://` location for embeddings of all runs.
        device: Device of the text encoders.
        share: Index of this machine.
        shares: How many machines share the prompts.

    Returns:
        Location of these prompts' embeddings once all machines have encoded their share.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture.
        StorageError: If embeddings cannot be read or written.
    """
    encoders = text_encoders(config, device)
    # Reads the files of the encoders, but does not load them.
    location = join(store, encoders.fingerprint())
    # Split before the store is read, which changes as other machines write.
    mine = not_encoded(list(dict.fromkeys(prompts))[share::shares], location)
    if mine:
        progress = Progress("prompt embeddings", len(mine), "prompts")
        for first in range(0, len(mine), PROMPTS_PER_SHARD):
            embeddings = {}
            for prompt in mine[first : first + PROMPTS_PER_SHARD]:
                embeddings[prompt] = encoders.encode(prompt)
                progress.advance()
            # Written shard by shard, so that an interrupted task resumes after the last one.
            write_embeddings(location, embeddings)
        # Before the caller loads the transformer: a T5 next to it may not fit in memory.
        encoders.release()
    return location
