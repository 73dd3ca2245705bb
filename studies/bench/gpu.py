"""The benchmark of a bare GPU machine: `python3 -m studies.bench.gpu`, in one call.

It needs no internet and no weights. For a machine without this package's requirements,
`make bench-wheels` collects them in `.whl/`; copy the checkout with them there, and run
`studies/bench/bare.sh`. Its parts are independent: one that fails is reported, and the
others still run. Without a GPU, `--size tiny` runs the same code.
"""

import argparse
import gc
import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_BUILD_OPS", "0")
os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")

import torch  # after the variables, which DeepSpeed reads as it loads
from torch import Tensor

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.config import RunConfig, resolve
from advgrpo.config.policy import Sd3PolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.pipeline_parts import DTYPES
from advgrpo.models.policies.sd3 import Sd3Policy
from advgrpo.planning.memory import gpu_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import total
from advgrpo.training.loop import train_on_rollout
from studies.bench.__main__ import summary
from studies.bench.measure import CountingCounters, PartTimes, matmul_rate, peak_memory
from studies.bench.run import benchmark
from studies.bench.shapes import draw_pipeline, loading_drawn
from studies.bench.world import SIZES, Size, make_world

SECONDS = 400
"""No further case starts after this time."""

CASES: dict[str, dict[str, Any]] = {
    "adapter float32": {},
    "adapter bf16": {"half": True},
    "adapter bf16, two passes": {"half": True, "guidance": "two_passes"},
    "adapter bf16, checkpointing": {"half": True, "gradient_checkpointing": True},
    "adapter bf16, compiled": {"half": True, "compile": True},
    "adapter float32, compiled": {"compile": True},
}
"""One change after the other; by default eager, one batch, without checkpointing."""

IMAGES = "training.rollout.microbatch_size=6"


