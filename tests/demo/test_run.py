import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from advgrpo.demo.serve import SERVERS_FOLDER, VARIABLES_FILE
from advgrpo.demo.summary import Summary
from advgrpo.testing import write_tiny_models

UPDATES = 6
ENDS_WITHIN_SECONDS = 900


def _command(folder: Path, models: Path) -> list[str]:
    tiny = write_tiny_models(models)
    scorer = f"{{type: pickscore, weights: {{location: {tiny.pickscore}}}}}"
    overrides = [
        *tiny.overrides(),
        f"evaluation.scorers=[{scorer}]",
        "evaluation.alignment=pickscore.score",
        # What rewards may be no alignment.
        "training.reward={terms: [{type: discriminator}]}",
        "evaluation.prompts=6",
        "evaluation.grid_prompts=2",
        "evaluation.bootstrap_samples=20",
        "reference_images.images_per_prompt=1",
        "reference_images.test_images_per_prompt=1",
        "discriminator.pretraining.images=32",
        "discriminator.pretraining.held_out_images=16",
        "discriminator.pretraining.steps=4",
        "discriminator.optimizer.batch_size=16",
        f"training.updates={UPDATES}",
        "training.checkpoint_every_updates=2",
        "training.update_schedule.discriminator_steps=1",
        "training.sampling.num_inference_steps=7",
        "training.rollout.prompts_per_update=2",
        "training.rollout.group_size=4",
        "training.rollout.microbatch_size=4",
        "training.rollout.references_per_prompt=2",
        "training.rollout.replayed_rollouts=3",
        "training.rollout.update_microbatch_size=6",
        "training.monitoring.held_out_prompts=8",
    ]
    settings = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "advgrpo.cli.main", "demo", "--folder", str(folder), *settings]


def _start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    )


def _wait_for_updates(demo: "subprocess.Popen[str]", progress_file: Path, updates: int) -> None:
    end = time.monotonic() + ENDS_WITHIN_SECONDS
    while time.monotonic() < end and demo.poll() is None:
        if progress_file.exists():
            events = [json.loads(line) for line in progress_file.read_text().splitlines()]
            if any(e.get("unit") == "updates" and e["done"] >= updates for e in events):
                return
        time.sleep(0.2)
    raise AssertionError("training did not begin")


@pytest.mark.slow
@pytest.mark.timeout(2 * ENDS_WITHIN_SECONDS)
@pytest.mark.usefixtures("warm_python")
def test_an_interrupted_demo_resumes_and_finishes(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    command = _command(folder, tmp_path / "models")
    with _start(command) as first:
        _wait_for_updates(first, folder / "state" / "progress.jsonl", 1)
        variables = folder / SERVERS_FOLDER / VARIABLES_FILE
        assert "MLFLOW_TRACKING_URI" in variables.read_text()
        first.send_signal(signal.SIGINT)
        output, _ = first.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert first.returncode == 143, output
    assert "run it again to resume" in output
    assert not variables.exists(), "it would name stopped servers"
    key = json.loads((folder / "state" / "run.json").read_text())["key"]

    with _start(command) as second:
        output, _ = second.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert second.returncode == 0, output + (folder / "logs" / "pipeline.log").read_text()[-5000:]
    assert "Resuming the interrupted run" in output
    assert "resuming from update" in (folder / "logs" / "pipeline.log").read_text()
    run = json.loads((folder / "state" / "run.json").read_text())
    assert run["key"] == key
    assert run["finished"]

    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary) == list(Summary.__annotations__)
    assert summary["policy_updates"] == UPDATES
    assert summary["images_sampled"] == UPDATES * 8
    assert summary["peak_memory_mib"] > 100
    assert summary["model_version"] == "models:/advgrpo-pocket/1"
    assert {"adversarial_training", "evaluation", "registration"} <= set(
        summary["seconds_by_phase"]
    )
    assert "<html" in Path(summary["report"]).read_text()
    assert (Path(summary["adapter"]) / "pytorch_lora_weights.safetensors").is_file()
