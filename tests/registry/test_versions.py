import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import grimp
import mlflow
import mlflow.diffusers
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from safetensors.torch import load_file

import advgrpo
from advgrpo import storage
from advgrpo.config import RunConfig, resolve
from advgrpo.config.base import Weights
from advgrpo.data.images import decode_image
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import PromotionError, TrackingError, WeightsError
from advgrpo.models.policies.base import Policy
from advgrpo.records import Alarm, EvaluatedPrompt, TrainingRecord
from advgrpo.registry.card import short_card
from advgrpo.registry.champion import current_champion
from advgrpo.registry.evidence import read_evidence, read_settings
from advgrpo.registry.served_files import write_served_files
from advgrpo.registry.versions import (
    ADAPTER_FILES,
    RegisteredAdapter,
    download_adapter,
    download_version,
)
from advgrpo.storage.fetch import local_folder
from tests.tracking.world import evidence, register, settings, write_adapter


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return resolve("pocket", [])


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "trained adapter")


@pytest.fixture
def client(stores: EmbeddedServers) -> MlflowClient:
    return MlflowClient(stores.tracking_uri)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return str(client.create_run("0").info.run_id)


def registered(stores: EmbeddedServers, adapter: Path, name: str, run_id: str) -> RegisteredAdapter:
    return register(stores.tracking_uri, settings(name), adapter, run_id)


def fetched(stores: EmbeddedServers, uri: str, folder: Path) -> dict[str, str]:
    root = download_adapter(uri, folder, tracking_uri=stores.tracking_uri)
    return {path.name: path.read_text() for path in root.iterdir()}


def test_an_adapter_is_downloaded_by_alias_and_by_version(
    stores: EmbeddedServers, adapter: Path, run_id: str, tmp_path: Path
) -> None:
    version = registered(stores, adapter, "back", run_id)
    assert version == RegisteredAdapter("back", 1, "models:/back/1")
    expected = {name: f"content of {name}" for name in ADAPTER_FILES}
    assert fetched(stores, "models:/back@candidate", tmp_path / "a") == expected
    assert fetched(stores, version.uri, tmp_path / "b") == expected


