"""The pipeline: from settings to a registered adapter."""

import sys
from typing import NamedTuple

from kfp import compiler, dsl

from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS
from components.cluster import on_cluster
from components.evaluate.component import evaluate
from components.pretrain_reward.component import pretrain_reward
from components.reference_images.component import reference_images
from components.register.component import register
from components.resolve_config.component import resolve_config
from components.train.component import train


class Outputs(NamedTuple):
    """Locations of the tasks' results, the registered version, and the MLflow run."""

    reference_images: str
    test_reference_images: str
    discriminator: str
    trained: str
    evaluation: str
    model_version: str
    parent_run_id: str


@dsl.pipeline(name="adversarial-grpo", display_name="Adversarial GRPO")
def adversarial_grpo(
    workspace: str,
    preset: str = "pocket",
    overrides: list[str] = [],  # noqa: B006 - kfp reads it as a default
    processes: int = 1,
    run_key: str = "",
) -> Outputs:
    """Post-train a text-to-image flow model by adversarial reward.

    Args:
        workspace: Location of results and checkpoints; on a cluster, an s3://bucket/folder that all
            tasks can write to. A run resumes from the results of earlier runs with equal settings.
        preset: Name of a preset that ships with advgrpo, for instance pocket; or the text of a YAML
            file with settings; or the path of such a file in the image.
        overrides: Changes to the preset, as a list of strings key=value, for instance
            ["training.updates=10", "seed=1"].
        processes: Processes of each task, one per GPU. They must be able to share an update evenly
            and, if they need more than one node, to fill their nodes.
        run_key: Key of the MLflow run. A run that was opened with it is resumed; empty opens a new
            one.

    Returns:
        Locations of the tasks' results, the registered version, and the MLflow run.
    """
    job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    config = resolve_config(
        preset=preset,
        overrides=overrides,
        processes=processes,
        run_key=run_key,
        workspace=workspace,
    )
    # Every run has its own MLflow run, so Kubeflow's cache would never hit. Tasks look up finished
    # results in the workspace instead.
    config.set_caching_options(enable_caching=False)
    run_id = config.outputs["parent_run_id"]
    images = reference_images(
        settings=config.outputs["reference_images"],
        workspace=workspace,
        processes=processes,
        parent_run_id=run_id,
        run_id=job,
    )
    reward = pretrain_reward(
        settings=config.outputs["pretraining"],
        reference_images=images.outputs["train"],
        workspace=workspace,
        parent_run_id=run_id,
        run_id=job,
    )
    trained = train(
        settings=config.outputs["training"],
        reference_images=images.outputs["train"],
        discriminator=reward.outputs["Output"],
        workspace=workspace,
        processes=processes,
        parent_run_id=run_id,
        run_id=job,
    )
    evaluation = evaluate(
        settings=config.outputs["run"],
        trained=trained.outputs["Output"],
        discriminator=reward.outputs["Output"],
        reference_images=images.outputs["test"],
        workspace=workspace,
        processes=processes,
        parent_run_id=run_id,
        run_id=job,
    )
    version = register(
        settings=config.outputs["run"],
        trained=trained.outputs["Output"],
        evaluation=evaluation.outputs["Output"],
        parent_run_id=run_id,
    )
    for described, task in zip(
        PIPELINE_TASKS, (config, images, reward, trained, evaluation, version), strict=True
    ):
        on_cluster(task, described.title)
        # A container may be lost with its node; its job keeps running meanwhile. Settings that the
        # first task refuses would be refused again.
        if task is not config:
            task.set_retry(num_retries=2, backoff_duration="30s")
    return Outputs(
        reference_images=images.outputs["train"],
        test_reference_images=images.outputs["test"],
        discriminator=reward.outputs["Output"],
        trained=trained.outputs["Output"],
        evaluation=evaluation.outputs["Output"],
        model_version=version.outputs["Output"],
        parent_run_id=run_id,
    )


if __name__ == "__main__":
    compiler.Compiler().compile(adversarial_grpo, sys.argv[1])
