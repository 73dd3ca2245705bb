"""Estimated time of the passes of each policy family on named GPUs: `make roofline`.

Full-size models are built on the device `meta`, so nothing is computed and no weights are needed.
Each operator takes the longer of its operations over a rate and its bytes over a bandwidth, plus
the launch of a kernel. These are estimates: no GPU has confirmed them.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    T5Config,
    T5EncoderModel,
)

from advgrpo.config import DinoDiscriminatorConfig, RunConfig, resolve
from advgrpo.config.passes import rollout_passes, trained_passes
from advgrpo.models.published import PUBLISHED
from advgrpo.planning.cards import CARDS, Card
from advgrpo.planning.durations import DATA, PassSeconds
from advgrpo.planning.work import guidance_passes
from studies.bench.comparison import DISCRIMINATOR_ROLLOUTS
from studies.bench.operators import LARGE_MATMUL, Work, counted_operators
from studies.bench.published import Build, build_policy, draw_embeddings, without_prompts

META = torch.device("meta")
IMAGES = 6
FITTED_IMAGES = {"sd35m_dino": 12}
"""Microbatches that training fits to 80 GB, where they were looked up."""

FAST = (
    "training.algorithm.window={type: fixed, start: 3, length: 2}",
    "training.algorithm.shared_prefix=true",
    "training.algorithm.fast_sampling={guidance_interval: [0.5, 0.8], tail_steps: 3}",
    "training.rollout.microbatch_size=12",
)
"""Cheaper rollouts, which change results; the window is not guided."""

PRESETS = (
    "sd35m_dino",
    "sd35l_dino",
    "z_image_dino",
    "flux2_klein_dino",
    "flux1_dino",
    "qwen_image_dino",
)


def main() -> None:
    """Write the data of `advgrpo plan`, and print the table of docs/experiments.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, action="append")
    presets = parser.parse_args().preset or PRESETS
    data = json.loads(DATA.read_text("utf-8")) if DATA.exists() else {}
    rows = []
    for preset in presets:
        run = resolve(preset, needed=())
        estimate = estimate_passes(run, FITTED_IMAGES.get(preset, IMAGES))
        data[run.policy.weights.location] = {
            "pixels": run.policy.resolution_pixels,
            **{gpu: _seconds(estimate, card) for gpu, card in CARDS.items()},
        }
        fast = resolve(preset, FAST, needed=()) if run.policy.type == "sd3" else None
        rows += table_rows(preset, run, fast, estimate)
    DATA.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    sys.stdout.write("\n".join((*HEADER, *rows)) + "\n")


@dataclass(frozen=True)
class Pass:
    """The operators of a pass of several images."""

    work: Work
    images: int = IMAGES

    def seconds(self, card: Card) -> float:
        """Estimate the time of one image on a card."""
        return self.work.seconds(card) / self.images

    def share(self, card: Card) -> float:
        """Return the share of the rate of one large matrix product."""
        rate = LARGE_MATMUL * card.bfloat16
        return self.work.operations / self.work.seconds(card) / rate


def estimate_passes(run: RunConfig, fitted: int) -> Mapping[str, Pass]:
    """Count the operators of each kind of pass.

    Args:
        run: A preset's settings.
        fitted: Images of a compiled pass.

    Returns:
        `forward` and `update` (forward and backward), each `eager` with a float32 adapter and
        `compiled` with one in the transformer's precision; `decode`, also
        in float32; `features` of the discriminator's backbone, also in float32; and `text` of the
        encoders of Stable Diffusion 3.
    """
    found: dict[str, Pass] = {}
    # The precision of the adapter's weights decides, which are cast below.
    plain = {"gradient_checkpointing": False, "adapter_dtype": "float32"}
    config = run.policy.model_copy(update=plain)
    policy = build_policy(config, META, build_on_meta)
    scale = run.training.sampling.guidance_scale
    for kind, images in (("eager", IMAGES), ("compiled", fitted)):
        latents = torch.empty(images, *policy.latent_shape, device=META)
        if kind == "compiled":
            for parameter in policy.trainable_parameters().values():
                parameter.data = parameter.data.to(policy.dtype)
        embeddings = draw_embeddings(policy, images)
        with without_prompts(policy):
            with torch.no_grad(), counted_operators() as forward:
                policy.velocity(latents, 0.5, embeddings, guidance_scale=scale)
            with counted_operators() as update:
                policy.velocity(latents, 0.5, embeddings, guidance_scale=scale).mean().backward()
        for name, counter in (("forward", forward), ("update", update)):
            work = counter.eager if kind == "eager" else counter.fused
            found[f"{name} {kind}"] = Pass(work, images)
    latents = torch.empty(IMAGES, *policy.latent_shape, device=META)
    with torch.no_grad():
        with counted_operators() as decode:
            policy.decode(latents)
        policy.vae.float()
        with counted_operators() as exact:
            policy.decode(latents)
        assert isinstance(run.discriminator, DinoDiscriminatorConfig)
        pixels = run.discriminator.resolution_pixels
        backbone = build_on_meta(_dino, torch.float32, META)
        with counted_operators() as features:
            backbone(torch.empty(IMAGES, 3, pixels, pixels, device=META))
        with counted_operators() as text:
            if run.policy.type == "sd3":
                _encode(run)
    found |= {"decode": Pass(decode.eager), "decode float32": Pass(exact.eager)}
    found |= {"features": Pass(features.eager.in_tf32()), "features float32": Pass(features.eager)}
    return found | {"text": Pass(text.eager)}


