"""The task train."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def train(
    settings: dsl.Input[dsl.Artifact],
    reference_images: dsl.Input[dsl.Dataset],
    discriminator: dsl.Input[dsl.Model],
    workspace: str,
    processes: int,
    parent_run_id: str,
    run_id: str,
    adapter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Post-train the policy, resuming from the last checkpoint if there is one.

    Args:
        settings: All settings of the run.
        reference_images: Reference images of the training prompts.
        discriminator: The pre-trained discriminator.
        workspace: Folder or s3:// location for checkpoints and the result.
        processes: Training processes, one per GPU.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        adapter: The result of the training: the adapter, in the formats of peft and diffusers, the
            discriminator and the history.
        metrics: Held-out metrics of the adapter, and the time and memory of the training.
    """
    from advgrpo.config.tasks import TrainingSettings, read_run
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import TRAIN
    from advgrpo.runtime.results import located, refer
    from advgrpo.tasks.finished import checkpoints_location

    arguments = {
        "settings": TrainingSettings.of(read_run(settings.path)).model_dump_json(),
        "reference_images": located(reference_images),
        "discriminator": located(discriminator),
        "workspace": workspace,
        "processes": processes,
        "parent_run_id": parent_run_id,
    }
    result = run_task(TRAIN, arguments, run_id=run_id)
    metrics.metadata.update(result.write_metrics(metrics.path))
    refer(adapter, result.location, checkpoints=checkpoints_location(result.location))
