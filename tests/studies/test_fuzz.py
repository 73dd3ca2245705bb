"""The fuzzing targets with seeds, past finds and a few mutations, without atheris."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from advgrpo.data.images import decode_image
from advgrpo.errors import DataError
from studies.fuzz import __main__ as command
from studies.fuzz import mutations, targets, webhook
from studies.fuzz.contract import rejects
from studies.fuzz.counts import parse_counts
from studies.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
DEEP = b"[" * 50_000

HUGE = b'{"a": {"dtype": "F32", "shape": [0, 9223372036854775808], "data_offsets": [0, 0]}}'
NOT_UTF8 = b'{"a": "\x93"}'
_PICTURE = targets.pictures()[0]
_EVALUATION = json.loads(TARGETS["evaluation"].seeds()[0])
(_EXAMPLE,) = _EVALUATION["examples"]
FOUND: dict[str, list[bytes]] = {
    "provenance": [
        targets.PROVENANCE.replace(b'"pocket"', b"Infinity"),
        targets.PROVENANCE.replace(b'"pocket"', b"NaN"),
    ],
    "archive": [targets.archive({".": b""}), targets.archive({"a": b"", "a/b": b""})],
    "adapter-settings": [
        targets.json_bytes(targets.ADAPTER | {"target_modules": modules})
        for modules in ([{"type": "other"}, "to_k"], [["to_q"], "to_k"], [None, 1], {})
    ],
    "image": [_PICTURE[:33] + _PICTURE[-12:]],
    "weights": [len(HUGE).to_bytes(8, "little") + HUGE],
    "checkpoint": [b'{"metadata": {}}', b'{"run": "a run"}', b"[]", b"5", NOT_UTF8],
    "dump": [NOT_UTF8],
    "model": [
        b'{"_class_name": "StableDiffusion3Pipeline", "vae": []}',
        b'{"_class_name": "StableDiffusion3Pipeline", "vae": ["diffusers", {}]}',
        b'{"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": []}',
        b'{"image_mean": [1e999, 0, 0], "image_std": [1, 1, 1]}',
        b'[{"_class_name": 1}]',
    ],
    "evaluation": [
        json.dumps({**_EVALUATION, "examples": [{**_EXAMPLE, **change}]}).encode()
        for change in ({"images": {}}, {"images": {"base": []}}, {"trained_alignment": 10**400})
    ],
    "records": [b"true", b"[{}, 1, 1, 1, 1, 1]", b"[[], 1]", b"[1, 2]", b'{"seconds": 1, "x": 2}'],
    "prompts": [b"a\n\xef\xbb\xbfb\n", b"\xef\xbb\xbf\xef\xbb\xbfx\nx\n"],
    "log": [b"{" + DEEP],
}
"""Failing inputs that `make fuzz` found, by target."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_accepts_its_seeds_and_past_finds(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for data in (*target.seeds(), *FOUND.get(name, ()), b"", b"\0", DEEP):
        target.take(data, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_accepts_its_mutations(name: str, tmp_path: Path) -> None:
    target, rng = TARGETS[name], Random(0)
    seeds = target.seeds()
    made = [target.mutate(rng.choice(seeds), rng, _mutate_byte(rng)) for _ in range(20)]
    assert len(set(made)) > 5
    for data in made:
        target.take(data, tmp_path)


def _mutate_byte(rng: Random) -> mutations.Plain:
    def plain(data: bytes) -> bytes:
        place = rng.randrange(len(data) + 1)
        return data[:place] + rng.randbytes(1) + data[place + 1 :]

    return plain


def test_a_rejection_needs_a_repair_and_names_its_cause() -> None:
    def refuse(message: str, repair: str) -> None:
        raise DataError(message, repair=repair)

    assert rejects(lambda: refuse("x.json is damaged", "restore it"), "x.json")
    assert not rejects(lambda: None, "x.json")
    with pytest.raises(AssertionError, match="no repair"):
        rejects(lambda: refuse("x.json is damaged", ""))
    with pytest.raises(AssertionError, match="does not name"):
        rejects(lambda: refuse("a file is damaged", "restore it"), "x.json")


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), OSError()])
def test_any_other_exception_is_not_a_rejection(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        rejects(fail)


def test_a_stored_find_can_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = tmp_path / "manifest" / "KeyError-0"
    find.parent.mkdir()
    find.write_bytes(b"{}")
    assert command.replay(find) == 0
    assert ": passed" in capsys.readouterr().out

    def fail(data: bytes, _: Path) -> None:
        raise KeyError(data)

    monkeypatch.setitem(TARGETS, "manifest", Target(fail, list))
    assert command.replay(find) == 1
    assert "KeyError: b'{}'" in capsys.readouterr().out


def test_without_atheris_the_error_says_how_to_install_it() -> None:
    program = (
        "import importlib.util, runpy, sys; find = importlib.util.find_spec; "
        "importlib.util.find_spec = lambda name, *a: None if name == 'atheris' else find(name, *a);"
        "sys.argv = ['fuzz']; runpy.run_module('studies.fuzz', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "atheris is not installed\n  repair: " in ended.stderr
    assert "'.[fuzz]' -c constraints.txt" in ended.stderr


def test_a_picture_with_fixed_checksums_is_decoded() -> None:
    whole = targets.pictures()[0]
    # The last byte of the first chunk's checksum.
    torn = whole[:32] + bytes([whole[32] ^ 1]) + whole[33:]
    with pytest.raises(ValueError, match="damaged"):
        decode_image(torn)
    assert mutations.fix_png_checksums(torn) == whole


def test_an_archive_with_fixed_checksums_is_the_original() -> None:
    whole = targets.archive({"a.txt": b"content"})
    torn = whole[:148] + b"0" * 6 + whole[154:]
    assert mutations.fix_tar_checksums(torn) == whole


def test_a_mutated_tree_is_valid_json() -> None:
    rng = Random(0)
    before = {"a": [1, {"b": "c"}], "d": None}
    data = targets.json_bytes(before)
    changed = [mutations.json_tree(data, rng, lambda part: part) for _ in range(50)]
    assert sum(json.loads(one) != before for one in changed) > 30
    assert mutations.json_tree(b"not JSON", rng, lambda part: part + b"!") == b"not JSON!"


def test_the_webhooks_seed_has_the_signature_of_mlflow() -> None:
    signed, unsigned, *_ = TARGETS["request"].seeds()
    assert b"X-MLflow-Signature: v1," in signed
    headers = {"X-MLflow-Delivery-Id": "1", "X-MLflow-Timestamp": str(webhook.NOW)}
    assert webhook.accepts_headers(headers, b"body", signed=True)
    assert not webhook.accepts_headers(headers, b"body", signed=False)
    assert webhook.sign_request(unsigned) == signed


def test_the_statistics_of_libfuzzer_are_parsed() -> None:
    said = (
        "#17\tINITED cov: 81 ft: 146 corp: 10/108b exec/s: 0 rss: 446Mb\n"
        "#9000\tDONE   cov: 82 ft: 150 corp: 11/109b\n"
        "stat::number_of_executed_units: 9000\nstat::peak_rss_mb:              447\n"
    )
    one = parse_counts("manifest", said, 3.0, ("x",))
    assert (one.runs, one.edges, one.features, one.peak_mib) == (9000, 82, 150, 447)
