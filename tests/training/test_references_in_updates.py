import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from advgrpo.errors import ConfigError, NonFiniteError
from advgrpo.planning.memory import gpu_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.work import work_of
from advgrpo.tasks.reproduce import recompute
from advgrpo.training.loop import train, train_on_rollout
from advgrpo.training.nonfinite_dump import read_dump
from advgrpo.training.rollout import Rollout
from advgrpo.training.state import TrainingState
from advgrpo.training.steps import add_references, plan_rollout
from tests.training.conftest import World
from tests.training.test_loop import assert_same, train_until_stopped, weights

pytestmark = pytest.mark.usefixtures("loaded_once")

NFT = "training.algorithm={type: nft}"
ONE, TWO = (
    (
        NFT,
        f"training.rollout.references_per_prompt={count}",
        "training.rollout.update_microbatch_size=2",
    )
    for count in (1, 2)
)
Make = Callable[..., TrainingState]


@dataclass
class Seen:
    """What the updates of a run were given, and which reference images they read."""

    state: TrainingState
    trained: list[tuple[Rollout, Tensor]] = field(default_factory=list)
    read: list[tuple[list[int], list[int], Tensor]] = field(default_factory=list)


def watched(state: TrainingState, *, rollouts: int) -> Seen:
    seen, update, images = Seen(state), state.policy_updater.update, state.references.images

    def updated(
        rollout: Rollout, advantages: Tensor, *arguments: object, **settings: object
    ) -> dict[str, float]:
        seen.trained.append((rollout, advantages))
        return update(rollout, advantages, *arguments, **settings)

    def read(prompts: list[int], variations: list[int]) -> Tensor:
        seen.read.append((prompts, variations, images(prompts, variations)))
        return seen.read[-1][2]

    state.policy_updater.update = updated  # type: ignore[method-assign]
    state.references.images = read  # type: ignore[method-assign]
    for _ in range(rollouts):
        train_on_rollout(state)
    return seen


def test_reference_images_of_the_prompts_train_with_the_largest_advantage(
    make_state: Make,
) -> None:
    seen = watched(make_state(*TWO), rollouts=1)
    rollout, advantages = seen.trained[0]
    prompts, _, pixels = seen.read[0]
    assert rollout.prompt_ids[8:].tolist() == prompts
    # Prompts in the order of the rollout, each with two images.
    assert rollout.prompt_ids[:8:4].repeat_interleave(2).tolist() == prompts
    latents = seen.state.policy.encode(pixels)
    assert torch.equal(rollout.recorded["clean_latents"][8:], latents)
    assert torch.equal(advantages[8:], torch.full((4,), 5.0))
    assert float(advantages[:8].abs().max()) < 5.0
    images = list(zip(rollout.prompt_ids.tolist(), rollout.samples.tolist(), strict=True))
    # Noise follows from the two.
    assert len(set(images)) == len(images) == 12


def test_each_update_draws_other_reference_images(make_state: Make) -> None:
    seen = watched(make_state(*TWO), rollouts=1)
    plan = plan_rollout(seen.state)
    for number in (1, 2):
        again = replace(seen.trained[0][0], number=number)
        add_references(seen.state, plan, again, torch.zeros(len(again.samples)))
    assert len({variations[0] for _, variations, _ in seen.read}) == 3
    # Two images of one prompt are neighbours, so never the same one if there are two.
    for _, variations, _ in seen.read:
        assert [b - a for a, b in zip(variations[::2], variations[1::2], strict=True)] == [1, 1]


def test_a_prompts_reference_images_take_turns(make_state: Make) -> None:
    references = make_state(*ONE).references
    first, second = references.training_ids[:2]
    # As if the first prompt had the images of both.
    references._files[first] = references._files[first] + references._files[second]
    taken = references.images([first] * 4, [0, 1, 2, 7])
    assert torch.equal(taken[0], taken[2])
    assert torch.equal(taken[1], taken[3])
    assert not torch.equal(taken[0], taken[1])
    assert torch.equal(taken[1], references.images([second], [0])[0])


def test_the_policy_comes_nearer_to_them(make_state: Make) -> None:
    def error_after_an_update(*overrides: str) -> float:
        state = make_state(*overrides, "training.optimizer.learning_rate=1e-2")
        prompts = plan_rollout(state).prompt_ids
        train_on_rollout(state)
        clean = state.policy.encode(state.references.images(prompts, [0] * len(prompts)))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        embeddings = state.policy.embed([state.prompts.texts[i] for i in prompts])
        with torch.no_grad():
            velocity = state.policy.velocity(
                (clean + noise) / 2, 0.5, embeddings, guidance_scale=1.0
            )
        return float(((velocity - (noise - clean)) ** 2).mean())

    assert error_after_an_update(*TWO) < error_after_an_update(NFT)


