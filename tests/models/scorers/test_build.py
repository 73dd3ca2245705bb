import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from advgrpo.config import resolve
from advgrpo.config.scorers.pocket_judge import PocketJudgeConfig
from advgrpo.data.images import encode_png
from advgrpo.errors import DataError, WeightsError
from advgrpo.models.scorers.base import BuildContext, Scorer, score_images, why_missing
from advgrpo.models.scorers.build import build_scorers
from advgrpo.models.scorers.pocket_judge import build as build_pocket_judge
from advgrpo.pocket.judge import CLASS_COUNTS, JudgeConfig, PocketJudge, Verdict
from advgrpo.records import ReferenceImageSet
from advgrpo.testing import SIDE_PIXELS, TinyModels, write_tiny_models

CPU = torch.device("cpu")
PROMPTS = [
    "a small red circle on a white background left",
    "a large blue ring on a tan background top",
]
JUDGE = (
    "import json, sys\n"
    "for line in sys.stdin:\n"
    "    image = json.loads(line)['image']\n"
    "    print(json.dumps({'image': image, 'verdicts': {'correct': True}}), flush=True)"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def reference_images(tmp_path: Path) -> ReferenceImageSet:
    (tmp_path / "a.png").write_bytes(encode_png(torch.rand(3, SIDE_PIXELS, SIDE_PIXELS)))
    return ReferenceImageSet(
        root=str(tmp_path),
        files={PROMPTS[0]: ("a.png",)},
        resolution_pixels=SIDE_PIXELS,
        digest="0" * 64,
    )


def built(scorers: str, reference_images: ReferenceImageSet) -> list[Scorer]:
    config = resolve("pocket", [f"evaluation.scorers=[{{type: pocket_judge}}, {scorers}]"])
    return build_scorers(config.evaluation.scorers, CPU, reference_images)


def aesthetic_head(folder: Path, width: int) -> Path:
    folder.mkdir()
    widths, layers = (width, 8, 8, 4, 4, 1), (0, 2, 4, 6, 7)
    tensors = {}
    for layer, inputs, outputs in zip(layers, widths, widths[1:], strict=False):
        tensors[f"layers.{layer}.weight"] = torch.randn(outputs, inputs)
        tensors[f"layers.{layer}.bias"] = torch.zeros(outputs)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("place", ["cpu", "gpu"])
def test_every_scorer_is_built_and_returns_the_metrics_of_its_settings(
    tiny: TinyModels,
    reference_images: ReferenceImageSet,
    tmp_path: Path,
    place: str,
    request: pytest.FixtureRequest,
) -> None:
    device = request.getfixturevalue("gpu") if place == "gpu" else CPU
    clip = f"{{location: {tiny.pickscore}}}"
    head = aesthetic_head(tmp_path / "head", 40)
    settings = (
        f"{{type: pickscore, weights: {clip}}}, {{type: clip_score, weights: {clip}}}, "
        f"{{type: hps, weights: {clip}}}, {{type: ocr}}, "
        f"{{type: aesthetic, clip: {clip}, predictor: {{location: {head}}}}}, "
        f"{{type: reference_similarity, weights: {{location: {tiny.dino}}}, "
        f"resolution_pixels: {SIDE_PIXELS}}}, "
        f'{{type: external_judge, command: [{sys.executable}, "-c", {JUDGE!r}]}}'
    )
    configs = resolve(
        "pocket", [f"evaluation.scorers=[{{type: pocket_judge}}, {settings}]"]
    ).evaluation.scorers
    images = torch.rand(2, 3, SIDE_PIXELS, SIDE_PIXELS, generator=torch.Generator().manual_seed(0))

    scorers = build_scorers(configs, device, reference_images)

    assert len(scorers) == 8
    for config, scorer in zip(configs, scorers, strict=True):
        values = score_images(scorer, images.to(device), PROMPTS)
        assert tuple(values) == config.metric_names
        for value in values.values():
            expected = [bool(why_missing(scorer, prompt)) for prompt in PROMPTS]
            assert value.isnan().tolist() == expected
    assert [s.name for s in scorers if why_missing(s, PROMPTS[1])] == [
        "ocr", "reference_similarity"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scorer",
    [
        "{type: hps, weights: {location: FOLDER/absent}}",
        "{type: clip_score, weights: {location: FOLDER}}",
        "{type: reference_similarity, weights: {location: FOLDER}}",
        "{type: aesthetic, clip: {location: FOLDER}, predictor: {location: FOLDER}}",
    ],
)
def test_a_scorer_without_weights_is_named_by_its_setting(
    scorer: str, reference_images: ReferenceImageSet, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"evaluation\.scorers\.1 \(\w+\)") as refusal:
        built(scorer.replace("FOLDER", str(tmp_path)), reference_images)

    assert refusal.value.repair


def test_the_judge_gets_its_metadata_file(
    reference_images: ReferenceImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(f'{{"prompt": "{PROMPTS[0]}", "tag": "colour"}}\n', encoding="utf-8")
    judge = f"{{type: external_judge, command: [judge], metadata: {file}}}"

    scorer = built(judge, reference_images)[1]

    assert why_missing(scorer, PROMPTS[0]) == ""
    assert "metadata" in why_missing(scorer, PROMPTS[1])


def test_a_damaged_metadata_file_is_named(
    reference_images: ReferenceImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text("nothing", encoding="utf-8")

    with pytest.raises(DataError, match=rf"line 1 of {file}"):
        built(f"{{type: external_judge, command: [judge], metadata: {file}}}", reference_images)


class JudgeOnAnyDevice(PocketJudge):
    """Gives a verdict on pictures that are where its weights are."""

    def forward(self, images: torch.Tensor) -> Verdict:
        assert images.device == self.head.weight.device
        return Verdict(torch.zeros(len(images), sum(CLASS_COUNTS)), torch.zeros(len(images)))


def test_the_pocket_judge_works_on_the_device_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PocketJudge, "load", lambda _folder: JudgeOnAnyDevice(JudgeConfig()))
    # A device that no test machine lacks, and whose tensors cannot be combined with the CPU's.
    device = torch.device("meta")
    scorer = build_pocket_judge(PocketJudgeConfig(), BuildContext(device, None))
    images = torch.rand(2, 3, SIDE_PIXELS, SIDE_PIXELS)
    for pictures in (images, images.to(device)):
        assert scorer.score(pictures, PROMPTS)["all_attributes"].device == CPU
        assert scorer.style(pictures).device == CPU
