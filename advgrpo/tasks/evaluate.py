"""The task evaluate: metrics of the trained model, its base and the champion, and the report."""

from datetime import UTC, datetime
from pathlib import Path

from advgrpo import __version__
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import parse_json
from advgrpo.data.prompts import Prompts, read_run_prompts
from advgrpo.evaluation.batch_cache import WorkspaceBatchCache
from advgrpo.evaluation.evaluate import evaluate as evaluate_adapter
from advgrpo.evaluation.evaluate import images_to_sample
from advgrpo.evaluation.gates import check_gates
from advgrpo.evaluation.report import RunFacts, write_report
from advgrpo.evaluation.results import Evaluation
from advgrpo.evaluation.saving import write_evaluation
from advgrpo.evaluation.summary import summary
from advgrpo.records import PEFT_WEIGHTS, PromptSet, ReferenceImageSet
from advgrpo.reference_images.opening import open_reference_images
from advgrpo.runtime.devices import device, one_thread
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.nodes import nodes
from advgrpo.runtime.pipeline_tasks import EVALUATE
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.results import (
    LINEAGE_FILE,
    TaskResult,
    find_result,
    read_history,
    read_metrics,
    read_training,
    result_folder,
    write_metrics,
)
from advgrpo.runtime.task_context import Cost, track_task
from advgrpo.runtime.timing import record_elapsed
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import join
from advgrpo.strict_json import load_json
from advgrpo.tasks.champion import FoundChampion, find_champion
from advgrpo.tasks.costs import phase_costs
from advgrpo.tasks.embeddings import encode_for_task, evaluation_prompts
from advgrpo.tasks.evaluate_worker import Plan, evaluate_rank, evaluator_arguments
from advgrpo.tasks.finished import REPORT_FILE, evaluation_location, record_evaluation
from advgrpo.telemetry.progress import Progress


def evaluate(
    settings: str,
    *,
    trained: str,
    reference_images: str,
    workspace: str,
    discriminator: str = "",
    processes: int = 1,
    parent_run_id: str = "",
) -> TaskResult:
    """Evaluate, or return the result of an earlier run with equal settings and inputs.

    The metrics of each batch are stored in the workspace. An interrupted evaluation resumes with
    the next batch, and an evaluation with other gates or another champion reuses the others.

    Args:
        settings: `RunConfig` as JSON text.
        trained: Location of the training result.
        reference_images: Location of reference images of the test prompts.
        workspace: Local path or `s3://` location for results.
        discriminator: Location of the pre-trained discriminator, for the report's costs; empty if
            there is none.
        processes: Processes on all machines of the job; with GPUs, one each. The metrics do not
            depend on it.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        A folder with `report.html`, and `evaluation.json` with its images. The first machine of a
        job writes it; on the others, the result has no metrics.

    Raises:
        AdvGrpoError: If an input cannot be used or a metric is not finite.
    """
    if not nodes().is_first:
        with record_failures(EVALUATE.name):
            config = parse_json(RunConfig, settings, where="the settings")
            prompts = read_run_prompts(config.prompts)
            images = _open_images(config, prompts, reference_images, workspace)
            embeddings = _encode(config, prompts.test, workspace)
            # Without a plan: the ranks here get it from the first rank of the job.
            _evaluate_in_processes(
                config, prompts.test, local_folder(trained), images, None, processes, embeddings
            )
            return TaskResult(join(workspace, "evaluations"), {})
    cost = Cost(processes)
    with track_task(EVALUATE.name, parent_run_id, workspace) as run:
        config = parse_json(RunConfig, settings, where="the settings")
        prompts, result = read_run_prompts(config.prompts), local_folder(trained)
        # Decided once for the whole job: the alias may move while it runs.
        champion = find_champion(config, workspace=workspace)
        location = evaluation_location(
            config,
            prompts,
            trained=trained,
            reference_images=reference_images,
            workspace=workspace,
            champion=(champion.digest, str(champion.version), champion.missing),
        )
        # The folder holds metrics of batches, which other gates or another champion do not change.
        folder = location.rpartition("/")[0]
        if (done := find_result(location)) is not None and nodes().count == 1:
            record_evaluation(run, config, done)
            return done
        images = _open_images(config, prompts, reference_images, workspace)
        plan = Plan(join(folder, "measured"), champion)
        sampled = images_to_sample(
            prompts.test, config.evaluation, models=2 if champion.version is None else 3
        )
        spent = join(folder, "cost.json")
        with record_elapsed(spent, processes=processes, images=sampled):
            embeddings = _encode(config, prompts.test, workspace)
            progress: Progress | None = None
            if processes > 1:
                # Their first rank reports the progress.
                _evaluate_in_processes(
                    config, prompts.test, result, images, plan, processes, embeddings
                )
            else:
                progress = Progress("evaluation", sampled, "images")
            # After other processes have evaluated all batches, this only reads and compares them.
            evaluation = _compare(config, prompts.test, result, images, plan, progress, embeddings)
        gates = check_gates(config.promotion.gates, evaluation.report)
        metrics = summary(evaluation.report, gates) | cost.metrics()
        facts = RunFacts(
            name=config.promotion.registered_model,
            settings=config,
            created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            phases=phase_costs(
                config, prompts, discriminator, result, spent, metrics=metrics, workspace=workspace
            ),
            policy_updates=int(read_metrics(result)["policy_updates"]),
            lineage=_lineage(result, images, champion),
            gates=gates,
            training=read_training(result),
        )
        with result_folder(location) as output:
            write_evaluation(output, evaluation)
            write_report(output / REPORT_FILE, evaluation, read_history(result), facts)
            write_metrics(output, metrics)
        output_result = TaskResult(location, metrics)
        record_evaluation(run, config, output_result)
        return output_result


