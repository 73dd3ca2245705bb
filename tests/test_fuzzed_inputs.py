"""What others write, at random: it is understood, and comes back as it went, or it is refused.

`FUZZ_TIMES=20` tries twenty times as much, and something else each time.
"""

import base64
import hashlib
import hmac
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from advgrpo.cluster.settings import parse_cluster_settings
from advgrpo.config import RunConfig, resolve
from advgrpo.config.parsing import parse
from advgrpo.data.images import decode_image, encode_png, read_image
from advgrpo.data.prompt_tables import read_prompt_table
from advgrpo.data.prompts import read_prompts
from advgrpo.data.reference_manifest import (
    MANIFEST_FILE,
    PROVENANCE_FILE,
    read_manifest,
    read_provenance,
    write_manifest,
)
from advgrpo.errors import AdvGrpoError
from advgrpo.storage import COMMIT_FILE, commit_of, join
from advgrpo.tasks.packed import _unpack
from advgrpo.tasks.webhook import Gatekeeper, RefusedError, model_to_look_at
from tests.tasks.test_packed import _part

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
COUNTED = {
    "manifest": 2000, "provenance": 500, "commit": 1000, "settings": 2500, "yaml": 700,
    "override": 300, "message": 1000, "signature": 1000, "image": 2000, "image file": 300,
    "prompts": 1000, "table": 500, "archive": 300, "cluster": 700, "join": 500,
}  # fmt: skip
NOW = 1_700_000_000