@pytest.mark.parametrize(
    "killed_at",
    ["create_logged_model", "log_model_artifacts", "log_batch", "finalize_logged_model"],
)
def test_a_killed_registration_is_resumed_without_duplicates(
    stores: EmbeddedServers,
    client: MlflowClient,
    adapter: Path,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    done = getattr(MlflowClient, killed_at)

    def work_and_die(*arguments: object, **named: object) -> None:
        done(*arguments, **named)
        raise KeyboardInterrupt

    name = f"killed-{killed_at}"
    monkeypatch.setattr(MlflowClient, killed_at, work_and_die)
    with pytest.raises(KeyboardInterrupt):
        registered(stores, adapter, name, run_id)
    monkeypatch.undo()
    for key, value in stores.environment().items():
        monkeypatch.setenv(key, value)
    version = registered(stores, adapter, name, run_id)
    assert version.version == 1
    models = client.search_logged_models(["0"], f"source_run_id = '{run_id}'")
    assert [str(model.status) for model in models] == ["READY"]
    for metric in client.get_run(run_id).data.metrics:
        assert len(client.get_metric_history(run_id, metric)) == 1


def test_a_version_has_lineage_and_metrics_and_no_base_weights(
    stores: EmbeddedServers, client: MlflowClient, adapter: Path, run_id: str
) -> None:
    registered(stores, adapter, "lineage", run_id)
    version = client.get_model_version_by_alias("lineage", "candidate")
    assert version.run_id == run_id
    assert version.tags["advgrpo.prompts.train"] == "abc"
    assert version.tags["advgrpo.version.torch"] == "2.0.0+cpu"
    assert version.tags["advgrpo.gates"] == "passed"
    assert version.tags["advgrpo.gate.1"].startswith("passed: judge.score at least base (base 0.5")
    model_id = version.source.removeprefix("models:/")
    logged = client.get_logged_model(model_id)
    assert logged.status == "READY"
    assert [(metric.key, metric.value) for metric in logged.metrics] == [("distance", 1.5)]
    files = storage.list_files(f"s3://advgrpo/mlflow/0/models/{model_id}/artifacts")
    assert {name for name in files if name.startswith("artifacts/")} == {
        f"artifacts/adapter/{name}" for name in ADAPTER_FILES
    }


def test_registering_is_idempotent_and_another_adapter_is_the_next_version(
    stores: EmbeddedServers,
    client: MlflowClient,
    adapter: Path,
    run_id: str,
    tmp_path: Path,
) -> None:
    assert registered(stores, adapter, "twice", run_id).version == 1
    assert registered(stores, adapter, "twice", run_id).version == 1
    (adapter / ADAPTER_FILES[0]).write_text("trained further")
    assert registered(stores, adapter, "twice", run_id).version == 2
    assert int(client.get_model_version_by_alias("twice", "candidate").version) == 2
    old = fetched(stores, "models:/twice/1", tmp_path / "old")
    assert old[ADAPTER_FILES[0]] == f"content of {ADAPTER_FILES[0]}"


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_an_incomplete_adapter_is_not_registered(
    stores: EmbeddedServers,
    client: MlflowClient,
    adapter: Path,
    run_id: str,
    name: str,
) -> None:
    (adapter / name).unlink()
    with pytest.raises(WeightsError, match=f"has no {name}"):
        registered(stores, adapter, "lacking", run_id)
    assert client.search_registered_models("name = 'lacking'") == []


def test_a_damaged_artifact_is_refused(
    stores: EmbeddedServers,
    client: MlflowClient,
    adapter: Path,
    run_id: str,
    tmp_path: Path,
) -> None:
    registered(stores, adapter, "damaged", run_id)
    source = client.get_model_version("damaged", "1").source.removeprefix("models:/")
    root = f"s3://advgrpo/mlflow/0/models/{source}/artifacts/artifacts/adapter"
    storage.write_bytes(f"{root}/adapter_model.safetensors", b"something else")
    with pytest.raises(TrackingError, match=r"adapter_model\.safetensors of models:/damaged/1"):
        download_adapter("models:/damaged/1", tmp_path / "back", tracking_uri=stores.tracking_uri)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("uri", ["models:/x", "models:/x/latest", "runs:/x/1", "models:/@a", ""])
def test_an_invalid_model_uri_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="is not the URI of a registered adapter"):
        download_adapter(uri, tmp_path / "back", tracking_uri="http://127.0.0.1:9")


@pytest.mark.parametrize("uri", ["models:/missing@candidate", "models:/missing/7"])
def test_a_missing_version_is_named(stores: EmbeddedServers, uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="of missing") as caught:
        download_adapter(uri, tmp_path / "back", tracking_uri=stores.tracking_uri)
    assert "registry list missing" in caught.value.repair


