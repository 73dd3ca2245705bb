import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo import register_backend

from advgrpo.config.training import TrainingConfig
from advgrpo.errors import ConfigError
from advgrpo.training.loop import compile_policy, train_on_rollout
from advgrpo.training.state import TrainingState
from tests.training.conftest import World
from tests.training.rollout_program import WAYS

pytestmark = pytest.mark.usefixtures("loaded_once")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rollouts(
    world: World, warm_interpreter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict]:
    output = tmp_path_factory.mktemp("rollouts")
    done = subprocess.run(
        [
            str(warm_interpreter),
            "-m",
            "tests.training.rollout_program",
            world.prompts.parent,
            output,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: load_file(path) for path in output.glob("*.safetensors")}


@pytest.mark.slow
def test_images_and_rewards_do_not_depend_on_microbatches_or_ranks(
    rollouts: dict[str, dict],
) -> None:
    assert len(rollouts) == sum(len(ways) for ways in WAYS.values())
    expected = rollouts["1, all at once"]
    assert expected["images"].flatten(1).std(dim=0).mean() > 0.05
    assert expected["rewards"].std(dim=0).min() > 1e-4
    for way, found in rollouts.items():
        difference = (found["images"] - expected["images"]).abs()
        # Images have the values of 8-bit files: rounding may fall to the next one.
        assert float(difference.max()) < 1.5 / 255, way
        assert float((difference > 0).float().mean()) < 0.01, way
        torch.testing.assert_close(
            found["rewards"], expected["rewards"], atol=1e-3, rtol=0, msg=lambda m, w=way: w + m
        )
        torch.testing.assert_close(found["log_probs"], expected["log_probs"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.rollout.update_microbatch_size=2"],
        ["training.rollout.microbatch_size=8"],
        ["policy.guidance=two_passes", "policy.gradient_checkpointing=true"],
        ["training.compile=aot_eager"],
    ],
    ids=str,
)
def test_an_update_takes_the_same_step_however_its_images_pass(
    make_state: Callable[..., TrainingState], overrides: list[str]
) -> None:
    guided = "training.sampling.guidance_scale=2"

    def gradients(*settings: str, folder: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        state = make_state(guided, *settings, folder=folder)
        metrics, tensors = train_on_rollout(state), state.engine.state()
        return metrics, {k: v for k, v in tensors.items() if k.startswith("exp_avg.")}

    expected_metrics, expected = gradients(folder="plain")
    metrics, found = gradients(*overrides, folder="other")

    assert metrics["policy/ratio_error_before_step"] < 1e-5
    for name in ("reward/discriminator", "policy/gradient_norm"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=2e-2)
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 0.03 * float(value.norm()) + 1e-8, name


def test_a_microbatch_of_the_update_that_does_not_fit_is_refused_by_name(world: World) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.update_microbatch_size=3: must divide"):
        world.config("training.rollout.update_microbatch_size=3")
    apart = world.config("training.rollout.update_microbatch_size=2")
    apart.check_ranks(2)
    with pytest.raises(ConfigError, match=r"2 \(training\.rollout\.update_microbatch_size\)"):
        apart.check_ranks(4)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["training.engine=ddp", "training.offload=optimizer"], "engine=deepspeed"),
        (["training.engine=ddp", "training.zero_stage=3"], "engine=deepspeed"),
        (["training.offload=optimizer_and_weights"], "needs zero_stage=3"),
        (["training.zero_stage=3", "training.compile=inductor"], "compile=none"),
        (["training.zero_stage=4"], "training.zero_stage=4"),
    ],
)
def test_incompatible_settings_are_refused_with_a_repair(
    world: World, overrides: list[str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        world.config(*overrides)


def test_without_a_compiler_training_continues_unless_compilation_is_named(
    make_state: Callable[..., TrainingState],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_compiler(_graph: object, _inputs: object) -> object:
        raise RuntimeError("No working C++ compiler found")

    plain = make_state()
    compile_policy(plain)
    assert "compilation" not in plain.counters.seconds

    # As on a GPU.
    register_backend(no_compiler, name="no_compiler")
    monkeypatch.setattr(TrainingConfig, "compile_backend", lambda _self, on_gpu: "no_compiler")  # noqa: ARG005
    with pytest.raises(ConfigError, match="no working compiler"):
        compile_policy(make_state("training.compile=inductor", folder="named"))
    state = make_state(folder="auto")
    compile_policy(state)
    ours = [each.levelname for each in caplog.records if "uncompiled" in each.getMessage()]
    assert ours == ["WARNING"]
    assert train_on_rollout(state)["policy/ratio_error_before_step"] == 0
    # Passes of the rollout keep no activations: there are no kernels whose rounding to repeat.
    policy, keeps = state.policy, []
    policy.transformer.register_forward_pre_hook(lambda *_: keeps.append(torch.is_grad_enabled()))
    latents, embeddings = torch.zeros(1, *policy.latent_shape), policy.embed(["a cat"])
    with torch.no_grad(), policy.as_in_update():
        policy.velocity(latents, 0.5, embeddings, guidance_scale=None)
    assert keeps == [False]


@pytest.mark.parametrize(
    ("compiled", "on_gpu", "stage", "backend"),
    [
        ("auto", False, 2, None),
        ("auto", True, 2, "inductor"),
        ("auto", True, 3, None),
        ("none", True, 2, None),
        ("aot_eager", False, 2, "aot_eager"),
    ],
)
def test_compilation_is_for_gpus(
    compiled: str, on_gpu: bool, stage: int, backend: str | None
) -> None:
    config = TrainingConfig(compile=compiled, zero_stage=stage)
    assert config.compile_backend(on_gpu=on_gpu) == backend
