import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.config import RunConfig, resolve
from advgrpo.config.passes import rollout_passes, trained_passes
from advgrpo.config.preset_files import preset_names
from advgrpo.data.sampler import prompts_of_rollout, share_of_rank
from advgrpo.errors import ConfigError
from advgrpo.models.discriminators import build_discriminator
from advgrpo.models.meta import parameters
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import encode_prompts
from advgrpo.models.published import PUBLISHED
from advgrpo.planning import plan_run
from advgrpo.planning.discriminator import discriminator_parameters, feature_bytes
from advgrpo.planning.memory import adapter_parameters, gpu_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import Part, total, unknown
from advgrpo.planning.work import work_of
from advgrpo.training.algorithms.registry import build_algorithm
from advgrpo.training.rollout import generate_rollout

run = CliRunner().invoke

PICKSCORE = "{location: 'package://advgrpo.pocket/weights/pickscore'}"


def draft(preset: str, *overrides: str) -> RunConfig:
    return resolve(preset, overrides, needed=())


def sizes(parts: list[Part]) -> dict[str, int | None]:
    return {part.name: part.bytes for part in parts}


def test_the_released_run_is_as_large_as_it_was() -> None:
    recomputed = "policy.gradient_checkpointing=true"
    work = work_of(draft("sd35m_dino_released", recomputed), 8)
    assert (work.updates * work.rollouts_per_update, work.images) == (910, 698_880)
    assert (work.discriminator_steps, work.optimizer_steps) == (819, 182)
    assert work.rollout_passes_per_update == 10 * 768 * 10 * 2
    assert work.update_passes_per_update == 768 * 2 * 2
    plain = draft("sd35m_dino_released", "policy.gradient_checkpointing=false")
    assert work.extra_passes_per_update == work.update_passes_per_update
    assert work_of(plain, 8).extra_passes_per_update == 0
    anchored = draft("sd35m_dino_released", recomputed, "training.algorithm.kl_weight=0.1")
    assert work_of(anchored, 8).extra_passes_per_update == 2 * work.update_passes_per_update


def test_work_does_not_depend_on_the_number_of_gpus() -> None:
    assert work_of(draft("sd35m_dino"), 1) == work_of(draft("sd35m_dino"), 64)


@pytest.mark.parametrize(
    ("turns", "rollouts", "steps", "message"),
    [
        ("{type: every_rollout, discriminator_steps: 3}", 1, 3, ""),
        ("{type: released, discriminator_rollouts: 4}", 5, 4, ""),
        ("{type: when_outscored, discriminator_steps: 2}", 1, 2, "an upper bound"),
        ("{type: when_outscored, pause_policy: true}", 1, 0, "not included"),
        ("{type: frozen}", 1, 0, ""),
    ],
)
def test_turns_decide_rollouts_and_discriminator_steps(
    turns: str, rollouts: int, steps: int, message: str
) -> None:
    work = work_of(draft("pocket", f"training.update_schedule={turns}"), 1)
    assert (work.rollouts_per_update, work.discriminator_steps_per_update) == (rollouts, steps)
    assert message in work.note


class CountingPolicy:
    """A policy that does nothing but count the images that it is asked about."""

    device = torch.device("cpu")
    latent_shape = (1, 2, 2)

    def __init__(self) -> None:
        self.passes = 0

    def sigmas(self, num_inference_steps: int) -> torch.Tensor:
        return torch.linspace(1, 0, num_inference_steps + 1)

    def embed(self, prompts: list[str]) -> PromptEmbeddings:
        return PromptEmbeddings(({},) * len(prompts))

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: float,  # noqa: ARG002 - the protocol's
        embeddings: PromptEmbeddings,  # noqa: ARG002
        *,
        guidance_scale: float | None,
    ) -> torch.Tensor:
        self.passes += len(latents) * (1 if guidance_scale in {None, 1} else 2)
        return torch.zeros_like(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(latents), 3, 2, 2)

    def base_policy(self) -> AbstractContextManager[None]:
        return nullcontext()

    def as_in_update(self) -> AbstractContextManager[None]:
        return nullcontext()

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {}


