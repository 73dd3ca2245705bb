"""Replay of some of an evaluation's prompts."""

from collections.abc import Sequence
from pathlib import Path

import torch

from advgrpo.config.run import RunConfig
from advgrpo.data.images import decode_image
from advgrpo.evaluation.images import ImageSampler
from advgrpo.models.policies.loading import load_policy
from advgrpo.models.scorers.build import build_scorers
from advgrpo.records import EvaluatedPrompt
from advgrpo.runtime.devices import device


def replay_prompts(
    config: RunConfig, adapter: Path, sample: Sequence[EvaluatedPrompt], pictures: Path
) -> list[tuple[float, float]]:
    """Generate and score prompts again, and compare with the recorded results.

    Args:
        config: Settings of the evaluated run.
        adapter: The adapter's folder.
        sample: Prompts of the evaluation.
        pictures: Folder of the recorded images.

    Returns:
        For each prompt, the largest mean absolute difference of its images, in levels of 256, and
        the absolute difference of its alignment.

    Raises:
        WeightsError: If a model is missing or of another architecture.
    """
    target = device()
    policy = load_policy(config.policy, target, adapter=adapter)
    texts = [prompt.prompt for prompt in sample]
    # Batches differ from those of the evaluation, hence the tolerances of the comparison.
    sampler = ImageSampler(policy, texts, config.evaluation, config.evaluation_sampling)
    images = torch.cat([batch.images.cpu() for batch in sampler.all_batches()])
    groups = images.split(config.evaluation.images_per_prompt)
    family, _, metric = config.evaluation.alignment.partition(".")
    selected = [scorer for scorer in config.evaluation.scorers if scorer.metric_prefix == family]
    # Only the scorer of the alignment is loaded, as the others may be large.
    (scorer,) = build_scorers(selected, target)
    differences = []
    for prompt, generated in zip(sample, groups, strict=True):
        recorded = torch.stack(
            [decode_image((pictures / name).read_bytes()) for name in prompt.images]
        )
        # A sample may have fewer images of a prompt than were generated.
        levels = (generated[: len(recorded)] - recorded).abs().mean(dim=(1, 2, 3)) * 255
        scores = scorer.score(generated, [prompt.prompt] * len(generated))
        alignment = float(scores[metric].double().mean())
        differences.append((float(levels.max()), abs(alignment - prompt.alignment)))
    return differences
