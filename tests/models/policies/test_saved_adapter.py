"""Adapters as others publish them: saved by plain peft, in folders of one repository."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import advgrpo
from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.config import Weights
from advgrpo.config.policy import Sd3AdapterConfig
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import AdvGrpoError, ConfigError, WeightsError
from advgrpo.models.policies import Policy, load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.sampling import sample_images
from advgrpo.models.policies.saved_adapter import adapter_folder, read_shape
from advgrpo.storage import upload_folder
from advgrpo.testing import TinyModels
from tests.models.policies.plain import sample_with_diffusers

pytestmark = pytest.mark.usefixtures("loaded_once")

CPU = torch.device("cpu")
PROMPTS = ["a small red circle on a white background center", "a large blue ring"]
SEEDS = [1, 2]
SHAPE = ("policy.adapter.rank=8", "policy.adapter.alpha=16")


def publish(folder: Path, transformer: Path, *, seed: int, **changes: object) -> Path:
    """Write an adapter as the released code does: get_peft_model, training, save_pretrained."""
    settings = {
        "r": 8,
        "lora_alpha": 16,
        "init_lora_weights": "gaussian",
        "target_modules": list(Sd3AdapterConfig().target_modules),
        **changes,
    }
    model = get_peft_model(
        SD3Transformer2DModel.from_pretrained(transformer),
        LoraConfig(**settings),  # type: ignore[arg-type]
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def repository(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the folders of the published adapters."""
    root = tmp_path_factory.mktemp("repository")
    for seed, name in enumerate(("PickScore", "DINO")):
        publish(root / name, tiny.pipeline / "transformer", seed=seed)
    return root


@pytest.fixture
def dino(repository: Path, tmp_path: Path) -> Path:
    """A copy of an adapter that a test may damage."""
    return Path(shutil.copytree(repository / "DINO", tmp_path / "DINO"))


def started(tiny: TinyModels, location: Path | str, subfolder: str = "", *more: str) -> Policy:
    initial = f"{{location: '{location}', subfolder: '{subfolder}'}}"
    config = tiny.config(*SHAPE, f"policy.adapter.initial_adapter={initial}", *more)
    return load_policy(config.policy, CPU)


def drawn(policy: Policy) -> torch.Tensor:
    return sample_images(policy, PROMPTS, SEEDS, num_inference_steps=4, guidance_scale=2.5)


def test_a_published_adapter_predicts_and_draws_what_it_does_in_plain_peft_and_diffusers(
    tiny: TinyModels, repository: Path
) -> None:
    ours = started(tiny, repository, "DINO")
    bare = SD3Transformer2DModel.from_pretrained(tiny.pipeline / "transformer")
    theirs = PeftModel.from_pretrained(bare, str(repository / "DINO")).eval()
    embeddings, latents = ours.embed(PROMPTS), gaussian_noise(SEEDS, ours.latent_shape)
    with torch.no_grad():
        (predicted,) = theirs(
            hidden_states=latents,
            timestep=torch.full((2,), 500.0),
            encoder_hidden_states=embeddings.stack("context"),
            pooled_projections=embeddings.stack("pooled"),
            return_dict=False,
        )
        torch.testing.assert_close(
            ours.velocity(latents, 0.5, embeddings, guidance_scale=1.0), predicted
        )

    plain = StableDiffusion3Pipeline.from_pretrained(
        tiny.pipeline, transformer=theirs.merge_and_unload()
    )
    images = sample_with_diffusers(plain, PROMPTS, SEEDS, like=ours)
    # Ours are rounded to 8 bits.
    torch.testing.assert_close(drawn(ours), images, atol=0.5 / 255 + 1e-3, rtol=0)
    with ours.base_policy():
        base = drawn(ours)
    assert (base - images).abs().max() > 0.05


