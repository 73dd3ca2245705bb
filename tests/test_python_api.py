"""The Python API: its names, its documentation, and the examples of docs/python.md."""

import inspect
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import advgrpo
from advgrpo import api
from advgrpo.tasks.metrics_stream import CopyingLogger, streamed_metrics
from advgrpo.tasks.train_worker import NullLogger

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "python.md").read_text(encoding="utf-8")
PROMPTS = Path(advgrpo.__file__).parent / "pocket" / "prompts"


def test_public_names_are_those_of_the_api_and_its_stub() -> None:
    stub = Path(advgrpo.__file__).with_name("__init__.pyi").read_text(encoding="utf-8")
    assert sorted(advgrpo.__all__) == sorted(api.__all__)
    assert sorted(advgrpo.__all__) == sorted(re.findall(r" as (\w+),", stub))
    assert all(getattr(advgrpo, name) is getattr(api, name) for name in advgrpo.__all__)


@pytest.mark.parametrize("name", advgrpo.__all__)
def test_each_public_name_is_documented(name: str) -> None:
    assert re.search(rf"`{name}\b|\b(advgrpo\.)?{name}\(", PAGE)
    assert inspect.getdoc(getattr(advgrpo, name))


def test_importing_the_package_loads_no_torch() -> None:
    program = "import advgrpo, sys; dir(advgrpo); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = advgrpo.nothing  # type: ignore[attr-defined]


def _small_settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, lines in (("train", slice(0, 640, 8)), ("test", slice(0, 320, 20))):
        texts = (PROMPTS / f"{name}.txt").read_text("utf-8").splitlines()[lines]
        (folder / f"{name}.txt").write_text("\n".join(texts), "utf-8")
        settings[f"prompts.{name}"] = str(folder / f"{name}.txt")
    return settings | {
        "training.updates": 1,
        "training.rollout": {"prompts_per_update": 4, "group_size": 4, "microbatch_size": 4},
        "training.monitoring.held_out_prompts": 8,
        "discriminator.held_out_fraction": 0.2,
        "discriminator.pretraining": {"images": 32, "held_out_images": 16, "steps": 2},
        "evaluation.prompts": 12,
        "evaluation.bootstrap_samples": 20,
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def _run_examples(blocks: list[str], folder: Path, name: str) -> dict[str, Any]:
    """Run the code of a document with smaller settings, the same for all."""
    settings = '{"training.updates": 10}'
    assert settings in blocks[0]
    blocks = [blocks[0].replace(settings, repr(_small_settings(folder))), *blocks[1:]]
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), namespace)
    return namespace


@pytest.mark.usefixtures("warm_python")
def test_the_examples_of_the_page_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    namespace = _run_examples(blocks, work, "docs/python.md")
    assert [row["update"] for row in namespace["history"]] == [0, 1]
    # The callback had seen all that the history holds.
    row = namespace["history"][1]
    seen = namespace["losses"][1]
    assert {name: seen[name] for name in row if name in seen} == {
        name: value for name, value in row.items() if name in seen
    }
    assert "reward/discriminator" in seen
    assert (work / "after.png").is_file()
    assert len(namespace["scores"]["pocket_judge.all_attributes"]) == 4
    metrics = {row["metric"] for row in namespace["tables"].metrics}
    assert {"distance.frechet", "pocket_judge.all_attributes"} <= metrics
    paths = namespace["tables"].examples[0]["images"]["trained"]
    assert all(Path(path).is_file() for path in paths)


def test_an_evaluation_needs_no_discriminator() -> None:
    config = advgrpo.load_config("pocket")
    inspect.signature(advgrpo.evaluate).bind(config, trained="adapter", reference_images="images")


# After the page, whose results in the workspace it finds.
@pytest.mark.usefixtures("warm_python")
def test_the_notebook_runs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = json.loads((DOCS / "notebooks" / "pocket.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    namespace = _run_examples(cells, work, "docs/notebooks/pocket.ipynb")
    curves, pictures = namespace["plt"].figure(1), namespace["plt"].figure(2)
    assert all(axis.lines[0].get_xdata().size for axis in curves.axes)
    assert [len(axis.images) for axis in pictures.axes] == [1, 1, 1, 1]
    namespace["plt"].close("all")


def test_metrics_reach_a_callback_in_order() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    threads = set()

    def callback(step: int, values: dict[str, float]) -> None:
        threads.add(threading.current_thread())
        seen.append((step, values))

    with streamed_metrics(callback) as file:
        assert file is not None
        logger = CopyingLogger(NullLogger(), file)
        for step in range(50):
            logger.metrics({"loss": step / 2}, step)
    assert seen == [(step, {"loss": step / 2}) for step in range(50)]
    assert threading.main_thread() not in threads


def test_an_error_of_a_callback_is_raised_once_training_has_ended() -> None:
    calls, ended = [], False

    def callback(step: int, _values: dict[str, float]) -> None:
        calls.append(step)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), streamed_metrics(callback) as file:
        assert file is not None
        logger = CopyingLogger(NullLogger(), file)
        logger.metrics({"loss": 1.0}, 1)
        logger.metrics({"loss": 1.0}, 2)
        ended = True
    assert ended
    assert calls == [1]


def test_without_a_callback_nothing_is_written() -> None:
    with streamed_metrics(None) as file:
        assert file is None


def test_scores_need_a_prompt_for_each_image_and_a_known_scorer() -> None:
    picture = Image.new("RGB", (32, 32))
    with pytest.raises(advgrpo.AdvGrpoError, match="2 images have 1 prompts"):
        advgrpo.score_images([picture] * 2, ["a"], {"type": "pocket_judge"})
    with pytest.raises(advgrpo.AdvGrpoError, match="did you mean pocket_judge"):
        advgrpo.score_images([picture], ["a"], {"type": "pocket_judg"})


def test_a_generator_needs_settings_or_a_registered_model() -> None:
    for arguments in ({}, {"model": "models:/a@b", "adapter": "a"}):
        with pytest.raises(advgrpo.AdvGrpoError, match="either settings or a registered model"):
            advgrpo.load_generator(**arguments)
