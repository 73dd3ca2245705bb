"""Metrics of the finished base policy, by which a rebuild is compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor
from transformers import Dinov2Model

from advgrpo.pocket.captions import captions_of
from advgrpo.pocket.judge import PocketJudge, PocketJudgeScorer
from advgrpo.pocket.pictures import RESOLUTION_PIXELS
from advgrpo.pocket.source import PocketRenderer
from advgrpo.pocket.tokenizers import T5_LENGTH
from studies.pocket.dino import cls_features

DENOISING_STEPS = 8
GUIDANCE_SCALES = (1.0, 1.5, 2.5)
REFERENCES_PER_PROMPT = 4


def sample(
    pipeline: StableDiffusion3Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float,
) -> Float[Tensor, "batch 3 32 32"]:
    """Draw one picture for each prompt by Euler steps, each from its own seed."""
    pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(
            prompt=list(prompts[start : start + 64]),
            generator=[torch.Generator().manual_seed(s) for s in seeds[start : start + 64]],
            num_inference_steps=DENOISING_STEPS,
            guidance_scale=guidance_scale,
            height=RESOLUTION_PIXELS,
            width=RESOLUTION_PIXELS,
            max_sequence_length=T5_LENGTH,
            output_type="pt",
        ).images
        for start in range(0, len(prompts), 64)
    ]
    return torch.cat(pictures)


def frechet_distance(
    first: Float[Tensor, "first width"], second: Float[Tensor, "second width"]
) -> float:
    """Return the Frechet distance between two sets of features, taken as Gaussians.

    Source:
        Heusel et al., arXiv:1706.08500, equation 6; the trace of the root by eigenvalues.
    """
    first, second = first.double(), second.double()
    mean_term = (first.mean(0) - second.mean(0)).square().sum()
    cov_first, cov_second = torch.cov(first.T), torch.cov(second.T)
    roots = torch.linalg.eigvals(cov_first @ cov_second).real.clamp_min(0.0).sqrt().sum()
    return float(mean_term + cov_first.trace() + cov_second.trace() - 2.0 * roots)


def measure_base_policy(
    pipeline: StableDiffusion3Pipeline, judge: PocketJudge, dino_folder: Path, seed: int
) -> dict[str, float]:
    """Measure alignment, style and distance to the references on the held-out captions.

    Args:
        pipeline: The finished pipeline.
        judge: The trained judge.
        dino_folder: The saved backbone.
        seed: Start of the seeds of the sampled pictures.

    Returns:
        For each guidance scale the judge's two shares, the mean style and the distance; the
        distance's floor; and the images drawn in a CPU-second at batch 32.
    """
    prompts = [caption.text for caption in captions_of("test")]
    backbone = Dinov2Model.from_pretrained(dino_folder, dtype=torch.float32).eval()
    scorer = PocketJudgeScorer(judge)
    repeated = prompts * REFERENCES_PER_PROMPT
    references = PocketRenderer().draw(repeated, range(len(repeated)))
    others = PocketRenderer().draw(repeated, range(10_000, 10_000 + len(repeated)))
    wanted = cls_features(backbone, references)
    metrics = {"frechet_floor": frechet_distance(cls_features(backbone, others), wanted)}
    for scale in GUIDANCE_SCALES:
        seeds = [seed + 100_000 + i for i in range(len(prompts))]
        pictures = sample(pipeline, prompts, seeds, scale)
        measured = scorer.score(pictures, prompts)
        metrics |= {f"guidance_{scale}_{k}": v.mean().item() for k, v in measured.items()}
        metrics[f"guidance_{scale}_style"] = scorer.style(pictures).mean().item()
        distance = frechet_distance(cls_features(backbone, pictures), wanted)
        metrics[f"guidance_{scale}_frechet_distance"] = distance
    started = time.process_time()
    sample(pipeline, prompts[:32], range(32), 1.0)
    metrics["images_per_cpu_second"] = 32.0 / (time.process_time() - started)
    return metrics
