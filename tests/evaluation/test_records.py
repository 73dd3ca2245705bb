from pathlib import Path

import pytest

from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.errors import EvaluationError
from advgrpo.evaluation.evaluate import evaluate
from advgrpo.evaluation.records import read_evaluated_prompts, read_report
from advgrpo.evaluation.saving import read_evaluation, write_evaluation
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.records import PromptSet, ReferenceImageSet
from tests.evaluation.world import ColourJudge, ColourPolicy


def test_what_registration_reads_is_what_was_written(
    policy: ColourPolicy,
    prompts: PromptSet,
    reference_images: ReferenceImageSet,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    backbone: DinoBackbone,
    tmp_path: Path,
) -> None:
    evaluation = evaluate(
        policy,
        prompts,
        reference_images,
        config=config,
        sampling=sampling,
        scorers=(ColourJudge(),),
        backbone=backbone,
    )
    write_evaluation(tmp_path, evaluation)
    assert read_report(tmp_path) == evaluation.report
    shown = {example.prompt: example for example in read_evaluation(tmp_path).examples}
    found = read_evaluated_prompts(tmp_path)
    assert [one.prompt for one in found] == list(shown)
    for one in found:
        assert one.alignment == shown[one.prompt].trained_alignment
        assert len(one.images) == len(shown[one.prompt].trained)
        assert all((tmp_path / name).is_file() for name in one.images)


@pytest.mark.parametrize("content", ["", "[]", '{"report": {}, "examples": [{"prompt": "x"}]}'])
def test_a_damaged_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    for read in (read_report, read_evaluated_prompts):
        with pytest.raises(EvaluationError, match="is no evaluation"):
            read(tmp_path)
    with pytest.raises(EvaluationError, match="is no evaluation"):
        read_report(tmp_path / "absent")