@pytest.mark.parametrize(
    ("shared", "fast"),
    [
        (True, "{}"),
        (False, "{}"),
        (True, "{tail_steps: 2, guidance_interval: [0.2, 0.7]}"),
        (False, "{guidance_interval: [0.2, 0.7]}"),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("microbatch", [2, 6, 12])
def test_a_rollout_takes_as_many_passes_as_planned(
    shared: bool, fast: str, ranks: int, microbatch: int
) -> None:
    config = draft(
        "sd35m_dino",
        f"training.algorithm.shared_prefix={shared}",
        "training.algorithm.window={type: fixed, start: 3, length: 2}",
        f"training.algorithm.fast_sampling={fast}",
        "training.rollout.prompts_per_update=6",
        "training.rollout.group_size=8",
        f"training.rollout.microbatch_size={microbatch}",
    )
    training, policy = config.training, CountingPolicy()
    algorithm = build_algorithm(
        training.algorithm, training.sampling, policy, AdapterWeights({}), seed=0
    )
    ids = prompts_of_rollout(range(9), 0, prompts_per_update=6, seed=0)
    for rank in range(ranks):
        steps = share_of_rank(ids, group_size=8, optimizer_steps=2, world_size=ranks, rank=rank)
        generate_rollout(
            policy,
            algorithm.sample,
            [plan for step in steps for plan in step],
            ["a prompt"] * 9,
            microbatch_size=microbatch,
            rollout=0,
        )
    assert rollout_passes(config.policy, training) == policy.passes


@pytest.mark.parametrize(("start", "passes"), [(0, 2), (1, 3), (3, 4), (4, 3)])
def test_guided_steps_of_the_window_take_two_passes(start: int, passes: int) -> None:
    run = draft(
        "sd35m_dino",
        f"training.algorithm.window={{type: fixed, start: {start}, length: 2}}",
        "training.algorithm.fast_sampling.guidance_interval=[0.2, 0.5]",
    )
    assert trained_passes(run.policy, run.training) == passes


def test_a_moving_window_counts_by_the_mean_of_its_positions() -> None:
    fixed = "training.algorithm.window={type: fixed, start: 2, length: 2}"
    drawn = "training.algorithm.window={type: random, first_start: 0, last_start: 4, length: 2}"
    shared = "training.algorithm.shared_prefix=true"
    slid = "training.algorithm.window={type: sliding, first_start: 0, last_start: 5, stride: 2}"
    runs = [draft("pocket", shared, one) for one in (fixed, drawn, slid)]
    passes = [rollout_passes(run.policy, run.training) for run in runs]
    # Positions 0, 2 and 4.
    assert passes[0] == passes[1] == passes[2]


@pytest.mark.parametrize(
    "change",
    [
        "discriminator.patches=9",
        "discriminator.patches=null",
        "discriminator.prompt_conditioning=null",
        "discriminator.layers=[1, 4]",
        f"discriminator={{type: pickscore, trained_blocks: 1, weights: {PICKSCORE}}}",
        f"discriminator={{type: pickscore, feature_dtype: bfloat16, weights: {PICKSCORE}}}",
    ],
)
def test_the_discriminators_parts_are_as_large_as_planned(change: str) -> None:
    config = draft("pocket", change)
    models = models_of(config)
    built = build_discriminator(config.discriminator, torch.device("cpu"), seed=0)
    features = built.image_features(torch.rand(1, 3, 32, 32))
    assert feature_bytes(config, models) == sum(value.nbytes for value in features.values())
    trained = sum(value.numel() for value in built.trainable_parameters().values())
    assert discriminator_parameters(config, models) == trained


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "/dino" in name or "/sig" in name])
def test_every_published_backbone_can_be_planned(name: str) -> None:
    config = draft(
        "sd35m_dino", f"discriminator.weights.location={name}", "discriminator.layers=[6, 12]"
    )
    planned = plan_run(config, 8, train_prompts=100, test_prompts=10)
    assert unknown(planned.gpu_memory) == unknown(planned.storage) == []


