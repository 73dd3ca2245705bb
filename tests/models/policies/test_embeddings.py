import shutil
from pathlib import Path

import pytest
import torch

from advgrpo.config.policy import Sd3PolicyConfig
from advgrpo.errors import StorageNotFoundError, WeightsError
from advgrpo.models.policies import encoding as module
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import encode_prompts
from advgrpo.models.policies.sampling import sample_images
from advgrpo.models.policies.sd3 import PARTS, Sd3TextEncoders
from advgrpo.testing import TinyModels

CPU = torch.device("cpu")
PROMPTS = ["", *(f"a small {colour} circle" for colour in ("red", "blue", "green", "black"))]


@pytest.fixture
def config(tiny: TinyModels, tmp_path: Path) -> Sd3PolicyConfig:
    folder = tmp_path / "weights"
    shutil.copytree(tiny.pipeline, folder)
    return tiny.config(f"policy.weights.location={folder}").policy


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROMPTS_PER_SHARD", 2)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts in the order of their encoding."""
    prompts: list[str] = []
    encode = Sd3TextEncoders.encode

    def recording(self: Sd3TextEncoders, prompt: str) -> PromptEmbeddings:
        prompts.append(prompt)
        return encode(self, prompt)

    monkeypatch.setattr(Sd3TextEncoders, "encode", recording)
    return prompts


def without_text_encoders(config: Sd3PolicyConfig) -> None:
    for name in (*PARTS.text_encoders, *PARTS.tokenizers):
        shutil.rmtree(Path(config.weights.location, name))


def test_a_policy_with_stored_embeddings_draws_the_same_bits_and_needs_no_text_encoder(
    config: Sd3PolicyConfig, tmp_path: Path
) -> None:
    def drawn(stored: StoredEmbeddings | None) -> torch.Tensor:
        policy = load_policy(config, CPU, embeddings=stored)
        return sample_images(
            policy, PROMPTS[1:], [1, 2, 3, 4], num_inference_steps=3, guidance_scale=2.5
        )

    expected = drawn(None)
    location = encode_prompts(config, PROMPTS, store=str(tmp_path / "store"))
    without_text_encoders(config)

    assert torch.equal(drawn(StoredEmbeddings(location, PROMPTS)), expected)
    with pytest.raises(WeightsError, match=r"policy\.weights"):
        drawn(None)


def test_only_missing_prompts_are_encoded(
    config: Sd3PolicyConfig, tmp_path: Path, encoded: list[str]
) -> None:
    store = str(tmp_path)
    location = encode_prompts(config, PROMPTS[:3], store=store)
    assert encoded == PROMPTS[:3]
    assert encode_prompts(config, PROMPTS, store=store) == location
    assert encoded == PROMPTS
    encode_prompts(config, PROMPTS, store=store)
    assert encoded == PROMPTS


def test_a_shard_without_its_index_is_encoded_again(
    config: Sd3PolicyConfig, tmp_path: Path, encoded: list[str]
) -> None:
    location = encode_prompts(config, PROMPTS[:4], store=str(tmp_path))
    lost = min(Path(location).glob("*.json"))
    before = StoredEmbeddings(location, PROMPTS[:4]).take(PROMPTS[1])
    lost.unlink()
    encoded.clear()

    encode_prompts(config, PROMPTS[:4], store=str(tmp_path))

    assert encoded in (PROMPTS[:2], PROMPTS[2:4])
    after = StoredEmbeddings(location, PROMPTS[:4]).take(PROMPTS[1])
    assert torch.equal(before.stack("context"), after.stack("context"))
    assert torch.equal(before.stack("pooled"), after.stack("pooled"))