def cases(what: str) -> Callable[[Any], Any]:
    """So many cases, the same ones each time unless more are asked for."""
    return settings(
        max_examples=COUNTED[what] * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def refused(attempt: Callable[[], object]) -> bool:
    """Tell whether an input is refused in words; any other exception is a fault of ours."""
    said = None
    try:
        attempt()
    except AdvGrpoError as error:
        said = error
    assert said is None or (said.message and said.repair)
    return said is not None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
DEEP = b"[" * 50_000
numbers = st.sampled_from([b"9" * 5000, b"Infinity", b"-1e999", b"NaN", b"1e5", b"0"])


def json_bytes(value: Any) -> bytes:  # noqa: ANN401
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of the originals with a few bytes changed, left out or put in, or cut."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "insert", "remove", "cut", "repeat"])):
            case "change" if data:
                data[place] = draw(st.integers(0, 255))
            case "insert":
                data[place:place] = draw(st.binary(max_size=8) | numbers)
            case "remove":
                del data[place : place + draw(st.integers(1, 16))]
            case "cut":
                del data[place:]
            case "repeat":
                data[place:place] = data[place : place + 64] * draw(st.integers(1, 4))
    return bytes(data)


MANIFESTS = [json_bytes(m) for m in ({"a cat": ["a.png", "sub/b.png"]}, {"a": "x.png"}, {})]
manifests = (
    damaged(MANIFESTS)
    | plain.map(json_bytes)
    | st.dictionaries(texts, texts | st.lists(texts)).map(json_bytes)
    | st.binary()
    | st.just(DEEP)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def test_there_are_ten_thousand_cases() -> None:
    assert sum(COUNTED.values()) >= 10_000


@cases("manifest")
@given(data=manifests)
def test_a_manifest(data: bytes, place: Path) -> None:
    (place / MANIFEST_FILE).write_bytes(data)
    if not refused(lambda: read_manifest(place)):
        found = read_manifest(place)
        for names in found.values():
            for name in names:
                assert (place / name).resolve().is_relative_to(place.resolve())
        write_manifest(place, found)
        assert read_manifest(place) == found


PROVENANCE = json_bytes(
    {
        "source": {"type": "pocket"}, "seed": 1, "resolution_pixels": 32,
        "advgrpo_version": "0", "files": {"a.png": "0" * 64},
    }
)  # fmt: skip


@cases("provenance")
@given(data=damaged([PROVENANCE]) | plain.map(json_bytes) | st.binary() | st.just(DEEP))
def test_a_provenance(data: bytes, place: Path) -> None:
    (place / PROVENANCE_FILE).write_bytes(data)
    if not refused(lambda: read_provenance(place)):
        found = read_provenance(place)
        assert found is not None
        (place / PROVENANCE_FILE).write_bytes(found.model_dump_json().encode())
        assert read_provenance(place) == found


COMMIT = json_bytes({"files": {"a": {"bytes": 1, "sha256": "0" * 64}, "b/c": {"bytes": 0}}})


@cases("commit")
@given(data=damaged([COMMIT]) | plain.map(json_bytes) | st.binary() | st.just(DEEP))
def test_a_list_of_hashes(data: bytes, place: Path) -> None:
    (place / COMMIT_FILE).write_bytes(data)
    refused(lambda: commit_of(str(place)))


POCKET = yaml.safe_load(resolve("pocket").to_yaml())
odd = plain | st.sampled_from([-1, 0, 1, 2**70, float("inf"), float("nan"), "", "\0", "s3://"])


@st.composite
def changed_settings(draw: st.DrawFn) -> dict[Any, Any]:
    """The pocket preset with one or two places changed, added or left out."""
    values: dict[Any, Any] = deepcopy(POCKET)
    for _ in range(draw(st.integers(1, 2))):
        here: Any = values
        while True:
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(here[key], dict | list) and draw(st.integers(0, 3)):
                here = here[key]
                continue
            match draw(st.sampled_from(["change", "change", "remove", "add"])):
                case "change":
                    here[key] = draw(odd)
                case "remove":
                    del here[key]
                case "add" if isinstance(here, dict):
                    here[draw(texts | st.integers() | st.none())] = draw(odd)
            break
    return values


@cases("settings")
@given(values=changed_settings())
def test_settings(values: dict[Any, Any]) -> None:
    if not refused(lambda: parse(RunConfig, values, where="here")):
        read = parse(RunConfig, values, where="here")
        assert parse(RunConfig, json.loads(read.model_dump_json()), where="there") == read


LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{here}: &{here} [{', '.join([f'*{before}'] * 10)}]\n".encode()
    for before, here in pairwise("abcdefghi")
)
YAMLS = [
    LAUGHS,
    b"seed: 1\ntraining: {updates: 2}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nseed: [*b, *b]\n",
    b"seed: 2020-01-02\n# x\npolicy: !!binary aGVsbG8=\n? [a]\n: b\n",
    b"training:\n  updates: 1_000\n  <<: {a: b}\n",
]


@cases("yaml")
@given(data=damaged(YAMLS) | texts.map(str.encode) | st.just(DEEP))
def test_a_preset_as_text(data: bytes) -> None:
    text = "# fuzzed\n" + data.decode(errors="replace")
    refused(lambda: resolve(text))


@cases("override")
@given(
    key=texts | st.sampled_from(["training.updates", "seed", "prompts", "evaluation.scorers.0"]),
    value=texts | st.sampled_from(["2020-99-99", "[" * 5000, "&a [*a]", "9" * 5000, "!!int x"]),
)
def test_an_override(key: str, value: str) -> None:
    refused(lambda: resolve("pocket", [f"{key}={value}"]))


MESSAGE = json_bytes(
    {"entity": "model_version_tag", "action": "set", "data": {"name": "m", "key": "k"}}
)


@cases("message")
@given(data=damaged([MESSAGE]) | plain.map(json_bytes) | st.binary() | st.just(DEEP))
def test_a_webhooks_message(data: bytes) -> None:
    with suppress(RefusedError):
        assert isinstance(model_to_look_at(data), str)


header = texts | st.sampled_from(["", "v1,", "v1,====", "v2,YQ==", "9" * 5000, "-1", "١٢"])


@cases("signature")
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ["X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "x-mlflow-signature", "Other"]
        ),
        header,
    ),
    body=st.binary(max_size=64),
    signed=st.booleans(),
)
def test_a_webhooks_headers(headers: dict[str, str], body: bytes, signed: bool) -> None:
    gatekeeper = Gatekeeper("a secret", clock=lambda: NOW)
    if signed:
        delivery = headers.get("X-MLflow-Delivery-Id", "")
        time = headers.get("X-MLflow-Timestamp", "")
        digest = hmac.new(b"a secret", f"{delivery}.{time}.".encode() + body, hashlib.sha256)
        headers = headers | {
            "x-mlflow-signature": "v1," + base64.b64encode(digest.digest()).decode()
        }
    with pytest.raises(RefusedError):
        # Nobody draws a timestamp of this minute.
        gatekeeper.check(headers, body)


