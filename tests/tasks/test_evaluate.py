import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.config import RunConfig
from advgrpo.data.prompts import read_prompts
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.evaluation.gates import check_gates
from advgrpo.evaluation.saved_evaluation import read_evaluation
from advgrpo.models.discriminators import build_discriminator, save_discriminator
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.pocket.source import PocketRenderer
from advgrpo.records import EvaluationReport
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.registry.evidence import Evidence
from advgrpo.registry.registration import register_adapter
from advgrpo.runtime.results import TaskResult
from advgrpo.tasks.evaluate import evaluate
from advgrpo.telemetry.progress import PROGRESS_FILE
from advgrpo.testing import TinyModels

ROOT = Path(__file__).parents[2]
PACKAGED = ROOT / "advgrpo" / "pocket" / "prompts"
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("loaded_once")


@dataclass(frozen=True)
class World:
    """A trained adapter of tiny models, and all that an evaluation of it reads."""

    config: RunConfig
    trained: Path
    pretrained: Path
    reference_images: Path
    overrides: tuple[str, ...]

    def evaluate(self, workspace: Path, *, processes: int = 1, **settings: object) -> TaskResult:
        config = self.config.model_copy(update=settings)
        return evaluate(
            config.model_dump_json(),
            trained=str(self.trained),
            discriminator=str(self.pretrained),
            reference_images=str(self.reference_images),
            workspace=str(workspace),
            processes=processes,
        )


def write_trained(folder: Path, config: RunConfig, *, seed: int) -> None:
    """Write what training would have written, with random weights."""
    policy = load_policy(config.policy, CPU)
    generator = torch.Generator().manual_seed(seed)
    values = {
        name: 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in policy.trainable_parameters().items()
    }
    save_adapter(folder / "adapter", values, config.policy.adapter)
    discriminator = build_discriminator(config.discriminator, CPU, seed=seed)
    save_discriminator(folder / "discriminator", discriminator, {})
    metrics = {"policy_updates": 2.0, "images_sampled": 16.0, "seconds/rollout": 3.0}
    texts = {
        "metrics.json": {**metrics, "cost/peak_memory_mib": 100.0},
        "totals.json": {
            "alarms": [{"update": 1, "reason": "too dark"}],
            "stopped_early": True,
        },
        "lineage.json": {"prompts.train": "ab" * 32},
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "history.jsonl").write_text(
        '{"update": 1.0, "held_out/distance": 2.0, "watch/alarm": 1.0}\n'
    )


