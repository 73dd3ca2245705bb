from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from advgrpo.pocket.models import WEIGHTS_PATH
from studies.pocket.build import PARTS, PocketBuild, main


def test_a_part_is_built_saved_and_recorded(tmp_path: Path):
    PocketBuild(tmp_path, seed=0, scale=0.0).run(["text"])
    record = json.loads((tmp_path / "training.json").read_text())["text"]
    assert record["seed"] == 0
    assert record["settings"]["steps"] == 1
    assert 0.0 < record["metrics"]["t5_attribute_accuracy"] < 1.0
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path / "pipeline", dtype=torch.float32)
    assert loaded.tokenizer_max_length == 12


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--only", "teapot"])
    assert "teapot" in capsys.readouterr().err


def test_every_shipped_part_has_its_record():
    records = json.loads((WEIGHTS_PATH / "training.json").read_text())
    assert set(records) == set(PARTS)
    assert all(record["cpu_seconds"] > 0.0 for record in records.values())