def test_terms_of_the_reward_are_planned() -> None:
    planned = sizes(plan_run(draft("sd35m_ocr"), 8).gpu_memory)
    assert planned["reward ocr"] == 0
    assert planned["reward reference_similarity"] == planned["discriminator backbone"]


def test_the_number_of_images_of_a_folder_is_unknown() -> None:
    planned = plan_run(draft("sd35m_style"), 8, train_prompts=100, test_prompts=10)
    assert sizes(planned.storage)["reference images"] is None
    assert "one per image of the folder" in planned.storage[0].how


def test_the_policys_parts_are_as_large_as_planned() -> None:
    config = draft("pocket")
    models = models_of(config)
    policy = load_policy(config.policy, torch.device("cpu"))
    adapter = sum(value.numel() for value in policy.trainable_parameters().values())
    assert adapter_parameters(models) == adapter
    planned = sizes(gpu_memory(config, models, 1))
    tensors = [*policy.transformer.parameters(), *policy.transformer.buffers()]
    assert planned["transformer"] == sum(value.nbytes for value in tensors) - 4 * adapter
    assert planned["VAE"] == sum(value.nbytes for value in policy.vae.parameters())
    assert planned["adapter and optimizer"] == 7 * 4 * adapter


def test_more_gpus_share_the_optimizers_states_and_the_rollout() -> None:
    config = draft("sd35m_dino")
    models = models_of(config)
    one, eight = (sizes(gpu_memory(config, models, gpus)) for gpus in (1, 8))
    assert eight["adapter and optimizer"] < one["adapter and optimizer"]
    assert 8 * eight["rollout"] == one["rollout"]
    assert eight["transformer"] == one["transformer"]


def test_checkpointing_and_smaller_microbatches_save_memory() -> None:
    def activations(*overrides: str) -> int:
        config = draft("sd35m_dino", "training.rollout.microbatch_size=6", *overrides)
        parts = sizes(gpu_memory(config, models_of(config), 1))
        return parts["activations of the update (estimate)"] or 0

    plain = "policy.gradient_checkpointing=false"
    assert activations("policy.gradient_checkpointing=true") < activations(plain) / 5
    # Beside the activations, the adapter's weights in the precision of the forward pass.
    whole = pytest.approx(activations(plain), rel=0.02)
    assert activations(plain, "training.rollout.microbatch_size=3") * 2 == whole
    unguided = "training.sampling.guidance_scale=1"
    assert activations(plain, unguided) * 2 == whole


@pytest.mark.parametrize("preset", ["sd35m_dino", "sd35m_pickscore"])
def test_gpus_share_the_discriminators_batch(preset: str) -> None:
    config = draft(preset)
    models = models_of(config)
    name = "activations of the discriminator's step"
    one, two = (sizes(gpu_memory(config, models, gpus))[name] for gpus in (1, 2))
    assert one == 2 * (two or 0) > 0


def test_only_the_largest_transient_part_is_counted() -> None:
    parts = [
        Part("a", 5, ""),
        Part("b", 2, "", is_transient=True),
        Part("c", 3, "", is_transient=True),
        Part("d", None, ""),
    ]
    assert total(parts) == 8
    assert unknown(parts) == ["d"]


def test_local_weights_are_counted_by_their_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 768, "image_size": 518}')
    own = draft("sd35m_dino", f"discriminator.weights.location={tmp_path}")
    published = parameters(models_of(draft("sd35m_dino")).backbone)
    assert parameters(models_of(own).backbone) == published
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in models_of(own).backbone


def test_unknown_parts_are_named_and_not_guessed() -> None:
    planned = plan_run(draft("sd35m_dino", "policy.weights.location=nowhere"), 1)
    missing = unknown(planned.gpu_memory)
    assert "transformer" in missing
    assert "adapter and optimizer" in missing
    assert sizes(planned.storage)["reference images"] is None
    assert planned.durations == []