@pytest.fixture(scope="module")
def world(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    for name, every in (("train", 40), ("test", 64)):
        lines = (PACKAGED / f"{name}.txt").read_text("utf-8").splitlines()[::every]
        (folder / f"{name}.txt").write_text("\n".join(lines[:5]), "utf-8")
    overrides = (
        f"prompts.train={folder / 'train.txt'}",
        f"prompts.test={folder / 'test.txt'}",
        "training.sampling.num_inference_steps=3",
        "training.algorithm.window.last_start=0",
        "training.sampling.guidance_scale=1.5",
        "reference_images.test_images_per_prompt=2",
        "evaluation.batch_size=3",
        "evaluation.bootstrap_samples=50",
        "evaluation.grid_prompts=2",
    )
    config = tiny.config(*overrides)
    write_trained(folder / "trained", config, seed=1)
    (folder / "pretrained").mkdir()
    metrics = {"cost/seconds": 2.0, "cost/peak_memory_mib": 100.0}
    (folder / "pretrained" / "metrics.json").write_text(json.dumps(metrics))
    generate_reference_images(
        PocketRenderer(),
        read_prompts(folder / "test.txt"),
        config.reference_images,
        images_per_prompt=2,
        seed=0,
        location=folder / "references",
    )
    return World(
        config,
        folder / "trained",
        folder / "pretrained",
        folder / "references",
        (*tiny.overrides(), *overrides),
    )


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one process."""
    return Path(world.evaluate(tmp_path_factory.mktemp("alone")).location)


def same_evaluation(one: Path, two: Path) -> bool:
    """Compare every number and every picture."""
    files = ["evaluation.json", *(f"images/{path.name}" for path in (one / "images").iterdir())]
    return len(files) > 5 and all(
        (one / name).read_bytes() == (two / name).read_bytes() for name in files
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_two_ranks_give_the_bits_of_one_process_and_report_progress_once(
    world: World, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress_file = tmp_path / "progress.jsonl"
    monkeypatch.setenv(PROGRESS_FILE, str(progress_file))
    together = world.evaluate(tmp_path, processes=2)

    assert same_evaluation(Path(together.location), alone)
    events = [json.loads(line) for line in progress_file.read_text().splitlines()]
    steps = [(e["done"], e["total"]) for e in events if e.get("phase") == "evaluation"]
    assert [done for done, total in steps if done == total] == [20]


def test_evaluating_twice_gives_equal_bits_however_many_threads_there_are(
    world: World, alone: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = world.evaluate(tmp_path)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)

    assert same_evaluation(Path(again.location), alone)


def test_a_killed_evaluation_resumes_with_the_next_batch(
    world: World, alone: Path, warm_interpreter: Path, tmp_path: Path
) -> None:
    command = [str(warm_interpreter), "-m", "advgrpo.cli.main", "evaluate"]
    for option, value in (
        ("trained", world.trained),
        ("discriminator", world.pretrained),
        ("reference-images", world.reference_images),
        ("workspace", tmp_path),
        *(("set", override) for override in world.overrides),
    ):
        command += [f"--{option}", str(value)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not [*tmp_path.rglob("base/00001.json")]:
            threading.Event().wait(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        # Ends with the last process that writes to it.
        process.stderr.read()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*/0000*.json")}
    assert len(kept) >= 4
    assert not [*tmp_path.rglob("evaluation.json")]

    result = world.evaluate(tmp_path)

    assert same_evaluation(Path(result.location), alone)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_other_gates_and_prices_sample_no_new_images(world: World, tmp_path: Path) -> None:
    first = world.evaluate(tmp_path)
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("measured/*/*")}

    priced = world.config.evaluation.model_copy(update={"price_per_hour": 2.0})
    second = world.evaluate(tmp_path, evaluation=priced)

    assert second.location != first.location
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("measured/*/*")} == drawn
    assert "USD" in (Path(second.location) / "report.html").read_text("utf-8")


def test_the_report_shows_alarms_and_the_costs_of_every_phase(alone: Path) -> None:
    page = (alone / "report.html").read_text("utf-8")

    for text in (
        "Alarm: signs of reward hacking during training",
        "At update 1: too dark",
        "Training was stopped at that point",
        "Reference images",
        "not recorded",
        "Reward pre-training",
        "Adversarial training",
        "Evaluation",
    ):
        assert text in page


def test_the_metrics_count_the_gates(alone: Path, world: World) -> None:
    metrics = json.loads((alone / "metrics.json").read_text("utf-8"))
    results = check_gates(world.config.promotion.gates, read_evaluation(alone).report)

    assert metrics["gate/passed"] + metrics["gate/failed"] == len(results) == 4
    assert metrics["gate/passed"] == sum(result.passed for result in results)
    assert not [name for name in metrics if name.startswith("champion")]


@pytest.fixture
def crown(stores: EmbeddedServers, tmp_path: Path) -> Callable[[RunConfig, str], MlflowClient]:
    """Registers another adapter and makes it the champion of a registered model."""

    def register(config: RunConfig, name: str) -> MlflowClient:
        client = MlflowClient(stores.tracking_uri)
        write_trained(tmp_path / "other", config, seed=2)
        promotion = config.promotion.model_copy(update={"registered_model": name})
        report = EvaluationReport((), 0, alignment="", distance="")
        version = register_adapter(
            tmp_path / "other" / "adapter",
            settings=config.model_copy(update={"promotion": promotion}),
            evidence=Evidence(report=report, gates=(), results=(), lineage={}),
            run_id=str(client.create_run("0").info.run_id),
            tracking_uri=stores.tracking_uri,
            metrics={},
        )
        client.set_registered_model_alias(name, "champion", str(version.version))
        return client

    return register


def test_the_champion_is_compared_on_the_same_seeds_even_with_another_rank(
    world: World, alone: Path, crown: Callable[..., MlflowClient], tmp_path: Path
) -> None:
    adapter = world.config.policy.adapter.model_copy(update={"rank": 4, "alpha": 8.0})
    policy = world.config.policy.model_copy(update={"adapter": adapter})
    crown(world.config.model_copy(update={"policy": policy}), "of-another-rank")
    promotion = world.config.promotion.model_copy(update={"registered_model": "of-another-rank"})

    result = world.evaluate(tmp_path / "workspace", promotion=promotion)

    report = read_evaluation(result.location).report
    assert report.champion == 1
    assert report.missing == {}
    before = read_evaluation(alone).report.comparisons
    for one, two in zip(report.comparisons, before, strict=True):
        assert replace(one, champion=None, difference_to_champion=None) == two
        assert one.champion is not None
        assert result.metrics[f"champion/{one.metric}"] == one.champion.mean
    assert report.comparison("distance.frechet").champion != report.comparisons[0].trained
    assert "champion, version 1" in (Path(result.location) / "report.html").read_text("utf-8")


def test_a_champion_of_another_base_model_fails_its_gates_with_a_reason(
    world: World,
    tiny: TinyModels,
    crown: Callable[..., MlflowClient],
    tmp_path: Path,
) -> None:
    other = world.config.policy.weights.model_copy(update={"location": str(tiny.pipeline.parent)})
    policy = world.config.policy.model_copy(update={"weights": other})
    promotion = world.config.promotion.model_copy(update={"registered_model": "of-another-base"})
    client = crown(world.config, "of-another-base")
    tag = policy.model_dump_json()
    client.set_model_version_tag("of-another-base", "1", "advgrpo.policy", tag)

    result = world.evaluate(tmp_path / "workspace", promotion=promotion)

    report = read_evaluation(result.location).report
    assert report.champion is None
    assert "is an adapter for the base model" in report.missing["champion"]
    against = [g for g in check_gates(promotion.gates, report) if "champion" in g.gate]
    assert len(against) == 2
    assert not any(gate.passed for gate in against)
    assert report.missing["champion"] in against[0].reason


def test_an_external_adapter_is_evaluated_like_a_trained_one(
    world: World, alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(world.trained / "discriminator", tmp_path / "reward")
    shutil.copy(world.pretrained / "metrics.json", tmp_path / "reward")
    command = [
        *("evaluate", "--adapter", str(world.trained / "adapter")),
        *("--discriminator", str(tmp_path / "reward")),
        *("--reference-images", str(world.reference_images), "--workspace", str(tmp_path / "work")),
        *("--output", str(tmp_path / "out"), *(f"--set={one}" for one in world.overrides)),
    ]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    assert same_evaluation(alone, tmp_path / "out")
    both = CliRunner().invoke(app, [*command, "--trained", str(world.trained)])
    assert "either --trained or --adapter" in str(both.exception)
    other = CliRunner().invoke(app, [*command, "--set", "policy.adapter.alpha=3"])
    assert "policy.adapter.alpha=3" in str(other.exception)


def test_an_external_adapter_is_evaluated_without_a_discriminator(
    world: World, alone: Path, tmp_path: Path
) -> None:
    command = [
        "evaluate",
        *("--reference-images", str(world.reference_images), "--workspace", str(tmp_path / "work")),
        *("--output", str(tmp_path / "out"), *(f"--set={one}" for one in world.overrides)),
        # Nothing of it is read.
        "--set=discriminator.weights={location: nowhere}",
    ]
    result = CliRunner().invoke(app, [*command, "--adapter", str(world.trained / "adapter")])
    assert result.exit_code == 0, result.output
    found, expected = (read_evaluation(folder).report for folder in (tmp_path / "out", alone))
    assert {c.metric for c in expected.comparisons} - {c.metric for c in found.comparisons} == {
        "discriminator.reward"
    }
    distances = [report.comparison(report.distance).trained for report in (found, expected)]
    assert distances[0] == distances[1]
    trained = CliRunner().invoke(app, [*command, "--trained", str(world.trained)])
    assert "--trained is given without --discriminator" in str(trained.exception)