def build_on_meta(build: Build, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Build a model without memory for its weights."""
    with device:
        model: nn.Module = build().to(dtype).eval()
    return model


def _dino() -> nn.Module:
    made: nn.Module = Dinov2Model(Dinov2Config(**PUBLISHED["hub://facebook/dinov2-base"][""]))
    return made


def _encode(run: RunConfig) -> None:
    parts = PUBLISHED[run.policy.weights.location]
    for name in ("text_encoder", "text_encoder_2"):
        clip = partial(CLIPTextModelWithProjection, CLIPTextConfig(**parts[name]))
        build_on_meta(clip, torch.bfloat16, META)(
            torch.zeros(IMAGES, 77, dtype=torch.long, device=META)
        )
    t5 = partial(T5EncoderModel, T5Config(**parts["text_encoder_3"]))
    tokens = torch.zeros(IMAGES, run.policy.max_sequence_length, dtype=torch.long, device=META)
    build_on_meta(t5, torch.bfloat16, META)(tokens)


def _seconds(estimate: Mapping[str, Pass], card: Card) -> PassSeconds:
    """Return seconds of one image; of a transformer pass, with both halves of the guidance."""
    return {name: float(f"{each.seconds(card):.4g}") for name, each in estimate.items()}


HEADER = (
    (
        "| preset | GPU | share of matmul rate in a rollout, before / after | images/s, released "
        "structure / before / after / cheaper | images of policy updates per second, likewise |"
    ),
    "|---|---|---|---|---|",
)


def table_rows(
    preset: str, run: RunConfig, fast: RunConfig | None, estimate: Mapping[str, Pass]
) -> list[str]:
    """Return the rows of a preset: one for each GPU."""
    rows, cycle = [], DISCRIMINATOR_ROLLOUTS + 1
    for card in CARDS.values():
        seconds = _seconds(estimate, card)
        released = _released(run, seconds)
        ours = [_ours(run, seconds, "eager"), _ours(run, seconds, "compiled")]
        if fast is not None:
            ours.append(_ours(fast, seconds, "compiled"))
        shares = " / ".join(
            f"{estimate[f'forward {kind}'].share(card):.0%}" for kind in ("eager", "compiled")
        )
        rates = [f"{1 / each:.2f}" for each in ours]
        images = " / ".join([f"{cycle / released:.2f}", *rates])
        updates = " / ".join([f"{1 / released:.2f}", *rates])
        rows.append(f"| `{preset}` | {card.name} | {shares} | {images} | {updates} |")
    return rows


def _ours(run: RunConfig, seconds: PassSeconds, kind: str) -> float:
    """Return the seconds of a whole update for each of its images."""
    training, halves = run.training, guidance_passes(run)
    count = training.rollout.prompts_per_update * training.rollout.group_size
    sampled = rollout_passes(run.policy, training) / count / halves
    trained = trained_passes(run.policy, training) / halves
    passes = sampled * seconds[f"forward {kind}"] + trained * seconds[f"update {kind}"]
    if kind == "compiled":
        return passes + seconds["decode"] + seconds["features"]
    # Before, activations were recomputed.
    passes += trained * seconds["forward eager"]
    return passes + seconds["decode"] + seconds["features float32"]


def _released(run: RunConfig, seconds: PassSeconds) -> float:
    """Return the seconds of ten rollouts and one update, for each image of a rollout."""
    steps, trained = run.training.sampling.num_inference_steps, run.training.algorithm.trained_steps
    sampled = seconds["text"] + steps * seconds["forward eager"] + seconds["decode float32"]
    update = seconds["text"] + trained * (seconds["update eager"] + seconds["forward eager"])
    # Each step of the discriminator also encodes reference images.
    encoded = (2 * DISCRIMINATOR_ROLLOUTS + 1) * seconds["features float32"]
    return (DISCRIMINATOR_ROLLOUTS + 1) * sampled + encoded + update


if __name__ == "__main__":
    main()
