"""Pre-training of the policy by flow matching on dull pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention_processor import JointAttnProcessor2_0
from jaxtyping import Float, Int
from torch import Tensor, nn

from advgrpo.pocket.captions import captions_of
from studies.pocket.attention import PlainJointAttention
from studies.pocket.batches import draw_batch
from studies.pocket.loop import OptimizationSettings, minimize
from studies.pocket.text import embed_captions
from studies.pocket.vae import encode_mean

SETTINGS = OptimizationSettings(
    steps=6500, batch_size=128, learning_rate=2e-3, warmup_steps=300, ema_decay=0.9985
)
EMPTY_RATE = 0.1
MISTAKE_RATE = 0.12
CACHED_PICTURES = 65_536


@dataclass(frozen=True)
class LatentCache:
    """Encoded training pictures and the captions they belong to."""

    latents: Float[Tensor, "picture 8 8 8"]
    caption_index: Int[Tensor, "picture"]


@torch.no_grad()
def encode_pictures(
    pipeline: StableDiffusion3Pipeline, count: int, generator: torch.Generator
) -> LatentCache:
    """Render and encode dull pictures of the training captions, a few of them mistaken."""
    latents, indices = [], []
    for start in range(0, count, 512):
        size = min(512, count - start)
        batch = draw_batch("train", "base", size, generator, mistake_rate=MISTAKE_RATE)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = encode_mean(pipeline.vae, batch.pictures)
        latents.append(encoded.float())
        indices.append(batch.caption_index)
    return LatentCache(torch.cat(latents), torch.cat(indices))


def train_policy(
    pipeline: StableDiffusion3Pipeline,
    seed: int,
    scale: float,
    on_snapshot: Callable[[SD3Transformer2DModel], None] | None = None,
) -> dict[str, float]:
    """Train the pipeline's transformer in place; its autoencoder and text encoders stay fixed.

    Args:
        pipeline: With a trained autoencoder and trained text encoders.
        seed: Determines the pictures, noise and times.
        scale: Multiplies the number of steps.
        on_snapshot: Called with the averaged transformer every five minutes.

    Returns:
        The flow matching loss of the averaged transformer on new pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = SETTINGS.scaled(scale)
    cache = encode_pictures(
        pipeline, max(4096, round(CACHED_PICTURES * min(scale, 1.0))), generator
    )
    texts = [caption.text for caption in captions_of("train")]
    embeddings = embed_captions(pipeline, [*texts, ""])
    transformer = pipeline.transformer

    def batch_loss(forward: Callable[..., tuple[Tensor]], cache: LatentCache, size: int) -> Tensor:
        rows = torch.randint(0, len(cache.latents), (size,), generator=generator)
        captions = cache.caption_index[rows].clone()
        captions[torch.rand(size, generator=generator) < EMPTY_RATE] = len(texts)
        images = cache.latents[rows]
        noise = torch.randn(images.shape, generator=generator)
        sigma = torch.sigmoid(torch.randn(size, generator=generator))
        mixed = torch.lerp(images, noise, sigma[:, None, None, None])
        with torch.autocast("cpu", torch.bfloat16):
            velocity = forward(
                hidden_states=mixed,
                encoder_hidden_states=embeddings.context[captions],
                pooled_projections=embeddings.pooled[captions],
                timestep=1000.0 * sigma,
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - images)).square().mean()

    _close_gates(transformer)
    transformer.set_attn_processor(PlainJointAttention())
    compiled = torch.compile(transformer)
    average = minimize(
        transformer,
        lambda: batch_loss(compiled, cache, settings.batch_size),
        settings,
        name="policy",
        on_snapshot=on_snapshot,
    )
    transformer.load_state_dict(average.state_dict())
    transformer.set_attn_processor(JointAttnProcessor2_0())
    transformer.eval()
    fresh = encode_pictures(pipeline, 2048, generator)
    with torch.no_grad():
        return {"held_out_loss": batch_loss(transformer, fresh, 2048).item()}


def _close_gates(transformer: SD3Transformer2DModel) -> None:
    """Start every block as the identity and the output at zero, for a higher learning rate.

    Source:
        Peebles and Xie, arXiv:2212.09748, adaLN-Zero.
    """
    modulations = [transformer.norm_out.linear, transformer.proj_out]
    for block in transformer.transformer_blocks:
        modulations += [block.norm1.linear, block.norm1_context.linear]
    for linear in modulations:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
