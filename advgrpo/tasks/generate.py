"""Draw images with a trained adapter, for people to look at."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from advgrpo.config import RunConfig
from advgrpo.data.images import encode_png
from advgrpo.errors import ConfigError
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import unconditional_prompt
from advgrpo.models.policies.sampling import sample_images
from advgrpo.models.policies.saved_adapter import PEFT_WEIGHTS, read_shape
from advgrpo.runtime.devices import one_thread
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.work_queue import (
    SingleWorker,
    WorkQueue,
    claim_with_progress,
    open_work_queue,
)
from advgrpo.storage import check_writable, exists, file_sha256, join, scheme, write_bytes
from advgrpo.storage.weights_hash import weights_digest
from advgrpo.tasks.adapters import named_adapter
from advgrpo.tasks.embeddings import encoded
from advgrpo.tasks.generation_plan import GenerationPlan, batches_left, count_images
from advgrpo.tasks.generation_sheets import check_sheets, write_sheets
from advgrpo.telemetry.progress import Progress
from advgrpo.tracking.address import require_tracking_uri

TASK = "generate"


def generate(
    config: RunConfig,
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
    """Draw images, and sheets of them.

    Images that an earlier run left in `output` are kept if they are what would be drawn, so a run
    that was stopped goes on; nothing else that lies there is touched.

    Args:
        config: Names the base model, steps and guidance.
        prompts: What to draw.
        adapter: Folder, `s3://` location, `hub://owner/name/folder@COMMIT` or `models:/name@alias`;
            empty draws with the base model. Its rank, alpha and modules are those of its own files.
        images_per_prompt: Images of each prompt.
        seed: Seed of each prompt's first image; each further one has the next.
        output: Folder or `s3://` location for `<prompt>_<image>.png` and the sheets.
        batch_size: Images drawn at once. Drawn alone, an image depends on prompt and seed and on no
            other image; in company, its last bits may.
        processes: Drawing processes; on GPUs, one each. The images do not depend on it.
        compare: Whether the base model draws each image as well, for a sheet with both.

    Returns:
        Locations of the adapter's images (without one, of the base model's), prompt by prompt.
        Each file holds what the image depends on as text.

    Raises:
        ConfigError: If something else lies in the place of an image, or a registered adapter is
            asked for and no MLflow server is named.
        WeightsError: If weights are missing, damaged or of another architecture.
        StorageError: If an image cannot be written.
    """
    if compare and not adapter:
        raise ConfigError(
            "--compare sets base model and adapter side by side, but no adapter is named",
            repair="add --adapter or --model, or leave --compare out",
        )
    check_writable(output)
    folder = named_adapter(adapter) if adapter else None
    weights = config.policy.weights
    order = GenerationPlan(
        settings=_with_shape(config, folder).model_dump_json(),
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
    check_sheets(order)
    left = batches_left(order)
    if left:
        with _encoded_before(order, left) as ready:
            if processes > 1:
                run_in_processes(
                    draw_rank, {"order": ready, "left": left}, task=TASK, processes=processes
                )
            else:
                draw_share(ready, left, SingleWorker())
    write_sheets(order)
    return [join(output, image.name) for image in order.images(is_base=not adapter)]


def draw_share(order: GenerationPlan, left: Sequence[int], workers: WorkQueue) -> None:
    """Draw batches until none is left, together with the other processes.

    Args:
        order: What is to be drawn.
        left: Positions of the batches that nobody drew yet.
        workers: The processes that share the work.
    """
    device, batches = ProcessGroup().device, order.batches()
    progress = Progress("generating", count_images(order), "images")
    progress.resume_at(count_images(order) - count_images(order, left))
    folder = Path(order.adapter_folder) if order.adapter else None
    drawn = dict.fromkeys(image.prompt for position in left for image in batches[position])
    config = order.config.policy
    needed = [unconditional_prompt(config), *drawn]
    embeddings = StoredEmbeddings(order.embeddings, needed)
    policy = load_policy(config, device, folder, embeddings=embeddings)
    sampling = order.config.training.sampling
    sizes = [len(batches[position]) for position in left]
    with one_thread(device):
        for number in claim_with_progress(workers, sizes, progress):
            batch = batches[left[number]]
            with policy.base_policy() if batch[0].is_base else nullcontext():
                images = sample_images(
                    policy,
                    [image.prompt for image in batch],
                    [image.seed for image in batch],
                    num_inference_steps=sampling.num_inference_steps,
                    guidance_scale=sampling.guidance_scale,
                )
            for planned, image in zip(batch, images, strict=True):
                location = join(order.output, planned.name)
                if not exists(location):
                    write_bytes(location, encode_png(image, order.facts(planned)))


@contextmanager
def _encoded_before(order: GenerationPlan, left: Sequence[int]) -> Iterator[GenerationPlan]:
    """Encode prompts once, and not in each process that draws: T5 alone takes many gigabytes."""
    batches = order.batches()
    prompts = dict.fromkeys(image.prompt for position in left for image in batches[position])
    with TemporaryDirectory() as scratch:
        needed = [unconditional_prompt(order.config.policy), *prompts]
        yield replace(order, embeddings=encoded(order.config.policy, needed, workspace=scratch))


def registered_run(model: str) -> tuple[RunConfig, str]:
    """Read the settings of the run that a registered adapter comes from.

    Args:
        model: `models:/name@alias` or `models:/name/version`.

    Returns:
        The settings, and the version that was found, as `models:/name/version`.

    Raises:
        ConfigError: If no MLflow server is named.
        TrackingError: If there is no such version, or its files are not those that were registered.
    """
    tracking_uri = require_tracking_uri(f"{model} is a registered model")
    # MLflow takes seconds to load.
    from advgrpo.registry.evidence import read_settings  # noqa: PLC0415
    from advgrpo.registry.versions import download_version, find_version, parse_uri, version_uri  # noqa: PLC0415
    from advgrpo.tracking.connection import FAULTS, connect, describe_error  # noqa: PLC0415

    try:
        version = find_version(connect(tracking_uri), *parse_uri(model))
        with download_version(version, tracking_uri) as folder:
            return read_settings(folder), version_uri(version)
    except FAULTS as error:
        raise describe_error(error, f"fetch {model}", tracking_uri) from error


def _with_shape(config: RunConfig, folder: Path | None) -> RunConfig:
    """Give a run's settings the shape of an adapter that is drawn with, or none to start from."""
    own = config.policy.adapter.model_copy(update={"initial_adapter": None})
    if folder:
        # Keeps the class, which is the family's.
        own = own.model_copy(update=dict(read_shape(folder)))
    policy = config.policy.model_copy(update={"adapter": own})
    return config.model_copy(update={"policy": policy})


def draw_rank(order: GenerationPlan, left: Sequence[int]) -> None:
    """Draw this rank's share of the batches."""
    draw_share(order, left, open_work_queue(TASK))
