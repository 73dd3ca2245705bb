"""From an evaluation to a registered version, and back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from huggingface_hub import RepoCard
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.config import RunConfig, resolve
from advgrpo.data.images import encode_png
from advgrpo.data.prompts import read_run_prompts
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, EvaluationError, TrackingError
from advgrpo.evaluation.evaluate import evaluate
from advgrpo.evaluation.saving import write_evaluation
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.scorers.build import build_scorers
from advgrpo.records import ReferenceImageSet
from advgrpo.registry.export import export
from advgrpo.registry.verification import verify
from advgrpo.runtime.results import (
    HISTORY_FILE,
    LINEAGE_FILE,
    METRICS_FILE,
    TOTALS_FILE,
    library_versions,
)
from advgrpo.tasks.register import register
from tests.hub import COMMIT, local_hub

CPU = torch.device("cpu")
run = CliRunner().invoke


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return resolve(
        "pocket",
        [
            *("promotion.registered_model=evaluated", "evaluation.prompts=4"),
            *("evaluation.bootstrap_samples=50", "evaluation.grid_prompts=3"),
            "policy.adapter.alpha=8",
        ],
    )


@pytest.fixture(scope="module")
def trained(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes much, and nothing for the better."""
    folder = tmp_path_factory.mktemp("trained")
    policy = load_policy(config.policy, CPU)
    values = {
        name: torch.full_like(parameter, 0.02) if ".lora_B." in name else parameter
        for name, parameter in policy.trainable_parameters().items()
    }
    save_adapter(folder / "adapter", values, config.policy.adapter)
    lineage = {"prompts.train": "abc", **library_versions()}
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage))
    totals = {"updates": 80, "alarms": [], "stopped_early": False}
    (folder / TOTALS_FILE).write_text(json.dumps(totals))
    (folder / HISTORY_FILE).write_text('{"update": 0.0, "watch/alarm": 0.0}\n')
    return folder