def _encode(config: RunConfig, prompts: PromptSet, workspace: str) -> str:
    sampled = evaluation_prompts(config, prompts)
    return encode_for_task(config.policy, config.evaluation_sampling, sampled, workspace=workspace)


def _compare(
    config: RunConfig,
    prompts: PromptSet,
    trained: Path,
    images: ReferenceImageSet,
    plan: Plan,
    progress: Progress | None,
    embeddings: str,
) -> Evaluation:
    """Compare the models, after evaluating batches that are missing."""
    where = device()
    with one_thread(where):
        return evaluate_adapter(
            **evaluator_arguments(
                config, prompts, trained, images, plan.champion, where, embeddings
            ),
            trained_on=config.independence.trained_on,
            related=config.independence.related,
            champion_missing=plan.champion.missing,
            cache=WorkspaceBatchCache(plan.measured),
            on_resume=progress.resume_at if progress else _ignore,
            on_progress=progress.advance if progress else _ignore,
        )


def _ignore(_images: int) -> None:
    """Report no progress."""


def _evaluate_in_processes(
    config: RunConfig,
    prompts: PromptSet,
    trained: Path,
    images: ReferenceImageSet,
    plan: Plan | None,
    processes: int,
    embeddings: str,
) -> None:
    """Evaluate batches in several processes; only the first machine has a plan."""
    arguments = {
        "config": config,
        "prompts": prompts,
        "trained": trained,
        "reference_images": images,
        "embeddings": embeddings,
        "plan": plan,
    }
    run_in_processes(evaluate_rank, arguments, task=EVALUATE.name, processes=processes)


def _open_images(
    config: RunConfig, prompts: Prompts, location: str, workspace: str
) -> ReferenceImageSet:
    return open_reference_images(
        location,
        prompts,
        "test",
        images_per_prompt=config.reference_images.of_each_test_prompt,
        resolution_pixels=config.policy.resolution_pixels,
        seed=config.seed,
        workspace=workspace,
    )


def _lineage(trained: Path, images: ReferenceImageSet, champion: FoundChampion) -> dict[str, str]:
    lineage: dict[str, str] = load_json((trained / LINEAGE_FILE).read_text(encoding="utf-8"))
    lineage["adapter"] = file_sha256(trained / "adapter" / PEFT_WEIGHTS)
    lineage["reference_images.test"] = images.digest
    if champion.version is not None:
        lineage["champion"] = f"version {champion.version}, adapter {champion.digest}"
    return {**lineage, "advgrpo": __version__}
