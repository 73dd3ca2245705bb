"""Three hundred wrong inputs: each is refused with its name and the repair, never a traceback."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from advgrpo.cli.main import main

ENDPOINT = "http://127.0.0.1:9"


class Bad(NamedTuple):
    """A command line, and what its refusal must name."""

    command: list[str]
    named: str
    code: int = 2


def setting(key: str, *values: str) -> Iterator[Bad]:
    """Values that a setting does not take."""
    for value in values:
        yield Bad(["config", "validate", "--set", f"{key}={value}"], key)


def unknown(*keys: str) -> Iterator[Bad]:
    for key in keys:
        yield Bad(["config", "validate", "--set", f"{key}=1"], key)


WORDS = ("no", "[]", "{}", "null")
NO_COUNT = ("0", "-1", "1.5", "many", "[]", "null")
NO_FRACTION = ("-0.1", "1.1", "some", "[]", "null")
NO_POSITIVE = ("0", "-1", "some", "null")
NO_LOCATION = ("''", "https://host/x", "gs://b/x", "s3://", "s3://me:secret@b/x", "5", "[]", "null")

SETTINGS = [
    *setting("seed", "-1", "1.5", "x", "null", "[]"),
    *setting("training.updates", *NO_COUNT),
    *setting("training.optimizer_steps_per_update", *NO_COUNT, "3"),
    *setting("training.rollout.prompts_per_update", *NO_COUNT),
    *setting("training.rollout.group_size", *NO_COUNT, "1"),
    *setting("training.rollout.microbatch_size", *NO_COUNT, "7"),
    *setting("training.sampling.num_inference_steps", *NO_COUNT, "1"),
    *setting("training.algorithm.fast_sampling.tail_steps", "0", "-1", "1.5", "x", "9"),
    *setting("training.algorithm.fast_sampling.guidance_interval", "[0, 2]", "[0.1]", "x"),
    *setting("training.algorithm.window.length", *NO_COUNT),
    *setting("training.algorithm.window.first_start", "-1", "x"),
    *setting("training.algorithm.window.type", "other", "5"),
    *setting("training.algorithm.sampler.type", "other", "5"),
    *setting("training.optimizer.learning_rate", *NO_POSITIVE),
    *setting("training.optimizer.decay", "sometimes", "5"),
    *setting("training.optimizer.betas", "0.9", "[0.9]", "[0.9, 0.9, 0.9]", "x"),
    *setting("training.optimizer.epsilon", *NO_POSITIVE),
    *setting("training.optimizer.max_grad_norm", *NO_POSITIVE),
    *setting("training.algorithm.clip_range", *NO_POSITIVE),
    *setting("training.advantage_normalization", "other", "1"),
    *setting("training.algorithm.kl_weight", "-1", "x", "null"),
    *setting("training.reward.terms", "[]", "5", "[{type: other}]", "x"),
    *setting("training.update_schedule.type", "other", "1"),
    *setting("training.checkpoint_every_updates", *NO_COUNT),
    *setting("training.checkpoints_kept", *NO_COUNT),
    *setting("training.zero_stage", "4", "-1", "x"),
    *setting("training.algorithm.ratio_tolerance", "0", "-1", "some"),
    *setting("training.monitoring.held_out_every_updates", "-1", "x", "null"),
    *setting("training.monitoring.select_adapter", "none", "1"),
    *setting("training.monitoring.watch.action", "panic", "1"),
    *setting("discriminator.type", "other", "1"),
    *setting("discriminator.held_out_fraction", *NO_FRACTION),
    *setting("discriminator.optimizer.batch_size", *NO_COUNT),
    *setting("discriminator.optimizer.replay_fraction", *NO_FRACTION),
    *setting("discriminator.optimizer.learning_rate", *NO_POSITIVE),
    *setting("discriminator.pretraining.images", *NO_COUNT),
    *setting("discriminator.weights.location", *NO_LOCATION),
    *setting("policy.type", "other", "1"),
    *setting("policy.weights.location", *NO_LOCATION),
    *setting("policy.adapter.rank", *NO_COUNT),
    *setting("policy.adapter.alpha", *NO_POSITIVE),
    *setting("policy.adapter.ema_decay", "-0.1", "1.1", "x"),
    *setting("policy.resolution_pixels", *NO_COUNT, "64"),
    *setting("policy.forward_dtype", "float8", "1"),
    *setting("prompts.train", *NO_LOCATION),
    *setting("prompts.train_sha256", "abc", "5", "[]"),
    *setting("reference_images.images_per_prompt", *NO_COUNT),
    *setting("reference_images.source.type", "other", "1"),
    *setting("reference_images.batch_size", *NO_COUNT),
    *setting("evaluation.images_per_prompt", *NO_COUNT),
    *setting("evaluation.alignment", "nothing.here", "5", "[]"),
    *setting("evaluation.confidence", "0", "1", "x"),
    *setting("evaluation.bootstrap_samples", *NO_COUNT),
    *setting("promotion.registered_model", "''", "5", "[]"),
    *setting("promotion.gates", "5", "[{measure: nothing}]", "x"),
    *unknown("training.updats", "sead", "polcy", "training.optimizer.lr", "evaluation.x"),
    *(
        Bad(["config", "validate", "--set", text], text)
        for text in ("training.updates", "=5", "a..b=1", ".=1")
    ),
    *(Bad(["config", "validate", "--set", text], "seed=") for text in ("seed.x=1", "seed.x.y=1")),
    *(
        Bad(["config", "validate", "--set", f"seed={text}"], "seed")
        for text in ("[1", "{a: ", "2020-99-99", "&a [*a]", "*b", "'x", "9" * 5000, "[" * 3000)
    ),
    Bad(["config", "validate", "--set", "evaluation.scorers.7={}"], "evaluation.scorers.7"),
    Bad(["config", "validate", "--set", "evaluation.scorers.x={}"], "evaluation.scorers.x"),
]

FILES: dict[str, bytes] = {
    "empty.yaml": b"",
    "list.yaml": b"- a\n",
    "text.yaml": b"hello\n",
    "broken.yaml": b"a: [1\n",
    "tabs.yaml": b"a:\n\t- b\n",
    "date.yaml": b"seed: 2020-99-99\n",
    "tag.yaml": b"seed: !!python/object/apply:os.system [ls]\n",
    "latin.yaml": b"# caf\xe9\nseed: 1\n",
    "deep.yaml": b"seed: " + b"[" * 5000,
    "laughs.yaml": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (i, i, b",".join([b"*%c" % (i - 1)] * 10)) for i in b"bcdefgh"),
    "huge.yaml": b"# " + b"x" * 2**20 + b"\nseed: 1\n",
    "partial.yaml": b"seed: 1\n",
    "keys.yaml": b"1: 2\nnull: 3\n",
    "nul.yaml": b"seed: \0\n",
}
PRESETS = [
    *(Bad(["config", "validate", "--preset", name], name) for name in FILES),
    *(
        Bad(["config", "validate", "--preset", name], name)
        for name in ("nothing", "missing.yaml", "folder.yaml", "pocket.yml", "Pocket", "../pocket")
    ),
    *(
        Bad(["config", "validate", "--preset", name], "")
        for name in ("sd35m_dino", "sd35l_dino", "sd35m_pickscore", "sd35m_dino_released")
    ),
    *(
        Bad(["config", "validate", "--processes", number], f"{number} training processes")
        for number in ("3", "5", "7", "100")
    ),
]

TABLES: dict[str, bytes] = {
    "empty.csv": b"",
    "no-column.csv": b"Text\na cat\n",
    "no-prompt.csv": b'Prompt\n""\n',
    "short-row.tsv": b"x\tPrompt\na\n",
    "repeats.csv": b"Prompt\na cat\na cat\n",
    "latin.csv": b"Prompt\ncaf\xe9\n",
    "table.xlsx": b"PK\x03\x04",
    "wide.csv": b"Prompt\n" + b"x" * 200_000 + b"\n",
}
PROMPTS: dict[str, bytes] = {
    "none.txt": b"",
    "blank.txt": b"\n\n \n",
    "gap.txt": b"a cat\n\na dog\n",
    "twice.txt": b"a cat\na cat\n",
    "control.txt": b"a\x07cat\n",
    "utf16.txt": "a cat\n".encode("utf-16"),
    "latin.txt": b"caf\xe9\n",
    "binary.txt": bytes(range(256)),
}
IMAGES_OF_A_SET: dict[str, bytes] = {
    "not-json": b"{",
    "a-list": b"[]",
    "a-number": b"5",
    "twice": b'{"a": "x.png", "a": "y.png"}',
    "a-number-for-a-file": b'{"a": 5}',
    "numbers-for-files": b'{"a": [5]}',
    "up": b'{"a": "../x.png"}',
    "inner-up": b'{"a": "s/../../x.png"}',
    "absolute": b'{"a": "/etc/passwd"}',
    "nul": b'{"a": "x\\u0000.png"}',
    "surrogate": b'{"a": "\\ud800.png"}',
    "no-name": b'{"a": ""}',
    "dot": b'{"a": "."}',
    "deep": b"[" * 50_000,
    "latin": b'{"caf\xe9": "x.png"}',
    "missing-file": b'{"a": "none.png"}',
    "empty": b"{}",
}
REST = [
    *(Bad(["prompts", "import", name, "--output", "o.txt"], name, 3) for name in TABLES),
    *(Bad(["prompts", "check", name], name, 3) for name in PROMPTS),
    *(Bad(["reference-images", "validate", f"sets/{n}"], f"sets/{n}", 3) for n in IMAGES_OF_A_SET),
    Bad(["prompts", "import", "none.csv", "--output", "o.txt"], "none.csv", 5),
    Bad(["prompts", "import", "hub://a/b.csv", "--output", "o.txt"], "hub://a/b.csv"),
    Bad(["pipeline", "run", "--pipeline", "none.yaml"], "none.yaml"),
    Bad(["pipeline", "run", "--set", "training.updats=1"], "training.updats"),
    Bad(["pipeline", "upload"], "KF_PIPELINES_ENDPOINT"),
    Bad(["pipeline", "upload", "--endpoint", "http://me:pw@h"], "--endpoint"),
    Bad(["pipeline", "upload", "--endpoint", ENDPOINT], ENDPOINT, 152),
    Bad(["pipeline", "upload", "--endpoint", ENDPOINT, "--ca", "none.pem"], "none.pem"),
    Bad(["pipeline", "upload", "--endpoint", ENDPOINT, "--token-file", "none"], "none"),
    Bad(["pipeline", "upload", "--pipeline", "none.yaml"], "none.yaml"),
    Bad(["registry", "list"], "MLFLOW_TRACKING_URI"),
    Bad(["registry", "promote", "x", "--override"], "--reason"),
    Bad(["registry", "promote", "x", "--reason", "y"], "--override"),
    Bad(["tracking", "send"], "MLFLOW_TRACKING_URI"),
    Bad(["demo-ui", "--folder", "nowhere"], "nowhere"),
    Bad(["submit", "--workspace", "s3://b/x", "--every", "now"], "now"),
    Bad(["submit", "--workspace", "s3://b/x", "--every", "0h"], "0h"),
    Bad(["submit", "--workspace", "s3://b/x", "--every", "1h", "--watch"], "--watch"),
    Bad(["submit", "--workspace", "relative"], "relative"),
    Bad(["submit", "--workspace", "s3://b/x", "--processes", "3"], "3 training processes"),
    Bad(["plan", "--preset", "nothing"], "nothing"),
    *(
        Bad(
            ["train", "--reference-images", place, "--discriminator", place, "--workspace", "w"],
            place, code,
        )
        for place, code in (("nowhere", 5), ("package://no.such/x", 5), ("http://h/x", 2))
    ),
]  # fmt: skip

ALL = [*SETTINGS, *PRESETS, *REST]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bad")
    for name, content in (FILES | TABLES | PROMPTS).items():
        (made / name).write_bytes(content)
    (made / "folder.yaml").mkdir()
    for name, content in IMAGES_OF_A_SET.items():
        (made / "sets" / name).mkdir(parents=True)
        (made / "sets" / name / "manifest.json").write_bytes(content)
    return made


def refusal(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["advgrpo", *command])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code, capsys.readouterr().err


def test_there_are_three_hundred() -> None:
    assert len({tuple(bad.command) for bad in ALL}) >= 300


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: " ".join(bad.command)[:80])
def test_a_wrong_input_is_refused_with_a_repair(
    bad: Bad, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code, output = refusal(bad.command, monkeypatch, capsys)
    assert "Traceback" not in output
    assert code == bad.code, output
    assert bad.named in output
    assert "\n  repair: " in output
    assert len(output) < 20_000