@pytest.fixture(scope="module")
def evaluated(config: RunConfig, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, folder = tmp_path_factory.mktemp("references"), tmp_path_factory.mktemp("evaluated")
    prompts = read_run_prompts(config.prompts).test
    generator = torch.Generator().manual_seed(0)
    names = ("a.png", "b.png")
    for name in names:
        (root / name).write_bytes(encode_png(torch.rand(3, 32, 32, generator=generator)))
    references = ReferenceImageSet(str(root), dict.fromkeys(prompts.texts, names), 32, "0" * 64)
    wanted = config.evaluation
    evaluation = evaluate(
        load_policy(config.policy, CPU, adapter=trained / "adapter"),
        prompts,
        references,
        config=wanted,
        sampling=config.training.sampling,
        scorers=build_scorers(wanted.scorers, CPU),
        backbone=DinoBackbone(wanted.distance.weights, resolution_pixels=32, device=CPU),
    )
    write_evaluation(folder, evaluation)
    (folder / METRICS_FILE).write_text('{"distance_trained": 1.5}')
    return folder


Register = Callable[..., str]


@pytest.fixture
def registered(stores: EmbeddedServers, config: RunConfig, trained: Path) -> Register:
    client = MlflowClient(stores.tracking_uri)

    def one(evaluation: Path) -> str:
        return register(
            config.model_dump_json(),
            trained=str(trained),
            evaluation=str(evaluation),
            parent_run_id=str(client.create_run("0").info.run_id),
        )

    return one


def test_an_evaluation_is_registered_with_its_gates_and_can_be_repeated(
    stores: EmbeddedServers, registered: Register, evaluated: Path, tmp_path: Path
) -> None:
    uri = registered(evaluated)
    name, version = uri.removeprefix("models:/").split("/")
    tags = MlflowClient(stores.tracking_uri).get_model_version(name, version).tags
    assert tags["advgrpo.gates"] == "failed"
    assert tags["advgrpo.gate.1"].startswith("FAILED: distance.frechet at most base - 5 %")
    assert tags["advgrpo.gate.3"].endswith("(there is no champion yet)")
    found = verify(name, version, tracking_uri=stores.tracking_uri, prompts=2)
    assert found.prompts == 2
    # PNG rounds to 256 levels.
    assert found.largest_difference_levels < 0.5
    assert found.largest_alignment_difference < 0.01
    changed = tmp_path / "changed"
    shutil.copytree(evaluated, changed)
    content = json.loads((changed / "evaluation.json").read_text())
    content["examples"][0]["trained_alignment"] += 0.3
    (changed / "evaluation.json").write_text(json.dumps(content))
    version = registered(changed).rpartition("/")[2]
    assert verify(name, version, tracking_uri=stores.tracking_uri, prompts=0).prompts == 0
    with pytest.raises(TrackingError, match="does not reproduce its evaluation: for 'a"):
        verify(name, version, tracking_uri=stores.tracking_uri, prompts=2)


def test_changed_images_are_detected(
    stores: EmbeddedServers, registered: Register, evaluated: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(evaluated, changed)
    content = json.loads((changed / "evaluation.json").read_text())
    first, second = (content["examples"][number]["images"]["trained"] for number in (0, 1))
    (changed / first[0]).write_bytes((changed / second[0]).read_bytes())
    version = registered(changed).rpartition("/")[2]
    with pytest.raises(TrackingError, match="of 256 levels"):
        verify("evaluated", version, tracking_uri=stores.tracking_uri, prompts=1)


@pytest.mark.parametrize("content", ["", "{}", '{"report": {"images": null}}', "[]"])
def test_a_damaged_evaluation_is_not_registered(
    registered: Register, tmp_path: Path, content: str
) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(EvaluationError, match="is not an evaluation"):
        registered(tmp_path)


def test_a_registered_model_generates_with_its_own_settings(
    registered: Register, evaluated: Path, tmp_path: Path
) -> None:
    uri = registered(evaluated)
    said = run(app, ["generate", "a large red ring", "--model", uri, "--output", str(tmp_path)])
    assert said.exit_code == 0, said.output
    with Image.open(tmp_path / "000_0.png") as picture:
        assert picture.info["adapter"] == uri
    for other in (["--adapter", "x"], ["--set", "seed=1"]):
        refused = run(app, ["generate", "a ring", "--model", uri, *other])
        assert isinstance(refused.exception, ConfigError)


def test_an_adapter_is_exported_in_three_formats(
    stores: EmbeddedServers,
    registered: Register,
    config: RunConfig,
    evaluated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = registered(evaluated).rpartition("/")[2]

    def exported(layout: str) -> list[str]:
        return export(
            "evaluated",
            version,
            tracking_uri=stores.tracking_uri,
            layout=layout,  # type: ignore[arg-type]
            output=tmp_path / layout,
        )

    assert exported("diffusers") == ["pytorch_lora_weights.safetensors"]
    keys = StableDiffusion3Pipeline.lora_state_dict(tmp_path / "diffusers")
    assert any("transformer_blocks.0.attn.to_q" in key for key in keys)
    (file,) = exported("comfyui")
    assert file == f"loras/evaluated-{version}.safetensors"
    tensors = load_file(tmp_path / "comfyui" / file)
    module = "transformer.transformer_blocks.0.attn.to_q"
    assert tensors[f"{module}.lora_A.weight"].shape[0] == config.policy.adapter.rank
    assert tensors[f"{module}.alpha"].item() == 8
    assert len(tensors) % 3 == 0
    folder = tmp_path / "huggingface"
    command = ["registry", "export", "evaluated", version, "--output", str(folder), "--push", "a/b"]
    assert "--layout huggingface" in str(getattr(run(app, command).exception, "repair", ""))
    with local_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pushed = run(app, [*command, "--layout", "huggingface"])
    assert pushed.exit_code == 0, pushed.exception
    assert pushed.output.splitlines()[-1] == f"{hub.url}/a/b/commit/{COMMIT}"
    assert [(one["name"], one["visibility"]) for one in hub.created] == [("b", "private")]
    assert hub.files == {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    card = RepoCard.load(folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.widget[0]["output"]["url"] in hub.files
    assert "## Limits" in card.text
    with pytest.raises(ConfigError, match="not empty"):
        exported("huggingface")


def test_the_commands_show_and_compare_what_is_registered(
    registered: Register, evaluated: Path
) -> None:
    version = registered(evaluated).rpartition("/")[2]
    listed = run(app, ["registry", "list", "evaluated"]).output
    assert f"evaluated version {version}: gates failed" in listed
    shown = run(app, ["registry", "show", "evaluated", version]).output
    assert "Decision: none" in shown
    assert "pocket_judge.attribute_accuracy" in shown
    compared = run(app, ["registry", "compare", "evaluated", version, version]).output
    assert "From two evaluations" in compared
    refused = run(app, ["registry", "promote", "evaluated", version])
    assert "the gate distance.frechet at most base - 5 % failed" in str(refused.exception)
    listed = run(app, ["registry", "list"]).output
    assert "refused: the gate distance.frechet" in listed
