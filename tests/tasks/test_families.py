"""Each family takes the whole path, from reference images of its own pipeline to a champion."""

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from advgrpo.config import RunConfig, resolve
from advgrpo.config.tasks import (
    PretrainingSettings,
    ReferenceImagesSettings,
    TrainingSettings,
)
from advgrpo.data.images import decode_image
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.sampling import sample_images
from advgrpo.pocket.captions import all_captions
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.registry.promotion import promote
from advgrpo.registry.versions import parse_uri
from advgrpo.runtime.results import read_history
from advgrpo.storage import read_bytes
from advgrpo.tasks import train as train_task
from advgrpo.tasks.adapters import fetch_adapter
from advgrpo.tasks.evaluate import evaluate
from advgrpo.tasks.generate import generate, registered_run
from advgrpo.tasks.pretrain_reward import pretrain_reward
from advgrpo.tasks.reference_images import make_reference_images
from advgrpo.tasks.register import register
from advgrpo.testing import TinyModels
from tests.models.policies.families import FAMILIES

pytestmark = pytest.mark.usefixtures("loaded_once")

GUIDED = {family.name: family.guided for family in FAMILIES} | {"sd3": 2.0}
CAPTIONS = [caption.text for caption in all_captions()[::100]]
PROMPTS = {"train": CAPTIONS[:10], "test": CAPTIONS[10:13]}


@pytest.fixture
def _ranks_in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train without a new interpreter, whose imports take longer than all the rest."""

    def run(function: Callable[..., None], arguments: Mapping[str, object], **_: object) -> None:
        function(**arguments)

    monkeypatch.setattr(train_task, "run_in_processes", run)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def settings(name: str, tiny: TinyModels, folder: Path) -> RunConfig:
    for split, prompts in PROMPTS.items():
        (folder / f"{split}.txt").write_text("\n".join(prompts), "utf-8")
    family = next((each for each in FAMILIES if each.name == name), None)
    weights = tiny.pipeline if family is None else family.save(folder / "weights")
    length = 10 if family is None else family.max_sequence_length
    guidance = "guidance_scale" if family is None else family.guidance_argument
    negative = "null" if family is not None and family.negative_prompt is None else "' '"
    return resolve(
        "pocket",
        [
            *tiny.overrides(),
            *(f"prompts.{split}={folder / split}.txt" for split in PROMPTS),
            f"policy={{type: {name}, weights: {{location: {weights}}}, adapter: {{rank: 4}}}}",
            "policy.resolution_pixels=32",
            "policy.forward_dtype=float32",
            f"policy.max_sequence_length={length}",
            f"reference_images.source={{type: diffusers, weights: {{location: {weights}}}}}",
            "reference_images.source.num_inference_steps=2",
            "reference_images.source.dtype=float32",
            f"reference_images.source.guidance_argument={guidance}",
            f"reference_images.source.negative_prompt={negative}",
            "reference_images.images_per_prompt=1",
            "reference_images.test_images_per_prompt=1",
            "discriminator.held_out_fraction=0.3",
            "discriminator.pretraining={images: 8, held_out_images: 4, steps: 1}",
            "discriminator.optimizer={batch_size: 4, replay_images: 4}",
            "training.updates=2",
            f"training.sampling={{num_inference_steps: 3, guidance_scale: {GUIDED[name]}}}",
            "training.algorithm.window.last_start=0",
            "training.rollout={prompts_per_update: 2, group_size: 2, microbatch_size: 4}",
            "training.update_schedule.discriminator_steps=1",
            "training.monitoring={held_out_every_updates: 2, held_out_prompts: 2}",
            "training.monitoring.select_adapter=last",
            "evaluation.images_per_prompt=1",
            "evaluation.bootstrap_samples=5",
            "evaluation.grid_prompts=2",
            f"promotion.registered_model=path-{name}",
        ],
    )


@pytest.mark.usefixtures("_ranks_in_this_process")
@pytest.mark.parametrize("name", GUIDED)
def test_a_family_goes_from_reference_images_to_its_champion(
    name: str,
    tiny: TinyModels,
    running_stores: EmbeddedServers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config, workspace = settings(name, tiny, tmp_path), str(tmp_path / "work")
    images = make_reference_images(
        ReferenceImagesSettings.of(config).model_dump_json(), workspace=workspace
    )
    pretrained = pretrain_reward(
        PretrainingSettings.of(config).model_dump_json(),
        reference_images=images.train,
        workspace=workspace,
    )
    trained = train_task.train(
        TrainingSettings.of(config).model_dump_json(),
        reference_images=images.train,
        discriminator=pretrained.location,
        workspace=workspace,
        processes=1,
    )
    history = read_history(Path(trained.location))
    assert [row.get("policy/ratio_error_before_step") for row in history] == [None, 0, 0]
    values = load_file(Path(trained.location) / "adapter" / PEFT_WEIGHTS)
    ends = [value for name, value in values.items() if ".lora_B." in name]
    # The last layers may discard their text, whose part of the adapter then stays as it was.
    assert sum(bool(value.any()) for value in ends) > len(ends) / 2
    evaluated = evaluate(
        config.model_dump_json(),
        trained=trained.location,
        discriminator=pretrained.location,
        reference_images=images.test,
        workspace=workspace,
    )
    # Only now, because the other tasks would take longer to record what they do than to do it.
    for variable, value in running_stores.environment().items():
        monkeypatch.setenv(variable, value)
    version = register(
        config.model_dump_json(), trained=trained.location, evaluation=evaluated.location
    )
    uri = running_stores.tracking_uri
    promote(*parse_uri(version), tracking_uri=uri, by="a test", override_reason="a test")

    champion = f"models:/path-{name}@champion"
    run, _ = registered_run(champion)
    (location,) = generate(
        run,
        ["a cat on a red mat"],
        adapter=champion,
        images_per_prompt=1,
        seed=3,
        output=str(tmp_path / "images"),
    )

    policy = load_policy(config.policy, torch.device("cpu"), fetch_adapter(champion))
    expected = sample_images(
        policy, ["a cat on a red mat"], [3], num_inference_steps=3, guidance_scale=GUIDED[name]
    )
    torch.testing.assert_close(decode_image(read_bytes(location)), expected[0])
