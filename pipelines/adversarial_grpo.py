"""The pipeline: from settings to a registered adapter."""

import sys
from pathlib import Path
from typing import NamedTuple

import yaml
from kfp import compiler, dsl

from advgrpo.config.pipeline_preset import preset_choices
from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS
from components.cluster import on_cluster
from components.evaluate.component import evaluate
from components.pretrain_reward.component import pretrain_reward
from components.reference_images.component import reference_images
from components.register.component import register
from components.resolve_config.component import resolve_config
from components.train.component import train


class Outputs(NamedTuple):
    """Results of the tasks, the registered version, and the MLflow run."""

    reference_images: dsl.Dataset
    test_reference_images: dsl.Dataset
    discriminator: dsl.Model
    trained: dsl.Model
    evaluation: dsl.Artifact
    model_version: str
    parent_run_id: str


# The form of Kubeflow Pipelines shows names and types of parameters but not their descriptions, so
# that of the pipeline explains each, in the form's order.
_DESCRIPTION = """\
Post-train a text-to-image flow model by adversarial reward.

Parameters:
- mlflow_run_key: resumes the MLflow run that was opened with this key; empty opens a new one.
- overrides: single settings as a list of texts, for instance ["training.updates=10", "seed=1"].
- preset: the settings to start from; `custom` takes settings_yaml alone.
- processes: processes of each task, one per GPU; they fill whole nodes.
- settings_yaml: YAML text with the settings that differ from the preset; empty for none.
- workspace: s3://bucket/folder for results and checkpoints, from which equal runs resume.
"""


@dsl.pipeline(name="adversarial-grpo", display_name="Adversarial GRPO", description=_DESCRIPTION)
def adversarial_grpo(
    workspace: str,
    preset: str = "pocket",
    settings_yaml: str = "",
    overrides: list[str] = [],  # noqa: B006 - kfp reads it as a default
    processes: int = 1,
    mlflow_run_key: str = "",
) -> Outputs:
    """Post-train a text-to-image flow model by adversarial reward.

    Args:
        workspace: Location of results and checkpoints; on a cluster, an s3://bucket/folder that all
            tasks can write to. A run resumes from the results of earlier runs with equal settings.
        preset: Name of a preset that ships with advgrpo, for instance pocket; or custom, which
            takes settings_yaml alone.
        settings_yaml: YAML text with the settings that differ from the preset, for instance
            "training: {updates: 10}"; empty for none.
        overrides: Single settings, as a list of strings key=value, for instance
            ["training.updates=10", "seed=1"]; they take precedence over settings_yaml.
        processes: Processes of each task, one per GPU. They must be able to share an update evenly
            and, if they need more than one node, to fill their nodes.
        mlflow_run_key: Key of the MLflow run. A run that was opened with it is resumed; empty opens
            a new one.

    Returns:
        Results of the tasks, the registered version, and the MLflow run.
    """
    job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    config = resolve_config(
        preset=preset,
        settings_yaml=settings_yaml,
        overrides=overrides,
        processes=processes,
        run_key=mlflow_run_key,
        workspace=workspace,
    )
    # Every run has its own MLflow run, so Kubeflow's cache would never hit. Tasks look up finished
    # results in the workspace instead.
    config.set_caching_options(enable_caching=False)
    settings, run_id = config.outputs["settings"], config.outputs["parent_run_id"]
    images = reference_images(
        settings=settings,
        workspace=workspace,
        processes=processes,
        parent_run_id=run_id,
        run_id=job,
    )
    reward = pretrain_reward(
        settings=settings,
        reference_images=images.outputs["train_images"],
        workspace=workspace,
        parent_run_id=run_id,
        run_id=job,
    )
    trained = train(
        settings=settings,
        reference_images=images.outputs["train_images"],
        discriminator=reward.outputs["discriminator"],
        workspace=workspace,
        processes=processes,
        parent_run_id=run_id,
        run_id=job,
    )
    evaluation = evaluate(
        settings=settings,
        adapter=trained.outputs["adapter"],
        discriminator=reward.outputs["discriminator"],
        reference_images=images.outputs["test_images"],
        workspace=workspace,
        processes=processes,
        parent_run_id=run_id,
        run_id=job,
    )
    version = register(
        settings=settings,
        adapter=trained.outputs["adapter"],
        evaluation=evaluation.outputs["evaluation"],
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
        reference_images=images.outputs["train_images"],
        test_reference_images=images.outputs["test_images"],
        discriminator=reward.outputs["discriminator"],
        trained=trained.outputs["adapter"],
        evaluation=evaluation.outputs["evaluation"],
        model_version=version.output,
        parent_run_id=run_id,
    )


def compile_pipeline(path: Path) -> None:
    """Write the pipeline as YAML for Kubeflow Pipelines."""
    compiler.Compiler().compile(adversarial_grpo, str(path))
    text = path.read_text(encoding="utf-8")
    head = [line.rstrip() for line in text.splitlines() if line.startswith("#")]
    pipeline, *platforms = yaml.safe_load_all(text)
    # A choice in the form, which the server enforces. The SDK 2.17 has no type that compiles to it.
    preset = pipeline["root"]["inputDefinitions"]["parameters"]["preset"]
    preset["literals"] = preset_choices()
    body = yaml.safe_dump_all([pipeline, *platforms], sort_keys=True, allow_unicode=True)
    path.write_text("\n".join([*head, body]), encoding="utf-8")


if __name__ == "__main__":
    compile_pipeline(Path(sys.argv[1]))
