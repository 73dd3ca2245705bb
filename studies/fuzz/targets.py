"""Fuzzing targets: kinds of external input, with seeds that are valid or nearly so."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from advgrpo.config import resolve
from advgrpo.config.preset_files import preset_names
from advgrpo.records import Comparison, EvaluationReport, Interval
from advgrpo.training.nonfinite_dump import NonFiniteDump
from studies.fuzz import documents, files, webhook
from studies.fuzz.mutations import (
    Mutate,
    Plain,
    json_lines,
    json_tree,
    mutate_bytes,
    png,
    safetensors,
)
from studies.fuzz.mutations import tar as tar_sums

Take = Callable[[bytes, Path], None]
"""Parses an input in its own folder; raises an exception if the contract is broken."""


@dataclass(frozen=True)
class Target:
    """A fuzzing target."""

    take: Take
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate = mutate_bytes
    longest: int = 4096
    """Maximum size of inputs, in bytes."""


def json_bytes(value: object) -> bytes:
    """Encode a value as JSON."""
    return json.dumps(value).encode()


LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{here}: &{here} [{', '.join([f'*{before}'] * 10)}]\n".encode()
    for before, here in pairwise("abcdefghi")
)
"""A billion values, through YAML aliases."""

MANIFESTS = [json_bytes(m) for m in ({"a cat": ["a.png", "sub/b.png"]}, {"a": "x.png"}, {})]

PROVENANCE = json_bytes(
    {
        "source": {"type": "pocket"}, "seed": 1, "resolution_pixels": 32,
        "advgrpo_version": "0", "files": {"a.png": "0" * 64},
    }
)  # fmt: skip

COMMIT = json_bytes({"files": {name: {"bytes": 1, "sha256": "0" * 64} for name in ("a", "b/c")}})

YAMLS = [
    LAUGHS,
    b"seed: 1\ntraining: {updates: 2}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nseed: [*b, *b]\n",
    b"seed: 2020-01-02\n# x\npolicy: !!binary aGVsbG8=\n? [a]\n: b\n",
    b"training:\n  updates: 1_000\n  <<: {a: b}\n",
]

OVERRIDES = [
    b"training.updates=10",
    b"seed=1e-4",
    b"evaluation.scorers.0={type: image_statistics}",
    b"policy.weights={location: 'hub://owner/name', revision: null}",
    b"training.optimizer.betas=[0.9, 0.99]",
    b"promotion.gates=[&a {metric: alignment, comparison: at_least, bound: .nan}, *a]",
]

MESSAGE = json_bytes(
    {"entity": "model_version_tag", "action": "set", "data": {"name": "m", "key": "k"}}
)

CLUSTER = json_bytes(
    {"image": "i", "gpus_per_node": 8, "environment": {"A": "b"}, "tolerations": [{"key": "a"}]}
)

PROMPTS = [b"a cat\na dog\n", b"\xef\xbb\xbfx\r\ny\r\n"]

TABLES = {
    "tsv": b"Prompt\tNote\na cat\tx\n",
    "csv": b'Prompt,b\n"a ""cat""",x\n',
    "jsonl": b'{"Prompt": "a cat", "n": [1]}\n\n{"Prompt": "a dog"}\n',
}

ADAPTER = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_k"],
    "bias": "none", "use_dora": False, "rank_pattern": {},
}  # fmt: skip