@pytest.mark.parametrize("ending", ["safetensors", "json"])
def test_a_truncated_shard_is_encoded_again(
    config: Sd3PolicyConfig, tmp_path: Path, encoded: list[str], ending: str
) -> None:
    location = encode_prompts(config, PROMPTS[:2], store=str(tmp_path))
    (path,) = Path(location).glob(f"*.{ending}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    encoded.clear()

    with pytest.raises(StorageNotFoundError, match="embeddings of 2 prompts"):
        StoredEmbeddings(location, PROMPTS[:2])
    encode_prompts(config, PROMPTS[:2], store=str(tmp_path))

    assert encoded == PROMPTS[:2]
    assert path.read_bytes() == whole


def test_machines_split_the_prompts_independently_of_each_others_progress(
    config: Sd3PolicyConfig, tmp_path: Path, encoded: list[str]
) -> None:
    for share in (0, 1, 2):
        location = encode_prompts(config, PROMPTS, store=str(tmp_path), share=share, shares=3)
    assert sorted(encoded) == sorted(PROMPTS)
    stored = StoredEmbeddings(location, PROMPTS)
    alone = Sd3TextEncoders(config)
    for prompt in PROMPTS:
        assert torch.equal(
            stored.take(prompt).stack("context"), alone.encode(prompt).stack("context")
        )


def test_the_location_of_embeddings_depends_on_all_that_they_depend_on(
    tiny: TinyModels, config: Sd3PolicyConfig
) -> None:
    def place(**settings: object) -> str:
        return Sd3TextEncoders(config.model_copy(update=settings)).fingerprint()

    assert place() == Sd3TextEncoders(tiny.config().policy).fingerprint()
    assert place(resolution_pixels=64) == place()
    others = [
        place(max_sequence_length=5),
        place(text_dtype="bfloat16"),
        place(forward_dtype="bfloat16"),
    ]
    tokenizer = Path(config.weights.location, "tokenizer_3", "tokenizer.json")
    before = place()
    tokenizer.write_text(tokenizer.read_text("utf-8") + " ", "utf-8")
    assert len({before, place(), *others}) == 5


def test_embeddings_have_the_precision_of_the_transformer(
    config: Sd3PolicyConfig, tmp_path: Path
) -> None:
    half = config.model_copy(update={"forward_dtype": "bfloat16", "text_dtype": "bfloat16"})
    location = encode_prompts(half, PROMPTS, store=str(tmp_path))
    taken = StoredEmbeddings(location, PROMPTS).take(PROMPTS[1])
    assert {taken.stack("context").dtype, taken.stack("pooled").dtype} == {torch.bfloat16}
    whole = Sd3TextEncoders(config).encode(PROMPTS[1])
    torch.testing.assert_close(
        taken.stack("context").float(), whole.stack("context"), atol=0.05, rtol=0.05
    )


def test_a_missing_prompt_is_an_error_when_the_store_is_opened(
    config: Sd3PolicyConfig, tmp_path: Path
) -> None:
    location = encode_prompts(config, PROMPTS[:2], store=str(tmp_path))
    with pytest.raises(StorageNotFoundError, match="embeddings of 3 prompts"):
        StoredEmbeddings(location, PROMPTS)


def test_without_t5_its_embeddings_are_zeros_as_in_the_library(
    config: Sd3PolicyConfig, tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Pipeline

    folder = tmp_path / "without"
    plain = StableDiffusion3Pipeline.from_pretrained(
        config.weights.location, text_encoder_3=None, tokenizer_3=None
    )
    plain.save_pretrained(folder)
    without = config.model_copy(
        update={"weights": config.weights.model_copy(update={"location": str(folder)})}
    )
    theirs, _, pooled, _ = plain.encode_prompt(
        *[PROMPTS[1:2]] * 3,
        device=CPU,
        do_classifier_free_guidance=False,
        max_sequence_length=without.max_sequence_length,
    )
    ours = load_policy(without, CPU).embed(PROMPTS[1:2])
    assert torch.equal(ours.stack("context"), theirs)
    assert torch.equal(ours.stack("pooled"), pooled)


@pytest.mark.usefixtures("stores")
def test_only_needed_shards_of_an_s3_store_are_fetched(
    config: Sd3PolicyConfig, tmp_path: Path
) -> None:
    store = f"s3://advgrpo/embeddings/{tmp_path.name}"
    location = encode_prompts(config, PROMPTS[:4], store=store)
    assert encode_prompts(config, PROMPTS[:4], store=store) == location
    taken = StoredEmbeddings(location, PROMPTS[:2]).take(PROMPTS[1])
    assert torch.equal(
        taken.stack("context"), Sd3TextEncoders(config).encode(PROMPTS[1]).stack("context")
    )
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