def test_an_interrupted_registration_moves_no_alias(
    stores: EmbeddedServers,
    client: MlflowClient,
    adapter: Path,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered(stores, adapter, "breaks", run_id)
    (adapter / ADAPTER_FILES[0]).write_text("trained further")

    def broken(*_: object, **__: object) -> None:
        raise MlflowException("the artifact store is down")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", broken)
    with pytest.raises(TrackingError, match="the artifact store is down"):
        registered(stores, adapter, "breaks", run_id)
    monkeypatch.undo()
    assert int(client.get_model_version_by_alias("breaks", "candidate").version) == 1
    assert registered(stores, adapter, "breaks", run_id).version == 2


def test_a_version_has_its_card_settings_evidence_and_sample(
    stores: EmbeddedServers, client: MlflowClient, adapter: Path, run_id: str, tmp_path: Path
) -> None:
    (tmp_path / "0.png").write_bytes(b"a picture")
    proof = evidence(sample=(EvaluatedPrompt("a ring", 0.5, ("0.png",)),))
    config = settings("carries", "policy.weights.location=/weights/sd3")
    register(stores.tracking_uri, config, adapter, run_id, proof, pictures=tmp_path)
    version = client.get_model_version("carries", "1")
    with download_version(version, stores.tracking_uri) as folder:
        assert read_evidence(folder) == proof
        assert read_settings(folder) == config
        assert (folder / "sample" / "0.png").read_bytes() == b"a picture"
        card = (folder / "README.md").read_text()
        assert "torch==2.0.0\n" in (folder / "requirements.txt").read_text()
    for text in (
        *("`/weights/sd3`", "Licence of the base model: MIT", "0.2 (0.15 to 0.25)"),
        *("- passed: judge.score at least base.", "| prompts.train | abc |"),
        "28 (of 80 planned) updates",
        "raised an alarm at update 28: pictures got dark. Training stopped",
    ):
        assert text in card
    assert "pictures got dark" in version.tags["advgrpo.watch"]
    assert "- passed: judge.score at least base." in version.description


def test_a_description_is_within_the_limit_of_mlflow() -> None:
    alarm = Alarm(28, "pictures got dark " * 400)
    proof = evidence().model_copy(update={"training": TrainingRecord(28, (alarm,))})
    text = short_card(settings("long"), proof)
    assert len(text) == 5000
    assert text.endswith("`README.md` among the files.")


def test_a_version_that_failed_its_gates_is_registered_without_an_alias(
    stores: EmbeddedServers, client: MlflowClient, adapter: Path, run_id: str
) -> None:
    failing = evidence(gain=0.01)
    version = register(stores.tracking_uri, settings("failing"), adapter, run_id, failing)
    assert version.version == 1
    assert client.get_registered_model("failing").aliases == {}
    tags = client.get_model_version("failing", "1").tags
    assert tags["advgrpo.gates"] == "failed"
    assert "whose lower edge is -0.04" in tags["advgrpo.gate.1"]


def test_another_evaluation_of_the_same_adapter_is_another_version(
    stores: EmbeddedServers, adapter: Path, run_id: str
) -> None:
    config = settings("again")
    assert register(stores.tracking_uri, config, adapter, run_id).version == 1
    later = evidence(champion=1)
    assert register(stores.tracking_uri, config, adapter, run_id, later).version == 2


def test_a_version_with_a_changed_file_is_refused(
    stores: EmbeddedServers, client: MlflowClient, adapter: Path, run_id: str
) -> None:
    registered(stores, adapter, "changed", run_id)
    version = client.get_model_version("changed", "1")
    source = version.source.removeprefix("models:/")
    for file in ("evidence.json", "README.md", "files.json", "MLmodel"):
        path = f"s3://advgrpo/mlflow/0/models/{source}/artifacts/{file}"
        before = storage.read_bytes(path)
        storage.write_bytes(path, b"{}")
        with (
            pytest.raises(TrackingError, match=f"{file} of models:/changed/1 differs"),
            download_version(version, stores.tracking_uri),
        ):
            pass
        storage.write_bytes(path, before)


def test_registering_needs_neither_torch_nor_numpy(
    stores: EmbeddedServers, adapter: Path, run_id: str
) -> None:
    # As in the image of a cluster's tasks.
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "numpy", "pandas", "PIL", "diffusers", "jaxtyping"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from pathlib import Path
import advgrpo.tasks.register, advgrpo.registry.webhook, advgrpo.registry.promotion_hook
import advgrpo.registry.listing, advgrpo.registry.export, advgrpo.cli.registry
from tests.tracking.world import register, settings
print(register({stores.tracking_uri!r}, settings("light"), Path({str(adapter)!r}), {run_id!r}).uri)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "models:/light/1", done.stderr


def test_the_champion_has_the_shape_of_its_adapter(
    stores: EmbeddedServers, client: MlflowClient, config: RunConfig, adapter: Path, run_id: str
) -> None:
    registered(stores, adapter, "promoted", run_id)
    uri, policy = stores.tracking_uri, settings("promoted").policy
    assert current_champion("missing", tracking_uri=uri, policy=policy) is None
    assert current_champion("promoted", tracking_uri=uri, policy=policy) is None
    client.set_registered_model_alias("promoted", "champion", "1")
    champion = current_champion("promoted", tracking_uri=uri, policy=policy)
    assert champion is not None
    assert (champion.version, champion.uri) == (1, "models:/promoted/1")
    assert champion.adapter_config == config.policy.adapter
    assert (champion.adapter / ADAPTER_FILES[0]).read_bytes() == (
        adapter / ADAPTER_FILES[0]
    ).read_bytes()


def test_a_champion_for_another_base_model_is_refused(
    stores: EmbeddedServers, client: MlflowClient, config: RunConfig, adapter: Path, run_id: str
) -> None:
    registered(stores, adapter, "foreign", run_id)
    client.set_registered_model_alias("foreign", "champion", "1")
    other = config.policy
    with pytest.raises(PromotionError, match="is an adapter for the base model /weights/pocket"):
        current_champion("foreign", tracking_uri=stores.tracking_uri, policy=other)
    client.delete_model_version_tag("foreign", "1", "advgrpo.policy")
    with pytest.raises(TrackingError, match="with the base model, is missing"):
        current_champion("foreign", tracking_uri=stores.tracking_uri, policy=other)


# MLflow warns about type hints of its own classes on import.
@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")
@pytest.mark.slow
def test_a_served_version_generates_the_images_of_the_policy(
    stores: EmbeddedServers, config: RunConfig, run_id: str, tmp_path: Path
) -> None:
    from mlflow.pyfunc import scoring_server

    from advgrpo.models.policies import load_policy
    from advgrpo.models.policies.adapter import save_adapter
    from advgrpo.models.policies.sampling import sample_images

    policy = load_policy(config.policy, torch.device("cpu"))
    values = {
        name: torch.full_like(parameter, 0.02) if ".lora_B." in name else parameter
        for name, parameter in policy.trainable_parameters().items()
    }
    save_adapter(tmp_path, values, config.policy.adapter)
    weights = config.policy.weights.location
    own = settings("served", f"policy.weights.location={weights}")
    register(stores.tracking_uri, own, tmp_path, run_id)
    served = mlflow.pyfunc.load_model("models:/served@candidate")
    prompts = ["a small red circle on blue", "a large green square on white"]
    files = served.predict(
        pd.DataFrame({"prompt": prompts}), params={"seed": 5, "num_inference_steps": 4}
    )
    images = torch.stack([decode_image(base64.b64decode(file)) for file in files])

    def generate(policy: Policy) -> torch.Tensor:
        guidance = config.training.sampling.guidance_scale
        return sample_images(
            policy, prompts, [5, 6], num_inference_steps=4, guidance_scale=guidance
        )

    expected = generate(load_policy(config.policy, torch.device("cpu"), adapter=tmp_path))
    # PNG rounds to 256 levels.
    torch.testing.assert_close(images, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert (images - generate(policy)).abs().max() > 0.02
    assert served.predict(prompts[:1], params={"seed": 5, "num_inference_steps": 4}) == files[:1]
    assert served.predict(prompts[:1]) == served.predict(prompts[:1], params={"seed": 0})
    with pytest.raises(MlflowException, match="seed"):
        served.predict(prompts, params={"seed": "many"})

    # As `mlflow models serve` answers a request.
    def answer(**params: object) -> object:
        request = json.dumps({"inputs": prompts, "params": params})
        schema = served.metadata.get_input_schema()
        response = scoring_server.invocations(request, "application/json", served, schema)
        return json.loads(response.response)

    assert answer(seed=5, num_inference_steps=4) == {"predictions": files}
    with pytest.raises(MlflowException, match="num_inference_steps=0: must be at least 1"):
        answer(num_inference_steps=0)


# MLflow passes the argument by the name that diffusers will drop.
@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated:FutureWarning")
def test_the_flavor_of_mlflow_for_diffusers_loads_base_and_adapter(
    stores: EmbeddedServers, config: RunConfig, run_id: str, tmp_path: Path
) -> None:
    from advgrpo.models.policies import load_policy
    from advgrpo.models.policies.adapter import save_adapter

    policy = load_policy(config.policy, torch.device("cpu"))
    save_adapter(tmp_path, policy.trainable_parameters(), config.policy.adapter)
    weights = local_folder(config.policy.weights)
    own = settings("flavored", f"policy.weights.location={weights}")
    register(stores.tracking_uri, own, tmp_path, run_id)
    model = mlflow.diffusers.load_model("models:/flavored@candidate")
    pipeline = model.load_pipeline(device="cpu")
    (name,) = pipeline.get_active_adapters()
    saved = load_file(tmp_path / "adapter_model.safetensors")
    loaded = pipeline.transformer.peft_config[name]
    shape = config.policy.adapter
    assert (loaded.r, loaded.lora_alpha) == (shape.rank, shape.alpha)
    tensors = dict(pipeline.transformer.named_parameters())
    for key, value in saved.items():
        own_name = key.removeprefix("base_model.model.").replace(".weight", f".{name}.weight")
        torch.testing.assert_close(tensors[own_name].float(), value)


@pytest.mark.parametrize(
    ("location", "revision", "base"),
    [
        ("hub://stabilityai/stable-diffusion-3.5-medium", "a" * 40, True),
        ("s3://bucket/weights", None, False),
    ],
)
def test_the_flavor_for_diffusers_names_a_base_that_diffusers_can_load(
    config: RunConfig, tmp_path: Path, location: str, revision: str | None, base: bool
) -> None:
    weights = Weights(location=location, revision=revision)
    write_served_files(
        tmp_path,
        policy=config.policy.model_copy(update={"weights": weights}),
        sampling=config.training.sampling,
        versions={"diffusers": "0.1"},
        run_id="run",
        model_id="m-1",
    )
    flavor = Model.load(tmp_path).flavors.get("diffusers")
    assert (flavor is not None) == base
    if flavor:
        assert flavor["base_model"] == "stabilityai/stable-diffusion-3.5-medium"
        assert flavor["base_model_revision"] == revision


def test_the_requirements_of_a_version_cover_what_its_code_imports(
    config: RunConfig, tmp_path: Path
) -> None:
    graph = grimp.build_graph("advgrpo", include_external_packages=True, cache_dir=None)
    roots = ("config.policy", "data.images", "models.policies.loading", "models.policies.sampling")
    used = set().union(*(graph.find_upstream_modules(f"advgrpo.{root}") for root in roots))
    packages = {name for name in used if not name.startswith("advgrpo")} - sys.stdlib_module_names
    write_served_files(
        tmp_path,
        policy=config.policy.model_copy(update={"quantization": "int8"}),
        sampling=config.training.sampling,
        versions={},
        run_id="run",
        model_id="m-1",
    )
    wheel, *others = (tmp_path / "requirements.txt").read_text().split()
    provided = {name.partition("==")[0] for name in others} | {"httpx2"}
    names = {"PIL": "pillow", "huggingface_hub": "huggingface-hub"}
    assert {names.get(name, name) for name in packages} <= provided
    # The wheel is complete: its package data, and a record that pip accepts.
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        listed = {
            line.partition(",")[0]
            for line in archive.read(f"advgrpo-{advgrpo.__version__}.dist-info/RECORD")
            .decode()
            .splitlines()
        }
        assert listed == set(archive.namelist())
        assert "advgrpo/pocket/weights/pipeline/model_index.json" in listed
