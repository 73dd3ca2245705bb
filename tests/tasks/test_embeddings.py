from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advgrpo.config import RunConfig
from advgrpo.config.tasks import PretrainingSettings, TrainingSettings
from advgrpo.data.prompts import read_prompts
from advgrpo.data.splits import split_prompts
from advgrpo.errors import AdvGrpoError, WeightsError
from advgrpo.models.discriminators import build_discriminator
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.embeddings import StoredEmbeddings, not_encoded
from advgrpo.models.policies.encoding import encode_prompts
from advgrpo.models.policies.sd3 import Sd3TextEncoders
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.tasks.embeddings import (
    encode_for_task,
    encode_in_processes,
    evaluation_prompts,
    pretraining_prompts,
    training_prompts,
)
from advgrpo.training.loop import train
from advgrpo.training.pretraining import pretrain_discriminator
from advgrpo.training.reference_features import ReferenceFeatures
from tests.training.conftest import World, world

__all__ = ["world"]


@pytest.fixture
def config(world: World) -> RunConfig:
    return world.config("training.sampling.guidance_scale=2")


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, encoding a prompt is an error."""

    def refuse(_self: Sd3TextEncoders, prompt: str) -> PromptEmbeddings:
        raise WeightsError(f"{prompt!r} was not encoded before")

    monkeypatch.setattr(Sd3TextEncoders, "encode", refuse)


def stored(config: RunConfig, prompts: list[str], workspace: Path) -> StoredEmbeddings:
    return StoredEmbeddings(
        encode_for_task(config.policy, config.training.sampling, prompts, workspace=str(workspace)),
        [*prompts, prompts[0]],
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_several_processes_encode_like_one_and_reuse_existing_embeddings(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a", "b", "c", "d", "e"]
    encode_prompts(config.policy, prompts[:2], store=str(tmp_path / "shared"))
    # Of a job of three machines, whose processes must not wait for each other here.
    monkeypatch.setenv("PET_NNODES", "3")
    encode_in_processes(config.policy, prompts, store=str(tmp_path / "shared"), processes=2)
    alone = encode_prompts(config.policy, prompts, store=str(tmp_path / "alone"))
    shared = str(tmp_path / "shared" / Path(alone).name)
    assert not_encoded([*prompts, "f"], shared) == ["f"]
    ours, theirs = StoredEmbeddings(shared, prompts), StoredEmbeddings(alone, prompts)
    for prompt in prompts:
        mine, other = ours.take(prompt), theirs.take(prompt)
        assert torch.equal(mine.stack("context"), other.stack("context"))


@pytest.mark.usefixtures("warm_python")
def test_the_error_of_an_encoding_process_is_raised(config: RunConfig, tmp_path: Path) -> None:
    nowhere = config.policy.weights.model_copy(update={"location": str(tmp_path / "nowhere")})
    policy = config.policy.model_copy(update={"weights": nowhere})
    with pytest.raises(AdvGrpoError, match="nowhere"):
        encode_in_processes(policy, ["a"], store=str(tmp_path), processes=1)


def test_training_uses_only_prompts_encoded_in_advance(
    world: World, config: RunConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prompts = read_prompts(str(world.prompts))
    needed = training_prompts(TrainingSettings.of(config), prompts)
    embeddings = stored(config, needed, tmp_path)
    request.getfixturevalue("no_encoder")
    session = world.state(tmp_path, "training.sampling.guidance_scale=2", embeddings=embeddings)
    train(session)
    assert session.counters.updates == config.training.updates
    # Two updates of two prompts: not all of the file's.
    assert len(needed) < len(prompts)


def test_pretraining_uses_only_prompts_encoded_in_advance(
    world: World, config: RunConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prompts, process_group = read_prompts(str(world.prompts)), ProcessGroup()
    task = PretrainingSettings.of(config)
    task = task.model_copy(
        update={
            "discriminator": task.discriminator.model_copy(
                update={
                    "pretraining": task.discriminator.pretraining.model_copy(
                        update={"images": 4, "steps": 0}
                    )
                }
            )
        }
    )
    embeddings = stored(
        config, pretraining_prompts(task, prompts, world.reference_images), tmp_path
    )
    request.getfixturevalue("no_encoder")
    discriminator = build_discriminator(task.discriminator, process_group.device, seed=0)
    references = ReferenceFeatures(
        world.reference_images,
        prompts,
        discriminator,
        held_out_fraction=task.discriminator.held_out_fraction,
        store=str(tmp_path / "features"),
        process_group=process_group,
    )
    history = pretrain_discriminator(
        load_policy(task.policy, process_group.device, embeddings=embeddings),
        discriminator,
        references,
        prompts,
        config=task.discriminator,
        sampling=task.sampling,
        batch_size=64,
        process_group=process_group,
        seed=task.seed,
    )
    assert len(history) == 1


def test_prompts_of_further_rollouts_are_encoded_if_some_may_be_skipped(
    world: World, config: RunConfig
) -> None:
    prompts = read_prompts(str(world.prompts))
    skipping = world.config("training.non_finite.action=skip", "training.sampling.guidance_scale=2")
    fewer, more = (
        training_prompts(TrainingSettings.of(one), prompts) for one in (config, skipping)
    )
    assert set(fewer) < set(more)


def test_pretraining_skips_held_out_prompts_without_images(world: World, config: RunConfig) -> None:
    prompts = read_prompts(str(world.prompts))
    task = PretrainingSettings.of(config)
    held_out = split_prompts(prompts.texts, task.discriminator.held_out_fraction).held_out
    images, bare = world.reference_images, prompts.texts[held_out[0]]
    files = {text: names for text, names in images.files.items() if text != bare}
    assert bare in pretraining_prompts(task, prompts, images)
    assert bare not in pretraining_prompts(task, prompts, replace(images, files=files))


def test_an_evaluation_encodes_its_prompts(world: World, config: RunConfig) -> None:
    prompts = read_prompts(str(world.prompts))
    few = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"prompts": 3})}
    )
    assert len(evaluation_prompts(few, prompts)) == 4
    assert set(evaluation_prompts(config, prompts)) == {"", *prompts.texts}


def test_prompts_that_an_encoder_does_not_read_to_the_end_are_logged(
    config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = config.policy.model_copy(update={"max_sequence_length": 14})
    long, longest = " ".join(["red"] * 11), " ".join(["red"] * 20)
    encode_prompts(policy, ["a red circle", long, longest], store=str(tmp_path / "all"))
    found = [each.getMessage() for each in caplog.records if "prompts are longer" in each.message]
    assert len(found) == 3
    assert all(
        f"2 prompts are longer than the 12 tokens that the encoder of {name} " in text
        for name, text in zip(("tokenizer", "tokenizer_2"), found[:2], strict=True)
    )
    assert "1 prompts are longer than the 14 tokens that the encoder of tokenizer_3" in found[2]
    caplog.clear()
    encode_prompts(policy, ["a red circle"], store=str(tmp_path / "short"))
    assert "longer" not in caplog.text
