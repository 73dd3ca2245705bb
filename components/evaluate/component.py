"""The task evaluate."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def evaluate(
    settings: dsl.Input[dsl.Artifact],
    adapter: dsl.Input[dsl.Model],
    discriminator: dsl.Input[dsl.Model],
    reference_images: dsl.Input[dsl.Dataset],
    workspace: str,
    processes: int,
    parent_run_id: str,
    run_id: str,
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Compare the trained model with its base model and the champion on the test prompts.

    Args:
        settings: All settings of the run.
        adapter: The result of the training.
        discriminator: The pre-trained discriminator, for the report's costs.
        reference_images: Reference images of the test prompts.
        workspace: Folder or s3:// location for the batches' metrics and the result.
        processes: Processes that evaluate batches, one per GPU.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        evaluation: Metrics of all prompts, with the images.
        report: HTML page with images, curves and tables.
        metrics: All metrics of all models.
    """
    from advgrpo.config.tasks import read_run
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import EVALUATE
    from advgrpo.runtime.results import located, refer

    arguments = {
        "settings": read_run(settings.path).model_dump_json(),
        "trained": located(adapter),
        "discriminator": located(discriminator),
        "reference_images": located(reference_images),
        "workspace": workspace,
        "processes": processes,
        "parent_run_id": parent_run_id,
    }
    result = run_task(EVALUATE, arguments, run_id=run_id)
    result.copy(report.path, "report.html")
    metrics.metadata.update(result.write_metrics(metrics.path))
    refer(evaluation, result.location)
