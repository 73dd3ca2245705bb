"""What needs reference images of its own prompt, and so goes with no images that serve any."""

from advgrpo.config.discriminator import DiscriminatorConfig, PickScoreDiscriminatorConfig
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.reference_images import ReferenceImagesConfig
from advgrpo.config.reward import RewardConfig


def pairing_problems(
    references: ReferenceImagesConfig,
    discriminator: DiscriminatorConfig,
    reward: RewardConfig,
    evaluation: EvaluationConfig,
) -> list[str]:
    """List settings that pair reference images with prompts although they serve any prompt.

    Returns:
        What is wrong and what to do, in words; empty if the images belong to prompts.
    """
    if not references.serve_any_prompt:
        return []
    problems = [
        f"reference_images.{name} names a set already: leave it out"
        for name in ("existing", "existing_test")
        if getattr(references, name) is not None
    ]
    if isinstance(discriminator, PickScoreDiscriminatorConfig):
        problems.append(
            "discriminator.type=pickscore learns from pairs of one prompt: use type dino"
        )
    elif discriminator.prompt_conditioning is not None:
        problems.append(
            "discriminator.prompt_conditioning shows the discriminator the prompt of a reference "
            "image: set it to null"
        )
    comparing = {
        **{f"evaluation.scorers.{n}": s for n, s in enumerate(evaluation.scorers)},
        **reward.scorers,
    }
    problems += [
        f"{setting} ({scorer.type}) compares with the reference images of a prompt: remove it"
        for setting, scorer in comparing.items()
        if scorer.needs_reference_images
    ]
    return problems
