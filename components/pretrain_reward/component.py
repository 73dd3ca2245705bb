"""The task pretrain-reward."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def pretrain_reward(
    settings: dsl.Input[dsl.Artifact],
    reference_images: dsl.Input[dsl.Dataset],
    workspace: str,
    parent_run_id: str,
    run_id: str,
    discriminator: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train the discriminator on images of the base model before the first update.

    Args:
        settings: All settings of the run.
        reference_images: Reference images of the training prompts.
        workspace: Folder or s3:// location for the result.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        discriminator: The pre-trained discriminator.
        metrics: Its held-out accuracy and margins.
    """
    from advgrpo.config.tasks import PretrainingSettings, read_run
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import PRETRAIN_REWARD
    from advgrpo.runtime.results import located, refer

    arguments = {
        "settings": PretrainingSettings.of(read_run(settings.path)).model_dump_json(),
        "reference_images": located(reference_images),
        "workspace": workspace,
        "parent_run_id": parent_run_id,
    }
    result = run_task(PRETRAIN_REWARD, arguments, run_id=run_id)
    metrics.metadata.update(result.write_metrics(metrics.path))
    refer(discriminator, result.location)
