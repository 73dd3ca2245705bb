from pathlib import Path

import torch

from advgrpo.data.prompts import read_prompts
from advgrpo.models.discriminators import DinoDiscriminator
from advgrpo.models.policies import load_policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage import cache_folder
from advgrpo.training.pretraining import pretrain_discriminator
from advgrpo.training.reference_features import ReferenceFeatures
from tests.training.conftest import World


def pretrained(world: World, *overrides: str) -> tuple[DinoDiscriminator, list[dict[str, float]]]:
    config = world.config("discriminator.pretraining.images=32", *overrides)
    process_group, prompts = ProcessGroup(), read_prompts(str(world.prompts))
    discriminator = DinoDiscriminator(config.discriminator, process_group.device, seed=0)
    references = ReferenceFeatures(
        world.reference_images,
        prompts,
        discriminator,
        held_out_fraction=config.discriminator.held_out_fraction,
        store=str(cache_folder()),
        process_group=process_group,
    )
    history = pretrain_discriminator(
        load_policy(config.policy, process_group.device),
        discriminator,
        references,
        prompts,
        config=config.discriminator,
        sampling=config.training.sampling,
        batch_size=16,
        process_group=process_group,
        seed=0,
    )
    return discriminator, history


def test_pretraining_learns_to_separate_held_out_images(world: World) -> None:
    _, history = pretrained(world, "discriminator.pretraining.steps=80")
    assert history[-1]["discriminator/held_out_accuracy"] > 0.9
    assert history[-1]["discriminator/margin"] > history[0]["discriminator/margin"]


def test_pretraining_stops_at_the_target_accuracy(world: World) -> None:
    easy = "discriminator.pretraining.target_accuracy=0.5"
    _, history = pretrained(world, easy, "discriminator.pretraining.steps=80")
    assert history[-1]["step"] < 80
    assert history[-1]["discriminator/held_out_accuracy"] >= 0.5


def test_pretraining_twice_gives_the_same_discriminator(world: World) -> None:
    steps = "discriminator.pretraining.steps=8"
    first, second = (pretrained(world, steps)[0].trainable_parameters() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_held_out_prompts_are_not_training_prompts(world: World, tmp_path: Path) -> None:
    state = world.state(tmp_path)
    held, trained = state.references.held_out_ids, state.references.training_ids
    assert held
    assert trained
    assert sorted([*held, *trained]) == list(range(len(state.prompts)))
