"""Measure the trained model against its base, and write the report."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from advgrpo.backbones.dino import DinoBackbone
from advgrpo.config import RunConfig
from advgrpo.config.tasks import digest, parse_json
from advgrpo.discriminator import build_discriminator, load_discriminator
from advgrpo.evaluation.evaluate import evaluate as measure
from advgrpo.evaluation.evaluate import images_to_sample
from advgrpo.evaluation.measuring import Reward
from advgrpo.evaluation.report import PhaseCost, RunFacts, write_report
from advgrpo.evaluation.saved import write_evaluation
from advgrpo.policy import load_policy
from advgrpo.progress import Progress
from advgrpo.records import EvaluationReport
from advgrpo.storage import join, local_folder
from advgrpo.tasks.inputs import build_scorers, device, read_run_prompts
from advgrpo.tasks.reference_images import open_reference_images
from advgrpo.tasks.results import (
    LINEAGE_FILE,
    TaskResult,
    finished_result,
    read_history,
    read_metrics,
    result_folder,
    write_metrics,
)
from advgrpo.tasks.running import Cost, tracked_task

REPORT_FILE = "report.html"


def evaluate(
    settings: str,
    *,
    trained: str,
    discriminator: str,
    reference_images: str,
    workspace: str,
    parent_run_id: str = "",
) -> TaskResult:
    """Evaluate, unless an earlier run with the same settings and inputs did.

    Args:
        settings: `RunConfig` as JSON text.
        trained: Location of the training's result.
        discriminator: Location of the pre-trained discriminator, for the report's costs.
        reference_images: Location of reference images of the test prompts.
        workspace: Local path or `s3://` location under which results are kept.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        A folder that holds `report.html` and `evaluation.json` with its images.

    Raises:
        AdvGrpoError: If an input cannot be used or a measure is not finite.
    """
    cost = Cost()
    with tracked_task("evaluate", parent_run_id) as run:
        config = parse_json(RunConfig, settings, where="the settings")
        prompts = read_run_prompts(config.prompts)
        key = digest(config, prompts.test.digest, trained, reference_images)
        location = join(workspace, "evaluations", key)
        if (done := finished_result(location)) is not None:
            return done
        result, where = local_folder(trained), device()
        images = open_reference_images(
            reference_images,
            prompts.test,
            images_per_prompt=config.reference_images.test_images_per_prompt,
            resolution_pixels=config.policy.resolution_pixels,
            seed=config.seed,
            other_prompts=prompts.train,
        )
        wanted, distance = config.evaluation, config.evaluation.distance
        progress = Progress("evaluation", images_to_sample(prompts.test, wanted), "images")
        evaluation = measure(
            load_policy(config.policy, where, adapter=result / "adapter"),
            prompts.test,
            images,
            config=wanted,
            sampling=config.training.sampling,
            scorers=build_scorers(wanted.scorers, where),
            backbone=DinoBackbone(
                distance.weights, resolution_pixels=distance.resolution_pixels, device=where
            ),
            reward=_trained_reward(config, result / "discriminator"),
            # A tuned PickScore began as the frozen one.
            trained_on={
                config.discriminator.type,
                *(term.type for term in config.training.reward.terms),
            },
            on_progress=progress.advance,
        )
        metrics = summary(evaluation.report) | cost.measures()
        facts = RunFacts(
            name=config.promotion.registered_model,
            settings=config,
            created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            phases=_phases(discriminator, result, metrics, evaluation.report.images * 2),
            policy_updates=int(read_metrics(result)["policy_updates"]),
            lineage=json.loads((result / LINEAGE_FILE).read_text(encoding="utf-8")),
        )
        with result_folder(location) as folder:
            write_evaluation(folder, evaluation)
            write_report(folder / REPORT_FILE, evaluation, read_history(result), facts)
            write_metrics(folder, metrics)
            run.artifact(folder / REPORT_FILE)
        run.parameters(config.evaluation.model_dump(mode="json"))
        run.metrics(metrics, step=0)
        return TaskResult(location, metrics)


def summary(report: EvaluationReport) -> dict[str, float]:
    """Give an evaluation as named numbers.

    Returns:
        `distance_base`, `distance_trained`, `alignment_base`, `alignment_trained` and the interval
        of the alignment's difference; then means and difference of every measure.
    """
    distance = report.comparison(report.distance)
    alignment = report.comparison(report.alignment)
    figures = {
        "distance_base": distance.base.mean,
        "distance_trained": distance.trained.mean,
        "alignment_base": alignment.base.mean,
        "alignment_trained": alignment.trained.mean,
        "alignment_difference_low": alignment.difference.low,
        "alignment_difference_high": alignment.difference.high,
    }
    for comparison in report.comparisons:
        figures |= {
            f"base/{comparison.measure}": comparison.base.mean,
            f"trained/{comparison.measure}": comparison.trained.mean,
            f"difference/{comparison.measure}": comparison.difference.mean,
            f"difference_low/{comparison.measure}": comparison.difference.low,
            f"difference_high/{comparison.measure}": comparison.difference.high,
        }
    return figures


def _trained_reward(config: RunConfig, folder: Path) -> Reward:
    discriminator = build_discriminator(config.discriminator, device(), seed=config.seed)
    load_discriminator(folder, discriminator)

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        features = discriminator.image_features(images)
        return discriminator.rewards(discriminator.with_prompts(features, prompts))

    return reward


def _phases(
    discriminator: str, trained: Path, evaluation: dict[str, float], images: int
) -> list[PhaseCost]:
    pretraining = read_metrics(local_folder(discriminator))
    training = read_metrics(trained)
    return [
        PhaseCost(
            "Reward pre-training",
            pretraining["cost/seconds"],
            peak_memory_mib=pretraining["cost/peak_memory_mib"],
        ),
        PhaseCost(
            "Adversarial training",
            sum(value for name, value in training.items() if name.startswith("seconds/")),
            images=int(training["images_sampled"]),
            peak_memory_mib=training["cost/peak_memory_mib"],
        ),
        PhaseCost(
            "Evaluation",
            evaluation["cost/seconds"],
            images=images,
            peak_memory_mib=evaluation["cost/peak_memory_mib"],
        ),
    ]