def test_each_folder_is_a_separate_adapter(tiny: TinyModels, repository: Path) -> None:
    assert not torch.equal(
        drawn(started(tiny, repository, "DINO")), drawn(started(tiny, repository, "PickScore"))
    )


def test_it_is_trained_further_and_saved_for_plain_diffusers(
    tiny: TinyModels, repository: Path, tmp_path: Path
) -> None:
    policy = started(tiny, repository, "DINO")
    parameters = policy.trainable_parameters()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters.values())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.mul_(0.5)
    save_adapter(tmp_path, parameters, policy.config.adapter)
    plain = StableDiffusion3Pipeline.from_pretrained(tiny.pipeline)
    plain.load_lora_weights(tmp_path)
    latents, embeddings = gaussian_noise(SEEDS, policy.latent_shape), policy.embed(PROMPTS)
    with torch.no_grad():
        (theirs,) = plain.transformer(
            hidden_states=latents,
            timestep=torch.full((2,), 500.0),
            encoder_hidden_states=embeddings.stack("context"),
            pooled_projections=embeddings.stack("pooled"),
            return_dict=False,
        )
        ours = policy.velocity(latents, 0.5, embeddings, guidance_scale=1.0)
    torch.testing.assert_close(ours, theirs)


def test_it_loads_from_an_object_store(
    tiny: TinyModels,
    repository: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
    tmp_path: Path,
) -> None:
    location = f"s3://advgrpo/adapters/{tmp_path.name}"
    upload_folder(repository, location)
    expected = drawn(started(tiny, repository, "DINO"))
    assert torch.equal(drawn(started(tiny, location, "DINO")), expected)
    assert torch.equal(drawn(started(tiny, f"{location}/DINO")), expected)


def test_its_shape_is_read_from_its_own_files(repository: Path, tiny: TinyModels) -> None:
    shape = read_shape(repository / "DINO")
    assert (shape.rank, shape.alpha) == (8, 16.0)
    assert set(shape.target_modules) == set(Sd3AdapterConfig().target_modules)
    policy = load_policy(
        tiny.config().policy.model_copy(update={"adapter": shape}), CPU, repository / "DINO"
    )
    assert torch.equal(drawn(policy), drawn(started(tiny, repository, "DINO")))


def test_modules_given_by_a_pattern_are_read_from_the_weights(
    tiny: TinyModels, tmp_path: Path
) -> None:
    folder = publish(
        tmp_path / "x",
        tiny.pipeline / "transformer",
        seed=0,
        target_modules=r".*\.attn\.to_(q|k)",
    )
    shape = read_shape(folder)
    assert "transformer_blocks.0.attn.to_k" in shape.target_modules
    config = tiny.config().policy.model_copy(update={"adapter": shape})
    assert drawn(load_policy(config, CPU, folder)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"r": 4,\n "r": 8', "the key 'r' occurs twice, in lines 2 and 3"),
        ('"r": true', "valid integer"),
        ('"r": "8"', "valid integer"),
    ],
)
def test_a_rank_that_is_not_one_number_is_refused(tmp_path: Path, text: str, message: str) -> None:
    settings = f'{{"lora_alpha": 16, "target_modules": ["to_q"],\n {text}}}'
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(WeightsError, match=message):
        read_shape(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.adapter.rank=4", "has rank 8 and alpha 16, but policy.adapter.rank=4"),
        ("policy.adapter.alpha=8", "--set policy.adapter.rank=8 --set policy.adapter.alpha=16"),
        ("policy.adapter.target_modules=[attn.to_q]", "parameters of policy.adapter and has"),
        ("policy.adapter.target_modules=[attn.to_q]", "policy.adapter.target_modules"),
    ],
)
def test_settings_of_another_shape_are_refused_with_a_repair(
    tiny: TinyModels, repository: Path, override: str, message: str
) -> None:
    with pytest.raises(WeightsError) as caught:
        started(tiny, repository, "DINO", override)
    assert message in str(caught.value)


