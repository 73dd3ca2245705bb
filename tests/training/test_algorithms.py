"""Other algorithms run through the real loop, checkpoints and dumps."""

import re
from collections.abc import Callable, Iterator
from typing import Annotated

import pytest
from pydantic import Field
from torch import Tensor

from advgrpo.config.algorithms import AwmConfig, GrpoConfig, NftConfig
from advgrpo.config.base import AlgorithmConfig
from advgrpo.errors import NonFiniteError
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.planning.work import work_of
from advgrpo.tasks.reproduce import recompute
from advgrpo.training.algorithms.base import PassLoss
from advgrpo.training.algorithms.registry import ALGORITHMS
from advgrpo.training.loop import train, train_on_rollout
from advgrpo.training.nonfinite_dump import NonFiniteDump, read_dump
from advgrpo.training.rollout import Rollout
from advgrpo.training.state import TrainingState
from tests.training.conftest import World
from tests.training.test_loop import assert_same, train_until_stopped, weights
from tests.training.toy_algorithm import RewardWeightedMatching, ToyConfig

pytestmark = pytest.mark.usefixtures("loaded_once")

TOY = ToyConfig()
MATCHING = pytest.mark.parametrize(
    "algorithm", [TOY, NftConfig(), AwmConfig()], ids=lambda a: a.type
)
"""Algorithms that match velocities towards images of an earlier policy."""

Make = Callable[..., TrainingState]


class ToyDump(NonFiniteDump):
    """A dump of a run whose settings allow the toy algorithm, too."""

    algorithm: Annotated[
        ToyConfig | GrpoConfig | NftConfig | AwmConfig, Field(discriminator="type")
    ]


@pytest.fixture(autouse=True)
def toy_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "toy", RewardWeightedMatching)
    for module in ("nonfinite", "nonfinite_dump"):
        monkeypatch.setattr(f"advgrpo.training.{module}.NonFiniteDump", ToyDump)


@MATCHING
def test_another_algorithm_trains_in_the_same_loop(
    make_state: Make, algorithm: AlgorithmConfig
) -> None:
    state = make_state("training.optimizer_steps_per_update=2", algorithm=algorithm)
    before = state.engine.state()
    train(state)
    after = state.engine.state()
    assert (state.counters.updates, float(after["step"])) == (2, 4)
    assert any((after[name] != before[name]).any() for name in before if "weight" in name)
    row = state.history[-1]
    assert row["policy/matching_error"] > 0
    assert row["policy/gradient_norm"] > 0
    assert ("policy/ratio_mean" in row) == (algorithm.type == "awm")


@pytest.mark.parametrize("algorithm", [None, TOY, NftConfig(), AwmConfig()])
def test_the_best_and_worst_images_of_each_group_alone_train_the_policy(
    make_state: Make, algorithm: AlgorithmConfig | None
) -> None:
    state = make_state(
        "training.rollout.select={best: 1, worst: 1}",
        "training.rollout.update_microbatch_size=2",
        "training.algorithm.ratio_tolerance=0.0004",
        algorithm=algorithm,
    )
    trained, advantages = state.algorithm.losses, []

    def losses(part: Rollout, weights: Tensor, embeddings: PromptEmbeddings) -> Iterator[PassLoss]:
        advantages.append(weights)
        return trained(part, weights, embeddings)

    state.algorithm.losses = losses  # type: ignore[method-assign]
    metrics = train_on_rollout(state)
    assert metrics["policy/gradient_norm"] > 0
    assert [of_group.shape for of_group in advantages] == [(2,), (2,)]
    # Of the whole group: the best image is above its mean and the worst below.
    assert all(of_group.min() < 0 < of_group.max() for of_group in advantages)


@MATCHING
def test_its_own_state_is_part_of_a_checkpoint(
    make_state: Make, algorithm: AlgorithmConfig
) -> None:
    straight = make_state(folder="straight", algorithm=algorithm)
    train(straight)

    train_until_stopped(make_state(folder="stopped", algorithm=algorithm), microbatches=4)
    resumed = make_state(folder="stopped", algorithm=algorithm)
    fresh = {name: value.clone() for name, value in resumed.algorithm.state().items()}
    assert bool(fresh) == (algorithm.type != "awm")
    assert resumed.resume()
    assert resumed.counters.updates == 1
    restored = resumed.algorithm.state()
    assert not fresh or any((value != fresh[name]).any() for name, value in restored.items())
    train(resumed)
    assert_same(weights(resumed), weights(straight))


@MATCHING
def test_its_non_finite_gradients_are_named_and_reproduced(
    make_state: Make, algorithm: AlgorithmConfig
) -> None:
    state = make_state(algorithm=algorithm)
    train_on_rollout(state)
    name, parameter = list(state.policy.trainable_parameters().items())[3]
    handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = weights(state)
    with pytest.raises(NonFiniteError, match=re.escape(f"gradient of {name} at draw 0")) as caught:
        train_on_rollout(state)
    handle.remove()
    assert_same(weights(state), before)

    location = re.search(r"dumped in (\S+)", caught.value.message)
    assert location is not None
    dump, tensors = read_dump(location.group(1))
    assert dump.algorithm == algorithm
    with state.policy.without_engine():
        reports = {report.name: report for report in recompute(dump, tensors, state.policy)}
    assert reports["clean_latents"].largest == float(tensors["clean_latents"].abs().max())
    assert all(report.not_finite == 0 for report in reports.values())
    passes = [report for report in reports if report.startswith(f"gradient of {name} at draw ")]
    assert len(passes) == algorithm.trained_steps


@MATCHING
def test_planning_counts_its_passes(world: World, algorithm: AlgorithmConfig) -> None:
    run = world.config()
    training = run.training.model_copy(update={"algorithm": algorithm})
    work = work_of(run.model_copy(update={"training": training}), 1)
    assert work.update_passes_per_update == 8 * algorithm.trained_steps
    extra = algorithm.extra_passes(training.optimizer_steps_per_update)
    assert work.extra_passes_per_update == 8 * algorithm.trained_steps * extra
    assert work.rollout_passes_per_update == 8 * run.training.sampling.num_inference_steps
