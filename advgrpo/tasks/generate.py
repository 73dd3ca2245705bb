"""Images of a trained adapter for visual inspection, with contact sheets."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from advgrpo.config.tasks import GenerationSettings
from advgrpo.data.images import encode_png
from advgrpo.errors import ConfigError
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import unconditional_prompt
from advgrpo.models.policies.loading import load_policy
from advgrpo.models.policies.sampling import sample_images
from advgrpo.models.policies.saved_adapter import read_shape
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.runtime.devices import one_thread
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.work_queue import (
    SingleWorker,
    WorkQueue,
    claim_with_progress,
    open_work_queue,
)
from advgrpo.storage.files import exists, write_bytes
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import join, scheme
from advgrpo.storage.probe import check_writable
from advgrpo.storage.weights_hash import weights_digest
from advgrpo.tasks.adapters import fetch_adapter
from advgrpo.tasks.embeddings import encode_for_task
from advgrpo.tasks.generation_plan import GenerationPlan, count_images, remaining_batches
from advgrpo.tasks.generation_sheets import check_sheets, write_sheets
from advgrpo.telemetry.progress import Progress
from advgrpo.tracking.address import require_tracking_uri

TASK = "generate"


def generate(
    config: GenerationSettings,
    prompts: Sequence[str],
    *,
    adapter: str,
    images_per_prompt: int,
    seed: int,
    output: str,
    batch_size: int = 1,
    processes: int = 1,
    compare: bool = False,
) -> list[str]:
    """Generate images and contact sheets.

    An interrupted run resumes: images in `output` with the same metadata are kept. No other file
    is changed or overwritten.

    Args:
        config: Settings of the base model and of sampling.
        prompts: Prompts of the images.
        adapter: Folder, `s3://` location, `hub://owner/name/folder@COMMIT` or `models:/name@alias`;
            empty for the base model. Rank, alpha and modules are read from the adapter's files.
        images_per_prompt: Images of each prompt.
        seed: Seed of the first image of each prompt; the others have the following seeds.
        output: Folder or `s3://` location of `<prompt>_<image>.png` and the sheets.
        batch_size: Images sampled at once. With 1, an image depends on its prompt and seed alone;
            in a larger batch, its last bits may depend on the other images.
        processes: Processes; with GPUs, one each. The images do not depend on it.
        compare: Whether to generate each image with the base model, too, for a sheet of pairs.

    Returns:
        Locations of the adapter's images (without an adapter, of the base model's), one prompt
        after the other. Each file holds its settings as PNG metadata.

    Raises:
        ConfigError: If another file has the name of an image, or `adapter` is a registered model
            and `MLFLOW_TRACKING_URI` is not set.
        WeightsError: If weights are missing, damaged or of another architecture.
        StorageError: If an image cannot be written.
    """
    if compare and not adapter:
        raise ConfigError(
            "--compare shows base model and adapter side by side, but there is no adapter",
            repair="add --adapter or --model, or remove --compare",
        )
    # Before the adapter is fetched and models are loaded.
    check_writable(output)
    folder = fetch_adapter(adapter) if adapter else None
    weights = config.policy.weights
    plan = GenerationPlan(
        config=with_adapter_shape(config, folder),
        prompts=tuple(prompts),
        images_per_prompt=images_per_prompt,
        seed=seed,
        model_content="" if scheme(weights.location) == "hub" else weights_digest(weights),
        adapter=adapter,
        adapter_folder=str(folder or ""),
        adapter_sha256=file_sha256(folder / PEFT_WEIGHTS) if folder else "",
        compare=compare,
        batch_size=batch_size,
        output=output,
    )
    # Before images are generated: they take much longer than the check.
    check_sheets(plan)
    remaining = remaining_batches(plan)
    if remaining:
        with _with_embeddings(plan, remaining) as ready:
            if processes > 1:
                run_in_processes(
                    generate_rank,
                    {"plan": ready, "remaining": remaining},
                    task=TASK,
                    processes=processes,
                )
            else:
                generate_share(ready, remaining, SingleWorker())
    # Always, also if no image was missing: an earlier attempt may have ended before the sheets.
    write_sheets(plan)
    return [join(output, image.name) for image in plan.images(is_base=not adapter)]


def generate_share(plan: GenerationPlan, remaining: Sequence[int], queue: WorkQueue) -> None:
    """Generate this process's share of the batches.

    Args:
        plan: All images.
        remaining: Positions of the batches to generate.
        queue: The processes that share the batches.
    """
    device, batches = ProcessGroup().device, plan.batches()
    progress = Progress("generating", count_images(plan), "images")
    progress.resume_at(count_images(plan) - count_images(plan, remaining))
    folder = Path(plan.adapter_folder) if plan.adapter else None
    prompts = dict.fromkeys(image.prompt for position in remaining for image in batches[position])
    config = plan.config.policy
    needed = [unconditional_prompt(config), *prompts]
    embeddings = StoredEmbeddings(plan.embeddings, needed)
    policy = load_policy(config, device, folder, embeddings=embeddings)
    sampling = plan.config.sampling
    sizes = [len(batches[position]) for position in remaining]
    with one_thread(device):
        for number in claim_with_progress(queue, sizes, progress):
            batch = batches[remaining[number]]
            # All images of a batch are of one model.
            with policy.base_policy() if batch[0].is_base else nullcontext():
                images = sample_images(
                    policy,
                    [image.prompt for image in batch],
                    [image.seed for image in batch],
                    num_inference_steps=sampling.num_inference_steps,
                    guidance_scale=sampling.guidance_scale,
                )
            for planned, image in zip(batch, images, strict=True):
                location = join(plan.output, planned.name)
                # Of an interrupted batch, only missing images are written.
                if not exists(location):
                    write_bytes(location, encode_png(image, plan.metadata(planned)))


@contextmanager
def _with_embeddings(plan: GenerationPlan, remaining: Sequence[int]) -> Iterator[GenerationPlan]:
    """Encode the prompts once, not in every process: T5 alone takes many gigabytes."""
    batches = plan.batches()
    prompts = dict.fromkeys(image.prompt for position in remaining for image in batches[position])
    # Not in the output, which holds images and sheets only.
    with TemporaryDirectory() as scratch:
        policy, sampling = plan.config.policy, plan.config.sampling
        location = encode_for_task(
            policy,
            sampling,
            [unconditional_prompt(policy), *prompts],
            workspace=scratch,
            adapter=Path(plan.adapter_folder) if plan.adapter else None,
        )
        yield replace(plan, embeddings=location)


def registered_run(model: str) -> tuple[GenerationSettings, str]:
    """Return the settings of the run that trained a registered adapter.

    Args:
        model: `models:/name@alias` or `models:/name/version`.

    Returns:
        The settings, and the version as `models:/name/version`.

    Raises:
        ConfigError: If `MLFLOW_TRACKING_URI` is not set.
        TrackingError: If the version does not exist, or its files have changed.
    """
    tracking_uri = require_tracking_uri(f"{model} is a registered model")
    # MLflow takes seconds to load.
    from advgrpo.registry.evidence import read_settings  # noqa: PLC0415
    from advgrpo.registry.versions import download_version, find_version, parse_uri, version_uri  # noqa: PLC0415
    from advgrpo.tracking.connection import FAULTS, connect, describe_error  # noqa: PLC0415

    try:
        version = find_version(connect(tracking_uri), *parse_uri(model))
        with download_version(version, tracking_uri) as folder:
            return GenerationSettings.of(read_settings(folder)), version_uri(version)
    except FAULTS as error:
        raise describe_error(error, f"fetch {model}", tracking_uri) from error


def with_adapter_shape(config: GenerationSettings, folder: Path | None) -> GenerationSettings:
    """Return settings with the shape of an adapter, and without an initial adapter."""
    own = config.policy.adapter.model_copy(update={"initial_adapter": None})
    if folder:
        # model_copy keeps the class, which belongs to the policy's family.
        own = own.model_copy(update=dict(read_shape(folder)))
    policy = config.policy.model_copy(update={"adapter": own})
    return config.model_copy(update={"policy": policy})


def generate_rank(plan: GenerationPlan, remaining: Sequence[int]) -> None:
    """Generate this rank's share of the batches."""
    generate_share(plan, remaining, open_work_queue(TASK))
