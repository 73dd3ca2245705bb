import base64
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from advgrpo import storage
from advgrpo.config import RunConfig, resolve
from advgrpo.data.images import decode_image
from advgrpo.errors import TrackingError, WeightsError
from advgrpo.policy.base import Policy
from advgrpo.stores import EmbeddedStores
from advgrpo.tracking.models import (
    ADAPTER_FILES,
    RegisteredAdapter,
    register_adapter,
    registered_adapter,
)


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return resolve("pocket", [])


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder that looks like an adapter."""
    folder = tmp_path / "trained adapter"
    folder.mkdir()
    for name in ADAPTER_FILES:
        (folder / name).write_text(f"content of {name}")
    (folder / "optimizer.safetensors").write_text("not for others")
    return folder


@pytest.fixture
def client(stores: EmbeddedStores) -> MlflowClient:
    return MlflowClient(stores.tracking_uri)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return str(client.create_run("0").info.run_id)


def registered(
    stores: EmbeddedStores, config: RunConfig, adapter: Path, name: str, run_id: str
) -> RegisteredAdapter:
    return register_adapter(
        adapter,
        registered_model=name,
        alias="candidate",
        run_id=run_id,
        tracking_uri=stores.tracking_uri,
        policy=config.policy,
        sampling=config.training.sampling,
        lineage={"prompts": "abc", "config": "def"},
        measures={"distance": 1.5},
    )


def fetched(stores: EmbeddedStores, uri: str, folder: Path) -> dict[str, str]:
    root = registered_adapter(uri, folder, tracking_uri=stores.tracking_uri)
    return {path.name: path.read_text() for path in root.iterdir()}


def test_an_adapter_comes_back_by_alias_and_by_version(
    stores: EmbeddedStores, config: RunConfig, adapter: Path, run_id: str, tmp_path: Path
) -> None:
    version = registered(stores, config, adapter, "back", run_id)
    assert version == RegisteredAdapter("back", 1, "models:/back/1")
    expected = {name: f"content of {name}" for name in ADAPTER_FILES}
    assert fetched(stores, "models:/back@candidate", tmp_path / "a") == expected
    assert fetched(stores, version.uri, tmp_path / "b") == expected


def test_a_version_shows_its_lineage_and_measures_and_holds_no_base_weights(
    stores: EmbeddedStores, client: MlflowClient, config: RunConfig, adapter: Path, run_id: str
) -> None:
    registered(stores, config, adapter, "lineage", run_id)
    version = client.get_model_version_by_alias("lineage", "candidate")
    assert version.run_id == run_id
    assert version.tags["advgrpo.prompts"] == "abc"
    assert version.tags["advgrpo.version.torch"] == torch.__version__
    model_id = version.source.removeprefix("models:/")
    logged = client.get_logged_model(model_id)
    assert logged.status == "READY"
    assert [(metric.key, metric.value) for metric in logged.metrics] == [("distance", 1.5)]
    files = storage.list_files(f"s3://advgrpo/mlflow/0/models/{model_id}/artifacts")
    assert {name for name in files if name.startswith("artifacts/")} == {
        f"artifacts/adapter/{name}" for name in ADAPTER_FILES
    }


def test_registering_twice_makes_one_version_and_another_adapter_the_next(
    stores: EmbeddedStores,
    client: MlflowClient,
    config: RunConfig,
    adapter: Path,
    run_id: str,
    tmp_path: Path,
) -> None:
    assert registered(stores, config, adapter, "twice", run_id).version == 1
    assert registered(stores, config, adapter, "twice", run_id).version == 1
    (adapter / ADAPTER_FILES[0]).write_text("trained further")
    assert registered(stores, config, adapter, "twice", run_id).version == 2
    assert int(client.get_model_version_by_alias("twice", "candidate").version) == 2
    old = fetched(stores, "models:/twice/1", tmp_path / "old")
    assert old[ADAPTER_FILES[0]] == f"content of {ADAPTER_FILES[0]}"


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_an_adapter_that_lacks_a_file_is_not_registered(
    stores: EmbeddedStores,
    client: MlflowClient,
    config: RunConfig,
    adapter: Path,
    run_id: str,
    name: str,
) -> None:
    (adapter / name).unlink()
    with pytest.raises(WeightsError, match=f"has no {name}"):
        registered(stores, config, adapter, "lacking", run_id)
    assert client.search_registered_models("name = 'lacking'") == []


def test_a_damaged_artifact_is_not_taken_for_the_adapter(
    stores: EmbeddedStores,
    client: MlflowClient,
    config: RunConfig,
    adapter: Path,
    run_id: str,
    tmp_path: Path,
) -> None:
    registered(stores, config, adapter, "damaged", run_id)
    source = client.get_model_version("damaged", "1").source.removeprefix("models:/")
    root = f"s3://advgrpo/mlflow/0/models/{source}/artifacts/artifacts/adapter"
    storage.write_bytes(f"{root}/adapter_model.safetensors", b"something else")
    with pytest.raises(TrackingError, match=r"adapter_model\.safetensors of models:/damaged/1"):
        registered_adapter("models:/damaged/1", tmp_path / "back", tracking_uri=stores.tracking_uri)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("uri", ["models:/x", "models:/x/latest", "runs:/x/1", "models:/@a", ""])
def test_what_is_no_model_uri_says_so(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="names no registered adapter"):
        registered_adapter(uri, tmp_path / "back", tracking_uri="http://127.0.0.1:9")


@pytest.mark.parametrize("uri", ["models:/nobody@candidate", "models:/nobody/7"])
def test_a_version_that_is_not_there_is_named(
    stores: EmbeddedStores, uri: str, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match="nobody") as caught:
        registered_adapter(uri, tmp_path / "back", tracking_uri=stores.tracking_uri)
    assert caught.value.repair == "check the name"


def test_a_registration_that_breaks_off_moves_no_alias(
    stores: EmbeddedStores,
    client: MlflowClient,
    config: RunConfig,
    adapter: Path,
    run_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered(stores, config, adapter, "breaks", run_id)
    (adapter / ADAPTER_FILES[0]).write_text("trained further")

    def broken(*_: object, **__: object) -> None:
        raise MlflowException("the artifact store is down")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", broken)
    with pytest.raises(TrackingError, match="the artifact store is down"):
        registered(stores, config, adapter, "breaks", run_id)
    monkeypatch.undo()
    assert int(client.get_model_version_by_alias("breaks", "candidate").version) == 1
    assert registered(stores, config, adapter, "breaks", run_id).version == 2


@pytest.mark.slow
def test_a_served_version_draws_what_the_policy_draws(
    stores: EmbeddedStores, config: RunConfig, run_id: str, tmp_path: Path
) -> None:
    from advgrpo.policy import load_policy
    from advgrpo.policy.adapter import save_adapter
    from advgrpo.policy.sampling import sample_images

    policy = load_policy(config.policy, torch.device("cpu"))
    values = {
        name: torch.full_like(parameter, 0.02) if ".lora_B." in name else parameter
        for name, parameter in policy.trainable_parameters().items()
    }
    save_adapter(tmp_path, values, config.policy.adapter)
    registered(stores, config, tmp_path, "served", run_id)
    served = mlflow.pyfunc.load_model("models:/served@candidate")
    prompts = ["a small red circle on blue", "a large green square on white"]
    files = served.predict(
        pd.DataFrame({"prompt": prompts}), params={"seed": 5, "denoising_steps": 4}
    )
    images = torch.stack([decode_image(base64.b64decode(file)) for file in files])

    def drawn(policy: Policy) -> torch.Tensor:
        guidance = config.training.sampling.guidance_scale
        return sample_images(policy, prompts, [5, 6], denoising_steps=4, guidance_scale=guidance)

    expected = drawn(load_policy(config.policy, torch.device("cpu"), adapter=tmp_path))
    # PNG rounds to 256 levels.
    torch.testing.assert_close(images, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert (images - drawn(policy)).abs().max() > 0.02
    assert served.predict(prompts[:1], params={"seed": 5, "denoising_steps": 4}) == files[:1]
    with pytest.raises(MlflowException, match="seed"):
        served.predict(prompts, params={"seed": "many"})
