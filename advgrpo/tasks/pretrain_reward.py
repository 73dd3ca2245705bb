"""The task pretrain-reward: the discriminator, trained on images of the base model."""

from advgrpo.config.tasks import PretrainingSettings, parse_json
from advgrpo.data.prompts import read_run_prompts
from advgrpo.models.discriminators.build import build_discriminator
from advgrpo.models.discriminators.saving import save_discriminator
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.loading import load_policy
from advgrpo.reference_images.opening import open_reference_images
from advgrpo.reference_images.shared_images import assign_for_training
from advgrpo.runtime.pipeline_tasks import PRETRAIN_REWARD
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.results import (
    TaskResult,
    find_result,
    record_history,
    result_folder,
    write_history,
    write_metrics,
)
from advgrpo.runtime.task_context import Cost, track_task
from advgrpo.storage.locations import join
from advgrpo.tasks.embeddings import encode_for_task, pretraining_prompts
from advgrpo.tasks.finished import pretraining_location
from advgrpo.training.pretraining import pretrain_discriminator
from advgrpo.training.reference_features import FEATURES, ReferenceFeatures


def pretrain_reward(
    settings: str, *, reference_images: str, workspace: str, parent_run_id: str = ""
) -> TaskResult:
    """Pre-train the discriminator, or return the result of an earlier run with equal settings.

    Args:
        settings: `PretrainingSettings` as JSON text.
        reference_images: Location of reference images of the training prompts.
        workspace: Local path or `s3://` location for results.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        A folder that holds the discriminator and its history.

    Raises:
        AdvGrpoError: If an input cannot be used or training fails.
    """
    cost = Cost()
    with track_task(PRETRAIN_REWARD.name, parent_run_id, workspace) as run:
        task = parse_json(PretrainingSettings, settings, where="the settings")
        # First, so that a failed run shows its settings, too.
        run.parameters(task.model_dump(mode="json"))
        prompts = read_run_prompts(task.prompts)
        location = pretraining_location(
            task, prompts, reference_images=reference_images, workspace=workspace
        )
        if (done := find_result(location)) is not None:
            record_history(run, done.location, step="step")
            return done
        images = open_reference_images(
            reference_images,
            prompts,
            "train",
            images_per_prompt=task.images_per_prompt,
            resolution_pixels=task.policy.resolution_pixels,
            seed=task.seed,
            workspace=workspace,
            draws=task.draws,
        )
        images = assign_for_training(
            images,
            prompts.train.texts,
            held_out_fraction=task.discriminator.held_out_fraction,
        )
        sampled = pretraining_prompts(task, prompts.train, images)
        embeddings = encode_for_task(task.policy, task.sampling, sampled, workspace=workspace)
        process_group = ProcessGroup()
        discriminator = build_discriminator(
            task.discriminator, process_group.device, seed=task.seed
        )
        references = ReferenceFeatures(
            images,
            prompts.train,
            discriminator,
            held_out_fraction=task.discriminator.held_out_fraction,
            store=join(workspace, FEATURES),
            process_group=process_group,
        )
        history = pretrain_discriminator(
            load_policy(
                task.policy,
                process_group.device,
                seed=task.seed,
                embeddings=StoredEmbeddings(embeddings, sampled),
            ),
            discriminator,
            references,
            prompts.train,
            config=task.discriminator,
            sampling=task.sampling,
            batch_size=task.batch_size,
            process_group=process_group,
            seed=task.seed,
        )
        on_gpu = {"cost/on_gpu": float(process_group.device.type == "cuda")}
        metrics = history[-1] | cost.metrics() | on_gpu
        with result_folder(location) as folder:
            save_discriminator(folder, discriminator, history[-1])
            write_history(folder, history)
            write_metrics(folder, metrics)
        record_history(run, location, step="step")
        return TaskResult(location, metrics)
