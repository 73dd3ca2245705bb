"""Random external inputs: each is parsed and survives a round trip, or is rejected.

`FUZZ_TIMES=20` runs twenty times as many cases, with different ones each time.
"""

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from advgrpo.config import resolve
from studies.fuzz import documents, files, webhook
from studies.fuzz.targets import (
    CLUSTER,
    COMMIT,
    MANIFESTS,
    MESSAGE,
    PROMPTS,
    PROVENANCE,
    TABLES,
    YAMLS,
    archive,
    json_bytes,
    pictures,
)

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
COUNTED = {
    "manifest": 1200, "provenance": 500, "commit": 500, "settings": 1500, "yaml": 300,
    "override": 200, "message": 1000, "signature": 1000, "image": 1500, "image file": 300,
    "prompts": 600, "table": 500, "archive": 300, "cluster": 600, "join": 500,
}  # fmt: skip


def cases(what: str) -> Callable[[Any], Any]:
    """Set the number of cases, which are the same in each run unless `FUZZ_TIMES` is set."""
    return settings(
        max_examples=COUNTED[what] * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
DEEP = b"[" * 50_000
numbers = st.sampled_from([b"9" * 5000, b"Infinity", b"-1e999", b"NaN", b"1e5", b"0"])


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Draw an original with a few bytes changed, removed, inserted or truncated."""
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


manifests = (
    damaged(MANIFESTS)
    | plain.map(json_bytes)
    | st.dictionaries(texts, texts | st.lists(texts)).map(json_bytes)
    | st.binary()
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


def test_there_are_ten_thousand_cases() -> None:
    assert sum(COUNTED.values()) >= 10_000


@cases("manifest")
@example(data=DEEP)
@given(data=manifests)
def test_a_manifest(data: bytes, place: Path) -> None:
    documents.manifest(data, place)


@cases("provenance")
@example(data=DEEP)
@given(data=damaged([PROVENANCE]) | plain.map(json_bytes) | st.binary())
def test_a_provenance(data: bytes, place: Path) -> None:
    documents.provenance(data, place)


@cases("commit")
@example(data=DEEP)
@given(data=damaged([COMMIT]) | plain.map(json_bytes) | st.binary())
def test_a_list_of_hashes(data: bytes, place: Path) -> None:
    documents.commit(data, place)


POCKET = yaml.safe_load(resolve("pocket").to_yaml())
odd = plain | st.sampled_from([-1, 0, 1, 2**70, float("inf"), float("nan"), "", "\0", "s3://"])


@st.composite
def changed_settings(draw: st.DrawFn) -> dict[Any, Any]:
    """Draw the pocket preset with one or two settings changed, added or removed."""
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
    documents.settings(values)


@cases("yaml")
@example(data=DEEP)
@given(data=damaged(YAMLS) | texts.map(str.encode))
def test_a_preset_as_text(data: bytes) -> None:
    documents.preset(data)


@cases("override")
@example(key="training.updates", value="[" * 5000)
@given(
    key=texts | st.sampled_from(["training.updates", "seed", "prompts", "evaluation.scorers.0"]),
    value=texts | st.sampled_from(["2020-99-99", "&a [*a]", "9" * 5000, "!!int x"]),
)
def test_an_override(key: str, value: str) -> None:
    documents.override(f"{key}={value}")


@cases("message")
@example(data=DEEP)
@given(data=damaged([MESSAGE]) | plain.map(json_bytes) | st.binary())
def test_a_webhooks_message(data: bytes) -> None:
    webhook.message(data)


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
    # A random timestamp is never recent enough to be accepted.
    assert not webhook.accepts_headers(headers, body, signed=signed)


@pytest.mark.filterwarnings("ignore::UserWarning")
@cases("image")
@given(data=damaged(pictures()) | st.binary())
def test_an_images_content(data: bytes) -> None:
    files.image_content(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@cases("image file")
@given(data=damaged(pictures()))
def test_an_image_file(data: bytes, place: Path) -> None:
    files.image_file(data, place)


@cases("prompts")
@given(data=damaged(PROMPTS) | texts.map(str.encode) | st.binary())
def test_a_prompt_file(data: bytes, place: Path) -> None:
    documents.prompts(data, place)


@cases("table")
@example(data=DEEP, kind="jsonl")
@given(data=damaged([*TABLES.values()]) | st.binary(), kind=st.sampled_from([*TABLES]))
def test_a_table_of_prompts(data: bytes, kind: str, place: Path) -> None:
    documents.table(data, kind, place)


@cases("archive")
@given(data=damaged([archive({"a.txt": b"content", "b.txt": b"x" * 600})]) | st.binary())
def test_an_archive(data: bytes, tmp_path: Path) -> None:
    files.archive(data, tmp_path)


@cases("cluster")
@example(data=DEEP)
@given(data=damaged([CLUSTER]) | plain.map(json_bytes))
def test_settings_of_a_cluster(data: bytes) -> None:
    documents.cluster(data)


@cases("join")
@given(names=st.lists(texts | st.sampled_from(["..", "../x", "/", "a/..", ".", "\0"]), max_size=4))
def test_a_name_inside_a_folder(names: list[str], place: Path) -> None:
    documents.inner_names(names, place)
