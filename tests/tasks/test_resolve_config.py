import subprocess
import sys
from pathlib import Path

import pytest

from advgrpo.config import RunConfig, resolve
from advgrpo.config.tasks import TrainingSettings, parse_json
from advgrpo.errors import ConfigError, PromptFileError
from advgrpo.stores import EmbeddedStores
from advgrpo.tasks.resolve_config import resolve_config


def test_each_task_gets_its_share() -> None:
    run = resolve_config("pocket", ["training.updates=7"], processes=1, run_key="")
    assert parse_json(TrainingSettings, run.training, where="x").training.updates == 7
    assert parse_json(RunConfig, run.run, where="x") == resolve("pocket", ["training.updates=7"])
    assert run.parent_run_id == ""


def test_processes_that_cannot_share_an_update_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 training processes"):
        resolve_config("pocket", [], processes=3, run_key="")


@pytest.mark.parametrize(
    ("prompts", "override", "named"),
    [
        (6, "training.rollout.prompts_per_update=8", "prompts_per_update=8"),
        (20, "discriminator.held_out_fraction=0.0001", "held_out_fraction"),
    ],
)
def test_too_few_prompts_are_refused_before_anything_is_drawn(
    tmp_path: Path, prompts: int, override: str, named: str
) -> None:
    file = tmp_path / "train.txt"
    file.write_text("\n".join(f"prompt {k}" for k in range(prompts)), encoding="utf-8")
    with pytest.raises(ConfigError, match=named):
        resolve_config("pocket", [f"prompts.train={file}", override], processes=1, run_key="")


def test_an_unusable_prompt_file_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("twice\ntwice\n", encoding="utf-8")
    with pytest.raises(PromptFileError, match="twice"):
        resolve_config("pocket", [f"prompts.train={file}"], processes=1, run_key="")


def test_a_key_takes_the_same_mlflow_run_up_again(stores: EmbeddedStores) -> None:  # noqa: ARG001
    first = resolve_config("pocket", [], processes=1, run_key="resolve-test")
    again = resolve_config("pocket", [], processes=1, run_key="resolve-test")
    other = resolve_config("pocket", [], processes=1, run_key="")
    assert first.parent_run_id == again.parent_run_id != other.parent_run_id


def test_it_loads_no_torch() -> None:
    code = "import sys, advgrpo.tasks.resolve_config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