def pictures() -> list[bytes]:
    """Return a small picture in each format."""
    side = files.PIXELS
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    kinds = (("PNG", "RGB"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("PNG", "P"), ("GIF", "P"))
    return [_encode(Image.fromarray(levels).convert(mode), kind) for kind, mode in kinds]


def _encode(picture: Image.Image, kind: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **more)
    return buffer.getvalue()


def _more_pictures() -> list[bytes]:
    """Return pictures in further formats, whose headers differ."""
    side = (files.PIXELS, files.PIXELS)
    frames = [Image.new("RGB", side, colour) for colour in ("red", "blue")]
    return [
        *pictures(),
        *(_encode(Image.new(mode, side), "PNG") for mode in ("L", "RGBA", "I;16", "1")),
        _encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        _encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        _encode(frames[0], "WEBP", lossless=True),
        _encode(frames[0], "JPEG", progressive=True, comment=b"x"),
    ]


def archive(contents: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar archive of files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for name, content in contents.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return packed.getvalue()


def _archives() -> list[bytes]:
    long = {f"{'x' * 120}/ü.txt": b"content", "sub/b.txt": b"x" * 600}
    forms = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
    return [archive({"a.txt": b"content"}), *(archive(long, form) for form in forms)]


def _settings() -> list[bytes]:
    drafts = [resolve(name, needed=()) for name in preset_names()]
    return [draft.model_dump_json().encode() for draft in drafts]


def _evaluations() -> list[bytes]:
    interval = Interval(0.5, 0.4, 0.6)
    comparison = Comparison("judge.score", interval, interval, interval, True, False)
    report = EvaluationReport((comparison,), 8, alignment="judge.score", distance="judge.score")
    example = {
        "prompt": "a cat", "why": "best", "base_alignment": 0.1, "trained_alignment": 0.2,
        "images": {side: [f"images/{side}.png"] for side in ("base", "trained", "reference")},
    }  # fmt: skip
    return [json_bytes({"report": asdict(report), "examples": [example]})]


def _dumps() -> list[bytes]:
    config = resolve("pocket")
    kept = NonFiniteDump(
        message="images are not finite", seed=0, rollout=1, images=((0, 0, "a cat"),),
        advantages=(1.0,), policy=config.policy, sampling=config.training.sampling,
        algorithm=config.training.algorithm,
    )  # fmt: skip
    return [kept.model_dump_json().encode()]


def _weights() -> list[bytes]:
    name = "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight"
    kinds = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool)
    made = [save({name: torch.ones(2, 3).to(kind)}) for kind in kinds]
    return [files.EMPTY_SAFETENSORS, save({name: torch.zeros(0, 4)}, {"format": "pt"}), *made]


def _models() -> list[bytes]:
    found = {
        "model_type": "clip", "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3,
        "_class_name": "StableDiffusion3Pipeline", "_name_or_path": "x",
        "transformer": ["diffusers", "SD3Transformer2DModel"], "text_encoder_3": [None, None],
        "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    return [json_bytes(found)]


def _heartbeats() -> list[bytes]:
    moment = documents.NOW.isoformat(timespec="milliseconds")
    warning = {"at": moment, "event": "log", "text": "slow"}
    rank = {
        "role": "rank", "host": "h", "pid": 1, "started": moment, "heartbeat_at": moment,
        "state": "running", "warnings": [warning],
        "progress": {
            "phase": "update 1", "done": 1, "total": 9, "unit": "updates", "seconds_each": 2.5,
            "seconds_left": 20.0, "metrics": {"reward": 0.5}, "at": moment,
        },
        "checkpoint": {
            "place": "w/checkpoints", "rollout": 3, "update": 2, "at": moment,
            "event": "checkpoint_saved",
        },
    }  # fmt: skip
    failure = {"kind": "DataError", "message": "x", "repair": "y"}
    launcher = {
        "role": "launcher",
        "started": moment,
        "heartbeat_at": moment,
        "state": "failed",
        "warnings": [],
        "failure": failure,
        "ended": moment,
        "job": "runs",
        "result": "w/r",
    }
    run = {"run": "run", "workspace": "w", "started": moment, "name": "n"}
    both = {"run.json": run, "train/rank.json": rank, "train/launcher.json": launcher}
    return [json_bytes(both), json_bytes({"train/rank.json": rank}), json_bytes(run)]


def _records() -> list[bytes]:
    lines = [
        ["a.png", 10, "1", "0" * 64, 32, 32],
        ["a.png", "0" * 64],
        {"seconds": 1.5, "processes": 2, "on_gpu": False, "images": 3, "complete": True},
        {"task": "train", "kind": "DataError", "message": "x", "repair": "y"},
    ]
    return [json_bytes(line) for line in lines] + [b"\n".join(map(json_bytes, lines))]


def _log() -> list[bytes]:
    line = {"time": "2026-01-01T00:00:00+00:00", "event": "log", "message": "x", "repair": "y"}
    return [json_bytes(line) + b"\nTraceback (most recent call last):\n"]


def _requests() -> list[bytes]:
    head = [
        "POST /webhook HTTP/1.1",
        "Host: h",
        "X-MLflow-Delivery-Id: 1",
        f"X-MLflow-Timestamp: {webhook.NOW}",
    ]
    post = "\r\n".join(head).encode() + b"\r\n\r\n" + MESSAGE
    return [webhook.sign_request(post), post, b"GET /healthz HTTP/1.0\r\n\r\n", b"GET /healthz\r\n"]


def _http(data: bytes, rng: Random, plain: Plain) -> bytes:
    """Mutate a request, and mostly sign the result."""
    changed = plain(data)
    return webhook.sign_request(changed) if rng.random() < 0.7 else changed


def _without_place(take: Callable[[bytes], None]) -> Take:
    return lambda data, _: take(data)


def _table(kind: str) -> Take:
    return lambda data, place: documents.table(data, kind, place)


def _override(data: bytes, _: Path) -> None:
    # Whole presets take a hundred times as long and cover nothing more.
    documents.override(data.decode(errors="replace"), "seed: 1\ntraining: {updates: 2}\n")


def _names(data: bytes, place: Path) -> None:
    documents.inner_names(data.decode(errors="replace").split("\n"), place)


TARGETS: dict[str, Target] = {
    "manifest": Target(documents.manifest, lambda: MANIFESTS, json_tree),
    "provenance": Target(documents.provenance, lambda: [PROVENANCE], json_tree),
    "commit": Target(documents.commit, lambda: [COMMIT], json_tree),
    "settings": Target(
        _without_place(documents.settings_as_json), _settings, json_tree, longest=16384
    ),
    # Short inputs: whole presets are slow to parse as YAML, and are fuzzed as `settings`.
    "preset": Target(_without_place(documents.preset), lambda: YAMLS, longest=512),
    "override": Target(_override, lambda: OVERRIDES, longest=512),
    "cluster": Target(_without_place(documents.cluster), lambda: [CLUSTER], json_tree),
    "message": Target(_without_place(webhook.message), lambda: [MESSAGE], json_tree),
    "request": Target(_without_place(webhook.request), _requests, _http),
    "image": Target(files.image_file, _more_pictures, png),
    "archive": Target(files.archive, _archives, tar_sums, longest=16384),
    "adapter-settings": Target(files.adapter_settings, lambda: [json_bytes(ADAPTER)], json_tree),
    "weights": Target(files.adapter_weights, _weights, safetensors),
    "model": Target(files.model_folder, _models, json_tree),
    "checkpoint": Target(
        files.checkpoint,
        lambda: [json_bytes({"run": files.RUN, "metadata": {"rollout": 1}})],
        json_tree,
    ),
    "dump": Target(files.dump, _dumps, json_tree),
    "evaluation": Target(documents.evaluation, _evaluations, json_tree),
    "heartbeats": Target(documents.heartbeats, _heartbeats, json_tree),
    "records": Target(documents.own_records, _records, json_lines),
    "log": Target(_without_place(documents.log), _log, json_lines),
    "prompts": Target(documents.prompts, lambda: PROMPTS),
    "csv": Target(_table("csv"), lambda: [TABLES["csv"]]),
    "tsv": Target(_table("tsv"), lambda: [TABLES["tsv"]]),
    "jsonl": Target(_table("jsonl"), lambda: [TABLES["jsonl"]], json_lines),
    "judge-facts": Target(
        _without_place(documents.metadata),
        lambda: [b'{"prompt": "a cat", "include": [1]}\n{"prompt": "a dog"}\n'],
        json_lines,
    ),
    "judge-answer": Target(
        _without_place(documents.verdict),
        lambda: [b'{"image": "0.png", "verdicts": {"correct": true}}'],
        json_tree,
    ),
    "names": Target(_names, lambda: [b"a\nb/c", b"..\na/../b", b"/x"], longest=256),
}