def main() -> None:
    """Run all parts, print their tables, and write their numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("sd35_medium", "tiny"), default="sd35_medium")
    parser.add_argument("--output", type=Path, default=Path("bench-gpu.json"))
    arguments = parser.parse_args()
    start, size = time.monotonic(), SIZES[arguments.size]
    if size.needs_gpu and not torch.cuda.is_available():
        parser.error(f"--size {arguments.size} needs a GPU; --size tiny runs the same code")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logging.disable(logging.WARNING)
    numbers: dict[str, Any] = {"size": size.words, "torch": torch.__version__}
    if device.type == "cuda":
        numbers["device"] = torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("ADVGRPO_CACHE", scratch)
        folder = Path(scratch)
        parts: dict[str, Callable[[], Any]] = {
            "passes": lambda: time_passes(size, device, until=start + SECONDS / 2),
            "updates": lambda: _updates(arguments.size, folder / "bench"),
            **{
                f"resume, {engine}": partial(resume, size, folder / engine, engine)
                for engine in ("ddp", "deepspeed")
            },
        }
        for name, part in parts.items():
            began = time.monotonic()
            numbers[name] = _attempt(part) if began - start < SECONDS else "skipped: no time left"
            _show(f"\n{name} ({time.monotonic() - began:.0f} s)\n{_text(numbers[name])}")
            # Written after each part: a machine may be taken away.
            arguments.output.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    _show(f"\n{time.monotonic() - start:.0f} seconds in all; numbers in {arguments.output}")


def _attempt(part: Callable[[], Any]) -> Any:  # noqa: ANN401 - what JSON holds
    try:
        return part()
    except Exception:  # noqa: BLE001 - the other parts must run, whatever this one meets
        return f"failed:\n{traceback.format_exc()}"


def _show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _text(numbers: Any) -> str:  # noqa: ANN401
    if isinstance(numbers, dict) and "table" in numbers:
        return str(numbers["table"])
    return numbers if isinstance(numbers, str) else json.dumps(numbers, indent=1)


def time_passes(size: Size, device: torch.device, *, until: float) -> dict[str, Any]:
    """Time a guided prediction, without and with its backward pass, in each of `CASES`.

    Args:
        size: Shapes and settings.
        device: Device of the models.
        until: No case starts after this reading of the monotonic clock.

    Returns:
        By case: images/s and share of the matmul rate of both, GPU memory beside the plan's
        estimate, and seconds of the first call, which compiles.
    """
    assert size.shapes is not None
    overrides = [IMAGES, *size.overrides, "policy.weights={location: drawn}"]
    run = resolve(size.preset, overrides, needed=())
    dtype, images = DTYPES[run.policy.forward_dtype], run.training.rollout.microbatch
    pipeline = draw_pipeline(size.shapes, device)
    prompt = _encode(pipeline, run.policy.max_sequence_length)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        getattr(pipeline, name).to("meta")
    rate = matmul_rate(device, dtype)
    # Of the passes without checkpointing, whose recomputation is not counted as work.
    operations: dict[str, int] = {}
    found: dict[str, Any] = {}
    lines = [f"matrix products at {rate / 1e12:.3g} Tflop/s; {images} images"]
    for name, case in CASES.items():
        if time.monotonic() > until:
            found[name] = "skipped: no time left"
            continue
        changes = {
            key: case.get(key, default)
            for key, default in (("guidance", "one_batch"), ("gradient_checkpointing", False))
        } | {"adapter_dtype": "float32"}  # the cases cast its weights themselves
        config = run.policy.model_copy(update=changes)
        assert isinstance(config, Sd3PolicyConfig)
        with loading_drawn(pipeline):
            policy = Sd3Policy(config, device)
        _prepare(policy, case, prompt)
        predict = partial(_predict, policy, prompt, images)
        if not operations:
            operations = _count(predict, device)
        seconds, peak = _time(predict, device)
        planned = run_of(size, changes)
        found[name] = {
            "first_seconds": seconds["first"],
            "peak_mib": peak,
            "plan_of_training_mib": total(gpu_memory(planned, models_of(planned), 1)) / 2**20,
            **{f"{part}_images_per_second": images / seconds[part] for part in operations},
            **{
                f"{part}_share_of_matmul_rate": count / seconds[part] / rate
                for part, count in operations.items()
            },
        }
        lines += [name, *(f"    {key:32}{value:12.4g}" for key, value in found[name].items())]
        # The next case puts an adapter of its own on the same weights.
        pipeline.transformer.delete_adapters("default")
        pipeline.transformer.disable_gradient_checkpointing()
        policy.compile(None)
        torch.compiler.reset()
    return {"matmul_rate": rate, **found, "table": "\n".join(lines)}


def run_of(size: Size, changes: Mapping[str, Any] = {}) -> RunConfig:
    """Return the settings of a size with the published weights, which the plan knows."""
    overrides = [f"policy.{key}={str(value).lower()}" for key, value in changes.items()]
    return resolve(size.preset, [IMAGES, *size.overrides, *overrides], needed=())


def _encode(pipeline: Any, tokens: int) -> PromptEmbeddings:  # noqa: ANN401 - of diffusers
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(
            prompt="a cat", prompt_2="a cat", prompt_3="a cat", max_sequence_length=tokens,
            do_classifier_free_guidance=False, device=pipeline.transformer.device,
        )  # fmt: skip
    return PromptEmbeddings(({"context": context[0], "pooled": pooled[0]},))


def _prepare(policy: Sd3Policy, case: Mapping[str, Any], prompt: PromptEmbeddings) -> None:
    if case.get("half"):
        for parameter in policy.trainable_parameters().values():
            parameter.data = parameter.data.to(policy.dtype)
    if case.get("compile"):
        policy.compile("inductor" if policy.device.type == "cuda" else "eager")
    # The text encoders are gone by now.
    policy.__dict__["_unconditional"] = prompt.to(policy.device, policy.dtype)


def _predict(policy: Sd3Policy, prompt: PromptEmbeddings, images: int) -> Tensor:
    latents = gaussian_noise(list(range(images)), policy.latent_shape).to(policy.device)
    prompts = prompt.to(policy.device, policy.dtype)[[0] * images]
    return policy.velocity(latents, 0.5, prompts, guidance_scale=4.5)


def _count(predict: Callable[[], Tensor], device: torch.device) -> dict[str, int]:
    counting = CountingCounters(device)
    with torch.no_grad(), counting.timed("rollout"):
        predict()
    with counting.timed("update"):
        predict().square().mean().backward()
    return counting.operations


def _time(predict: Callable[[], Tensor], device: torch.device) -> tuple[dict[str, float], float]:
    """Return the seconds of the first pass, and medians of later ones; and the peak memory."""
    times, peaks = PartTimes(device), dict[str, float]()
    with torch.no_grad():
        for part in ("first", "rollout", "rollout", "rollout"):
            with times.timed(part):
                predict()
    for part in ("warm-up", "update", "update", "update"):
        with times.timed(part), peak_memory(device, peaks, "update"):
            predict().square().mean().backward()
    seconds = {part: times.median(part) for part in ("first", "rollout", "update")}
    return seconds, peaks.get("update", 0.0)


def _updates(size: str, folder: Path) -> dict[str, Any]:
    """Time whole updates beside the comparison loop."""
    result = benchmark(size, folder, rounds=1, overrides=("training.engine=ddp",))
    return {**result.as_json(), "table": summary(result)}


def resume(size: Size, folder: Path, engine: str) -> dict[str, Any]:
    """Train two updates, and the second once more from a checkpoint.

    Returns:
        The ratio's error before the first step, and the largest difference of a resumed weight,
        which is 0 where kernels are deterministic.
    """
    if engine == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        return {"skipped": "deepspeed is not installed"}
    settings = (
        f"training.engine={engine}",
        "training.rollout={prompts_per_update: 4, group_size: 4, microbatch_size: 4}",
        "training.sampling.num_inference_steps=4",
    )
    world = make_world(size, folder, *settings)
    metrics = train_on_rollout(world.state)
    world.state.save()
    train_on_rollout(world.state)
    straight = world.state.engine.state()
    del world
    gc.collect()
    again = make_world(size, folder, *settings)
    assert again.state.resume()
    train_on_rollout(again.state)
    resumed = again.state.engine.state()
    apart = max(float((straight[name] - value).abs().max()) for name, value in resumed.items())
    error = metrics["policy/ratio_error_before_step"]
    return {"ratio_error_before_step": error, "largest_difference_after_resume": apart}


if __name__ == "__main__":
    main()