def _predicted(transformer: torch.nn.Module, policy: Policy) -> torch.Tensor:
    embeddings, latents = policy.embed(PROMPTS), gaussian_noise(SEEDS, policy.latent_shape)
    with torch.no_grad():
        (predicted,) = transformer(
            hidden_states=latents,
            timestep=torch.full((2,), 500.0),
            encoder_hidden_states=embeddings.stack("context"),
            pooled_projections=embeddings.stack("pooled"),
            return_dict=False,
        )
    return cast("torch.Tensor", predicted)


def _assert_predicts_as_peft(tiny: TinyModels, folder: Path, theirs: torch.nn.Module) -> None:
    shape = read_shape(folder)
    config = tiny.config().policy.model_copy(update={"adapter": shape})
    ours = load_policy(config, CPU, folder)
    expected = _predicted(theirs, ours)
    base = SD3Transformer2DModel.from_pretrained(tiny.pipeline / "transformer").eval()
    assert (_predicted(base, ours) - expected).abs().max() > 0.01
    latents, embeddings = gaussian_noise(SEEDS, ours.latent_shape), ours.embed(PROMPTS)
    found = ours.velocity(latents, 0.5, embeddings, guidance_scale=1.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": True},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
        {"target_modules": ["attn.to_q", "attn.to_kattn.to_v"]},
        {"lora_dropout": 0.1, "exclude_modules": ["attn.to_v"]},
        {"layers_to_transform": [1], "layers_pattern": "transformer_blocks"},
    ],
)
def test_settings_that_are_understood_give_what_peft_predicts(
    tiny: TinyModels, tmp_path: Path, settings: dict[str, object]
) -> None:
    transformer = tiny.pipeline / "transformer"
    folder = publish(tmp_path / "x", transformer, seed=0, **settings)
    bare = SD3Transformer2DModel.from_pretrained(transformer)
    _assert_predicts_as_peft(tiny, folder, PeftModel.from_pretrained(bare, str(folder)).eval())


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_an_adapter_begun_by_another_method_is_converted_as_the_documentation_shows(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    transformer = tiny.pipeline / "transformer"
    publish(tmp_path / "adapter", transformer, seed=0, init_lora_weights=method)
    page = Path(advgrpo.__file__).parents[1] / "docs" / "using-an-adapter.md"
    (code,) = re.findall(r"### PiSSA and OLoRA.*?```python\n(.*?)```", page.read_text(), re.DOTALL)
    code = code.replace('"stabilityai/stable-diffusion-3.5-medium"', repr(str(tiny.pipeline)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec(code, {})
        bare = SD3Transformer2DModel.from_pretrained(transformer)
        theirs = PeftModel.from_pretrained(bare, str(tmp_path / "adapter")).eval()
    _assert_predicts_as_peft(tiny, tmp_path / "converted", theirs)
    assert read_shape(tmp_path / "converted").rank == 16


def _as_pickle(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()


def _named(change: Callable[[str], str]) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file({change(name): value for name, value in load_file(path).items()}, path)

    return rename


def _not_finite(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, path)


def _with(**settings: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def _beyond_count(folder: Path) -> None:
    """Write a tensor without elements whose shape overflows."""
    shape = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}
    head = json.dumps({"base_model.model.x.lora_A.weight": shape}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)


def _cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_bytes((folder / name).read_bytes()[:length]) and None
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_as_pickle, "is a pickle (adapter_model.bin), which can run code"),
        (
            _named(lambda name: name.replace("attn.to_q", "attn7.to_q")),
            "is for another base model: of the",
        ),
        (
            _named(lambda name: name.replace("base_model.model.", "base_model.model.transformer.")),
            "has the prefix 'base_model.model.transformer.' and the suffix '.lora_A.weight'; peft",
        ),
        (
            _named(lambda name: name.replace("base_model.model.", "diffusion_model.")),
            "has the prefix 'diffusion_model.'",
        ),
        (
            _named(
                lambda name: (
                    "lora_unet_"
                    + name.removeprefix("base_model.model.")
                    .replace(".", "_")
                    .replace("_lora_A_", ".lora_down.")
                    .replace("_lora_B_", ".lora_up.")
                )
            ),
            "has the prefix 'lora_unet_' and the suffix '.lora_down.weight'",
        ),
        (
            _named(lambda name: name.replace(".weight", ".default.weight")),
            "and the suffix '.lora_A.default.weight'",
        ),
        (_not_finite, "has values that are not finite"),
        (_beyond_count, "adapter_model.safetensors is not an adapter: reshape()"),
        (_cut("adapter_model.safetensors", 1000), "adapter_model.safetensors is not an adapter"),
        (_cut("adapter_model.safetensors", 0), "adapter_model.safetensors is not an adapter"),
        (_cut("adapter_config.json", 20), "adapter_config.json does not describe an adapter"),
        (_with(r="many"), "adapter_config.json does not describe an adapter"),
        (_with(r=0), "adapter_config.json does not describe an adapter"),
        (_with(use_dora=True), "more than a plain LoRA: use_dora=True"),
        (_with(peft_type="IA3"), "more than a plain LoRA: peft_type='IA3'"),
        (_with(init_lora_weights="pissa"), "has init_lora_weights='pissa': peft changed the base"),
        (_with(init_lora_weights="pissa_niter_4"), "has init_lora_weights='pissa_niter_4'"),
        (_with(init_lora_weights="OLoRA"), "has init_lora_weights='OLoRA'"),
        (_with(init_lora_weights="corda"), "plain LoRA: init_lora_weights='corda'"),
        (_with(init_lora_weights="lora_ga"), "plain LoRA: init_lora_weights='lora_ga'"),
        (_with(init_lora_weights="loftq"), "plain LoRA: init_lora_weights='loftq'"),
        (_with(init_lora_weights=1), "plain LoRA: init_lora_weights=1"),
        (_with(bias="all"), "plain LoRA: bias='all'"),
        (_with(loftq_config={"loftq_bits": 4}), "plain LoRA: loftq_config={'loftq_bits': 4}"),
        (_with(layer_replication=[[0, 1]]), "plain LoRA: layer_replication=[[0, 1]]"),
        (_with(target_parameters=["x"]), "plain LoRA: target_parameters=['x']"),
        (_with(trainable_token_indices=[1]), "plain LoRA: trainable_token_indices=[1]"),
        (_with(use_qalora=True), "plain LoRA: use_qalora=True"),
        (_with(of_next_year=0.5, use_dora=True), "LoRA: of_next_year=0.5, use_dora=True"),
        (lambda f: (f / "adapter_config.json").unlink(), "it has no adapter_config.json"),
    ],
)
def test_an_unusable_adapter_is_refused_with_its_file(
    tiny: TinyModels, dino: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(dino)
    with pytest.raises(WeightsError) as caught:
        started(tiny, dino)
    assert message in caught.value.message
    assert str(dino) in caught.value.message
    assert caught.value.repair


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"location": "REPOSITORY"}, "is not an adapter, but contains some: DINO, PickScore"),
        ({"location": "REPOSITORY", "subfolder": "SigLIP"}, "has no folder 'SigLIP'"),
        ({"location": "REPOSITORY/nowhere"}, "nowhere does not exist"),
        (
            {"location": "REPOSITORY/DINO/adapter_model.safetensors"},
            "adapter_model.safetensors is a file",
        ),
    ],
)
def test_a_location_without_an_adapter_is_refused(
    repository: Path, place: dict[str, str], message: str
) -> None:
    location = place["location"].replace("REPOSITORY", str(repository))
    with pytest.raises((WeightsError, ConfigError)) as caught:
        adapter_folder(Weights(**{**place, "location": location}))
    assert isinstance(caught.value, AdvGrpoError)
    assert message in caught.value.message