def test_storage_follows_from_the_prompts() -> None:
    released = plan_run(draft("sd35m_dino_released"), 1, train_prompts=25_432, test_prompts=10)
    stored = sizes(released.storage)
    # Its 910 rollouts draw nearly every prompt.
    assert stored["reference images"] == pytest.approx(60e9, rel=1e-3)
    ours = plan_run(draft("sd35m_dino"), 1, gpu="h100", train_prompts=25_432, test_prompts=10)
    drawn = next(part.how for part in ours.storage if part.name == "reference images")
    assert drawn.startswith("46,")
    assert stored["reference images of test prompts"] == pytest.approx(
        40 / 203_456 * 60e9, rel=1e-3
    )
    features = 203_456 * 65 * 768 * 4
    assert stored["features of reference images"] == pytest.approx(features, rel=1e-3)


def test_embeddings_are_stored_for_sampled_prompts() -> None:
    def stored(*overrides: str, train_prompts: int = 25_000) -> int | None:
        config = draft("sd35m_dino", *overrides)
        planned = plan_run(config, 1, train_prompts=train_prompts, test_prompts=100)
        return sizes(planned.storage)["prompt embeddings"]

    each = ((77 + 256) * 4096 + 2048) * 2
    assert stored() == (182 * 48 + 256 + 100 + 1) * each
    assert stored(train_prompts=1000) == (1000 + 100 + 1) * each
    waiting = "training.update_schedule={type: when_outscored, pause_policy: true}"
    assert stored(waiting) == (25_000 + 100 + 1) * each


def test_embeddings_are_as_large_as_planned(tmp_path: Path) -> None:
    config = draft("pocket")
    location = encode_prompts(config.policy, ["a small red circle"], store=str(tmp_path))
    taken = StoredEmbeddings(location, ["a small red circle"]).take("a small red circle").prompts[0]
    planned = plan_run(config, 1, train_prompts=1, test_prompts=1)
    # The training prompt, the test prompt and the empty one. The pocket's CLIP sees fewer tokens.
    spare = (77 - (taken["context"].shape[0] - config.policy.max_sequence_length)) * 64 * 4
    bytes_each = taken["context"].nbytes + taken["pooled"].nbytes + spare
    assert sizes(planned.storage)["prompt embeddings"] == 3 * bytes_each


def test_sharding_and_offloading_move_memory_from_the_gpu_to_the_host() -> None:
    settings = "training.rollout.microbatch_size=6", "policy.gradient_checkpointing=true"

    def memory(*overrides: str) -> tuple[int, int]:
        planned = plan_run(draft("sd35l_dino", *settings, *overrides), 8)
        return total(planned.gpu_memory), total(planned.host_memory)

    plain = memory()
    optimizer = memory("training.offload=optimizer")
    spread = memory("training.zero_stage=3")
    both = memory("training.zero_stage=3", "training.offload=optimizer_and_weights")
    assert optimizer[0] < plain[0]
    assert both[0] < spread[0] < plain[0] - 10 * 2**30
    assert plain[1] == spread[1] < optimizer[1] < both[1]


def test_slices_of_the_decoder_and_two_passes_of_guidance_save_memory() -> None:
    settings = "training.rollout.microbatch_size=6", "policy.gradient_checkpointing=true"

    def part(name: str, *overrides: str) -> int:
        config = draft("sd35m_dino", *settings, *overrides)
        return sizes(gpu_memory(config, models_of(config), 1))[name] or 0

    vae, update = "activations of the VAE (estimate)", "activations of the update (estimate)"
    assert part(vae, "policy.decode_batch_size=1") * 2 == pytest.approx(part(vae), rel=0.01)
    assert part(vae, "policy.decode_batch_size=null") == pytest.approx(3 * part(vae), rel=0.01)
    assert part(update, "policy.guidance=two_passes") < part(update)
    smaller = "training.rollout.update_microbatch_size=3"
    half = part(update, smaller, "training.compile=none")
    assert half * 2 == pytest.approx(part(update), rel=0.1)


def test_text_encoders_are_counted_once_per_machine() -> None:
    def encoding(*overrides: str) -> int:
        return plan_run(draft("sd35m_dino", *overrides), 8).encoding_memory.bytes or 0

    assert encoding("policy.text_dtype=float32") == 2 * encoding() > 20e9
    assert "text encoders" in run(app, ["plan", "--preset", "sd35m_dino"]).output