def test_they_join_each_optimizer_step_with_earlier_and_selected_images(make_state: Make) -> None:
    state = make_state(
        *ONE,
        "training.optimizer_steps_per_update=2",
        "training.rollout.replayed_rollouts=1",
        "training.rollout.select={best: 1, worst: 1}",
        "training.rollout.update_microbatch_size=1",
        "training.updates=2",
    )
    seen = watched(state, rollouts=2)
    rollout, advantages = seen.trained[1]
    # Of each step: two images of this rollout, two of the one before, one reference image.
    assert torch.equal(advantages == 5.0, torch.tensor([False] * 4 + [True]).repeat(2))
    prompts, _, _ = seen.read[1]
    assert rollout.prompt_ids[4::5].tolist() == rollout.prompt_ids[::5].tolist() == prompts
    assert rollout.samples[4::5].tolist() == [8, 8]


def test_a_run_that_resumes_takes_the_same_reference_images(make_state: Make) -> None:
    straight = make_state(*ONE, folder="straight")
    train(straight)
    train_until_stopped(make_state(*ONE, folder="stopped"), microbatches=4)
    resumed = make_state(*ONE, folder="stopped")
    assert resumed.resume()
    train(resumed)
    assert_same(weights(resumed), weights(straight))


def test_a_reference_image_that_the_vae_cannot_encode_is_named(make_state: Make) -> None:
    state = make_state(*ONE)
    encode = state.policy.encode
    state.policy.encode = lambda images: encode(images).index_fill_(  # type: ignore[method-assign]
        0, torch.tensor([1]), float("inf")
    )
    before = weights(state)
    with pytest.raises(NonFiniteError, match=r"clean_latents became inf .*image 4 of its group"):
        train_on_rollout(state)
    assert_same(weights(state), before)


def test_a_failed_update_is_reproduced_from_the_images_that_it_had(make_state: Make) -> None:
    state = make_state(*ONE, "training.rollout.replayed_rollouts=1")
    train_on_rollout(state)
    parameter = list(state.policy.trainable_parameters().values())[3]
    calls = 0

    def spoiled(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        # Two passes for each microbatch of two; the last one has the reference images.
        return gradient * float("nan") if calls > 16 else gradient

    handle = parameter.register_hook(spoiled)
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    handle.remove()
    found = re.search(r"dumped in (\S+)", caught.value.message)
    assert found
    dump, tensors = read_dump(found.group(1))
    with state.policy.without_engine():
        reports = {each.name: each for each in recompute(dump, tensors, state.policy)}
    assert reports["clean_latents"].largest == float(tensors["clean_latents"].abs().max())
    assert all(each.not_finite == 0 for each in reports.values())


def test_algorithms_that_compare_with_the_present_policy_refuse_them(world: World) -> None:
    for algorithm in ("grpo", "awm"):
        with pytest.raises(ConfigError, match=r"rollout.references_per_prompt=1: .*set rollout"):
            world.config(
                "training.rollout.references_per_prompt=1",
                f"training.algorithm={{type: {algorithm}}}",
            )


def test_microbatches_and_processes_must_share_them_evenly(world: World) -> None:
    with pytest.raises(ConfigError, match="microbatch_size=4: must divide the 10 images"):
        world.config(NFT, "training.rollout.references_per_prompt=1")
    config = world.config(*ONE)
    # Two reference images, and five microbatches of two.
    with pytest.raises(ConfigError, match="2 training processes cannot share"):
        config.check_ranks(2)
    world.config(*ONE, "training.rollout.update_microbatch_size=1").check_ranks(2)
    with pytest.raises(ConfigError, match="4 training processes cannot share"):
        world.config(*ONE, "training.rollout.microbatch_size=1").check_ranks(4)


def test_planning_counts_them(world: World) -> None:
    def planned(*overrides: str) -> tuple[int, int, int]:
        run = world.config(*overrides)
        work, models = work_of(run, 2), models_of(run)
        parts = {part.name: part.bytes for part in gpu_memory(run, models, 2)}
        assert parts["rollout"] is not None
        assert parts["activations of the VAE (estimate)"]
        return work.update_passes_per_update, work.rollout_passes_per_update, parts["rollout"]

    update, rollout, memory = planned(NFT)
    update_with, rollout_with, memory_with = planned(*TWO)
    assert (update_with * 2, rollout_with) == (3 * update, rollout)
    # Half as many as generated ones, but without features.
    assert memory < memory_with < 1.5 * memory