def pictures() -> list[bytes]:
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    made = []
    for kind, mode in (
        ("PNG", "RGB"),
        ("JPEG", "RGB"),
        ("WEBP", "RGB"),
        ("PNG", "P"),
        ("GIF", "P"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(levels).convert(mode).save(buffer, format=kind)
        made.append(buffer.getvalue())
    return made


@pytest.mark.filterwarnings("ignore::UserWarning")
@cases("image")
@given(data=damaged(pictures()) | st.binary())
def test_an_images_content(data: bytes) -> None:
    try:
        image = decode_image(data)
    except ValueError:
        return
    assert bool((decode_image(encode_png(image)) == image).all())


@pytest.mark.filterwarnings("ignore::UserWarning")
@cases("image file")
@given(data=damaged(pictures()))
def test_an_image_file(data: bytes, place: Path) -> None:
    (place / "image.png").write_bytes(data)
    refused(lambda: read_image(place / "image.png", 16))


@cases("prompts")
@given(
    data=damaged([b"a cat\na dog\n", b"\xef\xbb\xbfx\r\ny\r\n"])
    | texts.map(str.encode)
    | st.binary()
)
def test_a_prompt_file(data: bytes, place: Path) -> None:
    path = place / "prompts.txt"
    path.write_bytes(data)
    if not refused(lambda: read_prompts(path)):
        found = read_prompts(path)
        path.write_text("\n".join(found.texts), encoding="utf-8", newline="")
        assert read_prompts(path) == found


@cases("table")
@given(
    data=damaged([b"Prompt\tNote\na cat\tx\n", b'Prompt,b\n"a ""cat""",x\n']) | st.binary(),
    kind=st.sampled_from(["csv", "tsv"]),
)
def test_a_table_of_prompts(data: bytes, kind: str, place: Path) -> None:
    path = place / f"table.{kind}"
    path.write_bytes(data)
    refused(lambda: read_prompt_table(str(path), "Prompt"))


@cases("archive")
@given(data=damaged([_part(a="content", b="x" * 600)]) | st.binary())
def test_an_archive(data: bytes, place: Path) -> None:
    packed = place / "packed"
    packed.mkdir(exist_ok=True)
    (packed / "part-0.tar").write_bytes(data)
    refused(lambda: _unpack(str(packed), ["part-0.tar"], place / "unpacked"))
    assert {path.name for path in packed.iterdir()} == {"part-0.tar"}


@cases("cluster")
@given(
    data=damaged(
        [b'{"gpus_per_node": 8, "environment": {"A": "b"}, "tolerations": [{"key": "a"}]}']
    )
    | plain.map(json_bytes)
    | st.just(DEEP)
)
def test_settings_of_a_cluster(data: bytes) -> None:
    refused(lambda: parse_cluster_settings(data.decode(errors="replace")))


@cases("join")
@given(names=st.lists(texts | st.sampled_from(["..", "../x", "/", "a/..", ".", "\0"]), max_size=4))
def test_a_name_inside_a_folder(names: list[str], place: Path) -> None:
    if not refused(lambda: join(str(place), *names)):
        inside = Path(os.path.normpath(join(str(place), *names)))
        assert inside.is_relative_to(place)