def test_the_time_of_training_follows_from_a_given_rate() -> None:
    planned = plan_run(draft("sd35m_dino"), 8, images_per_second=2.0)
    hours = {each.phase: each.gpu_hours for each in planned.durations}
    assert hours["training"] == pytest.approx(182 * 768 / 2 / 3600)
    # No GPU was named that they could be estimated for.
    assert hours["evaluation"] is None
    assert hours["reward pre-training"] is None


@pytest.mark.parametrize(
    "preset", [name for name in preset_names() if not name.startswith("pocket")]
)
def test_every_phase_of_every_shipped_policy_has_an_estimate(preset: str) -> None:
    planned = plan_run(draft(preset), 8, gpu="h200", train_prompts=1000, test_prompts=100)
    assert [each.phase for each in planned.durations] == [
        "reference images", "reward pre-training", "training", "evaluation"
    ]  # fmt: skip
    assert all(each.gpu_hours is not None for each in planned.durations)
    assert planned.durations[2].gpu_hours > planned.durations[1].gpu_hours > 0


def test_estimates_follow_work_and_speed() -> None:
    def hours(gpu: str, *overrides: str) -> dict[str, float | None]:
        run = draft("sd35m_dino", *overrides)
        planned = plan_run(run, 8, gpu=gpu, train_prompts=1000, test_prompts=100)
        return {each.phase: each.gpu_hours for each in planned.durations}

    usual, slow = hours("h100"), hours("a100")
    assert all((slow[phase] or 0) >= (value or 0) for phase, value in usual.items())
    twice = hours("h100", "training.updates=364", "evaluation.images_per_prompt=8")
    assert twice["training"] == pytest.approx(2 * usual["training"])
    assert twice["evaluation"] == pytest.approx(2 * usual["evaluation"])
    assert hours("h100", "policy.gradient_checkpointing=true")["training"] > usual["training"]


def test_a_gpu_that_is_unknown_or_too_small_is_refused_with_those_that_work() -> None:
    with pytest.raises(ConfigError, match="--gpu h1000: not a known GPU") as caught:
        plan_run(draft("sd35m_dino"), 8, gpu="h1000")
    assert "h100, h200, a100, l40s, rtx4090" in caught.value.repair
    with pytest.raises(ConfigError, match="a GeForce RTX 4090 has 24 GiB") as caught:
        plan_run(draft("qwen_image_dino"), 1, gpu="rtx4090")
    assert "--gpu l40s or" in caught.value.repair or "--gpu h100 or" in caught.value.repair


def test_the_rate_of_a_finished_training_replaces_the_estimate(tmp_path: Path) -> None:
    metrics = {"images_sampled": 7200, "seconds/rollout": 600, "seconds/reward": 300}
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "cost/processes": 8}))
    command = ["plan", "--preset", "sd35m_dino", "--gpu", "h100", "--measured"]
    output = run(app, [*command, str(tmp_path)]).output
    assert "at 1 images/s per GPU" in output
    assert "38.8" in output
    (tmp_path / "metrics.json").write_text("{}")
    assert "is not that of a training" in str(run(app, [*command, str(tmp_path)]).exception)


def test_a_number_of_gpus_that_cannot_share_an_update_is_refused() -> None:
    with pytest.raises(ConfigError, match="use 1, 2, 4, 8, 16, 32, 64, 128 processes"):
        plan_run(draft("sd35m_dino"), 5)


def test_the_command_prints_what_a_run_needs() -> None:
    output = run(app, ["plan", "--preset", "sd35m_dino_released", "--gpus", "8"]).output
    assert "sd35m_dino_released on 8 GPUs" in output
    assert "698,880" in output
    assert "use --gpu" in output
    assert "use --train-prompts" in output
    timed = ["plan", "--preset", "sd35m_dino", "--images-per-second", "1", "--price", "2"]
    output = run(app, timed).output
    assert "38.8" in output
    assert "77.65" in output


def test_the_prompts_of_given_files_are_counted() -> None:
    output = json.loads(run(app, ["plan", "--json"]).output)
    assert output["gpus"] == 1
    assert sizes([Part(**part) for part in output["storage"]])["reference images"] is not None
    assert output["work"]["images"] == 80 * 64
