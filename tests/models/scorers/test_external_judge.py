import json
import sys
import time
from pathlib import Path

import pytest
import torch

from advgrpo.errors import ConfigError, DataError, EvaluationError
from advgrpo.models.scorers.external_judge import ExternalJudge, parse_metadata

JUDGE = """
import json, os, sys
from PIL import Image
for line in sys.stdin:
    request = json.loads(line)
    red = Image.open(request["image"]).getpixel((0, 0))[0] / 255
    verdicts = {"correct": red > request["metadata"].get("least", 0.5), "red": red}
    answer = {"image": request["image"], "verdicts": verdicts, "pid": os.getpid()}
    print(json.dumps(answer), flush=True)
"""


def red(*values: float) -> torch.Tensor:
    images = torch.zeros(len(values), 3, 4, 4)
    images[:, 0] = torch.tensor(values).view(-1, 1, 1)
    return images


def judge(code: str, **others: object) -> ExternalJudge:
    settings = {"verdicts": ("correct",), "metadata": None, "timeout_seconds": 20.0} | others
    return ExternalJudge([sys.executable, "-c", code], **settings)


def test_verdicts_are_those_of_the_program_in_the_order_of_the_images() -> None:
    scores = judge(JUDGE, verdicts=("correct", "red")).score(red(1.0, 0.2, 0.6), ["a"] * 3)

    assert scores["correct"].tolist() == [1, 0, 1]
    assert scores["red"].tolist() == pytest.approx([1.0, 0.2, 0.6], abs=1 / 255)


def test_the_program_gets_the_metadata_of_the_prompt() -> None:
    metadata = {"strict": {"least": 0.9}, "lax": {"least": 0.1}}

    scorer = judge(JUDGE, metadata=metadata)
    scores = scorer.score(red(0.6, 0.6), ["strict", "lax"])

    assert scores["correct"].tolist() == [0, 1]
    assert scorer.why_missing("other") == "it is not in the judge's metadata file"
    assert scorer.why_missing("lax") == ""


def test_the_program_is_started_once(tmp_path: Path) -> None:
    log = tmp_path / "starts"
    scorer = judge(f"open({str(log)!r}, 'a').write('x')" + JUDGE)

    for _ in range(3):
        scorer.score(red(1.0), ["a"])

    assert log.read_text() == "x"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("hello", "answered 'hello"),
        ("[]", "TypeError"),
        ('{"image": IMAGE, "verdicts": {}}', "KeyError"),
        ('{"image": "other.png", "verdicts": {"correct": true}}', "names another image"),
        ('{"image": IMAGE, "verdicts": {"correct": 1.5}}', r"correct is 1\.5"),
        ('{"image": IMAGE, "verdicts": {"correct": NaN}}', "correct is nan"),
        ('{"image": IMAGE, "verdicts": {"correct": null}}', "correct is None"),
        ('{"image": IMAGE, "verdicts": {"correct": "yes"}}', "correct is 'yes'"),
    ],
)
def test_an_answer_of_another_shape_is_refused_with_the_prompt(answer: str, message: str) -> None:
    code = (
        "import json, sys\nfor line in sys.stdin:\n"
        f"    print({answer!r}.replace('IMAGE', json.dumps(json.loads(line)['image'])), flush=True)"
    )

    with pytest.raises(DataError, match=message) as refusal:
        judge(code).score(red(1.0), ["a red thing"])

    assert "a red thing" in str(refusal.value)
    assert "verdicts" in refusal.value.repair


def test_a_program_that_exits_is_named_with_its_status() -> None:
    with pytest.raises(EvaluationError, match="exited with status 3"):
        judge("import sys; sys.exit(3)").score(red(1.0), ["a"])


def test_a_program_that_closes_its_output_without_exiting_is_an_error() -> None:
    began = time.monotonic()
    with pytest.raises(EvaluationError, match="before answering"):
        judge("import os, time; os.close(1); time.sleep(20)").score(red(1.0), ["a"])
    assert time.monotonic() - began < 10


def test_a_program_that_does_not_answer_times_out() -> None:
    scorer = judge("import time; time.sleep(60)", timeout_seconds=0.3)

    with pytest.raises(EvaluationError, match=r"did not answer within 0\.3 s"):
        scorer.score(red(1.0), ["a"])


def test_a_program_that_does_not_exist_is_named() -> None:
    scorer = ExternalJudge(
        ["no-such-judge"], verdicts=("correct",), metadata=None, timeout_seconds=1.0
    )

    with pytest.raises(ConfigError, match="'no-such-judge' cannot be started"):
        scorer.score(red(1.0), ["a"])


def test_metadata_of_geneval_needs_no_conversion() -> None:
    lines = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
        {"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "two cups"},
    ]

    metadata = parse_metadata("\n".join(map(json.dumps, lines)) + "\n\n", where="m.jsonl")

    assert list(metadata) == ["a bench", "two cups"]
    assert metadata["two cups"] == {"tag": "counting", "include": lines[1]["include"]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{}", r"line 1 of m\.jsonl is not a JSON object with a prompt"),
        ('{"prompt": "a"}\nnothing', r"line 2 of m\.jsonl"),
        ("[1]", "line 1"),
        (
            '{"prompt": "a", "tag": "x"}\n{"prompt": "a", "tag": "y"}',
            "an earlier line for 'a'",
        ),
    ],
)
def test_a_damaged_metadata_file_is_refused_with_its_line(lines: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_metadata(lines, where="m.jsonl")


def test_metadata_may_have_line_separators_within_a_prompt() -> None:
    line = json.dumps({"prompt": "two\u2028lines", "include": []}, ensure_ascii=False)
    assert parse_metadata(f"{line}\r\n", where="x") == {"two\u2028lines": {"include": []}}


def test_a_judge_that_failed_before_fails_with_the_same_error_again() -> None:
    failing = judge("import sys; sys.stdin.readline(); sys.exit(3)")
    for _ in range(2):
        with pytest.raises(EvaluationError, match="exited with status 3"):
            failing.score(red(1.0), ["a"])


def test_an_answer_that_is_not_utf8_is_refused_at_once() -> None:
    code = "import sys; sys.stdin.readline(); sys.stdout.buffer.write(b'\\xff\\n')"
    with pytest.raises(DataError, match="external judge answered"):
        judge(code, timeout_seconds=60.0).score(red(1.0), ["a"])
