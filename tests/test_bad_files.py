"""Wrong prompts, images, adapters and places, through the command line: one message, one repair."""

import io
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from advgrpo.cli.main import main
from advgrpo.data.images import encode_png, to_pil

PROMPTS = ("a cat", "a dog")


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a failing command and returns its output."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["advgrpo", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        output = capsys.readouterr().err
        assert caught.value.code not in {0, 1}
        assert "Traceback" not in output
        assert output.count("repair: ") == 1
        return output

    return run


# Prompts.


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", b"", "is empty"),
        ("p.txt", b"a cat\n\na dog", "line 2 is empty"),
        ("p.txt", b"a cat\na cat", "lines 1, 2 are the same prompt 'a cat'"),
        ("p.txt", b"a \x00cat", "line 1 holds the control character '\\x00'"),
        ("p.txt", b"a dog\n\xef\xbb\xbfa cat", "line 2 holds the control character '\\ufeff'"),
        ("p.txt", "ein Käfer".encode("latin-1"), "is not UTF-8: line 1 holds the byte 0xe4"),
        ("p.txt", b"x" * 20_000, "line 1 has 20000 characters, more than 10000"),
        ("p.csv", b"Name\na cat", "has no column 'Prompt'; it has 'Name'"),
        ("p.csv", b"Prompt\na cat\na cat", "lines 2, 3 are the same prompt"),
        ("p.csv", b"Prompt\na\x07cat", "column 'Prompt' of line 2 holds the control character"),
        ("p.jsonl", b'{"Prompt": "a cat"}\n{"Prompt": 7}', "line 2: the value of 'Prompt' is not"),
        ("p.jsonl", b'{"Prompt": "a cat"}\n\n[1]', "line 3 is '[1]'"),
        ("p.jsonl", b"a cat", "is not JSON with one object per line"),
        ("p.jsonl", b"[" * 50_000, "line 1: it is nested too deeply"),
    ],
)
def test_a_prompt_file_that_cannot_be_used(
    fail: Callable[..., str], tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    output = fail("generate", "--prompts", str(file), "--output", str(tmp_path / "out"))
    assert expected in output
    assert str(file) in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([], "no prompts are given"),
        ([" "], "prompt 1 is empty"),
        (["a cat", "a cat "], "prompts 1, 2 are the same prompt"),
        (["a\ncat"], "prompt 1 holds the control character"),
        (["a \udcff"], "prompt 1 holds bytes that are not UTF-8"),
    ],
)
def test_prompts_that_cannot_be_drawn(
    fail: Callable[..., str], prompts: list[str], expected: str
) -> None:
    assert expected in fail("generate", *prompts)


def test_a_missing_prompt_file(fail: Callable[..., str], tmp_path: Path) -> None:
    assert "nowhere.txt" in fail("generate", "--prompts", str(tmp_path / "nowhere.txt"))
    assert "nowhere.csv" in fail("generate", "--prompts", str(tmp_path / "nowhere.csv"))


# Where images go, and who draws them.


def test_a_place_that_cannot_be_written(fail: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    output = fail("generate", "a cat", "--output", str(tmp_path / "file" / "images"))
    assert f"cannot write {tmp_path / 'file'}" in output
    assert "is not a local path or an s3://" in fail("generate", "a cat", "--output", "hub://a/b")


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("hub://owner/name/DINO", "is not pinned to a commit"),
        ("hub://owner/name@v1", "is not pinned to a commit"),
        ("FOLDER", "is not an adapter: it has no adapter_config.json"),
        ("FOLDER/nowhere", "nowhere"),
        ("gs://bucket/x", "does not name an adapter"),
    ],
)
def test_an_adapter_that_cannot_be_used(
    fail: Callable[..., str], tmp_path: Path, adapter: str, expected: str
) -> None:
    place = adapter.replace("FOLDER", str(tmp_path))
    output = fail("generate", "a cat", "--adapter", place, "--output", str(tmp_path / "out"))
    assert expected in output


def test_a_hub_model_without_a_commit(fail: Callable[..., str], tmp_path: Path) -> None:
    change = "policy.weights={location: 'hub://owner/name'}"
    output = fail("generate", "a cat", "--set", change, "--output", str(tmp_path / "out"))
    assert "revisions.owner/name" in output


# Reference images.


def image(side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def saved(picture: Image.Image, file_format: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **more)
    return buffer.getvalue()


def bomb() -> bytes:
    data = bytearray(encode_png(image()))
    data[16:24] = (60_000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def without_pixels() -> bytes:
    """A PNG of a head and an end, both whole."""
    data = encode_png(image())
    return data[:33] + data[-12:]


def validate(fail: Callable[..., str], folder: Path, *more: str) -> str:
    """Validate a set for the two prompts, one image each; return the output."""
    (folder.parent / "train.txt").write_text("\n".join(PROMPTS))
    (folder.parent / "test.txt").write_text("a horse")
    settings = (
        f"prompts.train={folder.parent / 'train.txt'}",
        f"prompts.test={folder.parent / 'test.txt'}",
        "reference_images.images_per_prompt=1",
        *more,
    )
    return fail("reference-images", "validate", str(folder), *(f"--set={one}" for one in settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two images, which nothing is wrong with."""
    made = tmp_path / "set"
    made.mkdir()
    for number in range(2):
        (made / f"{number}.png").write_bytes(encode_png(image(seed=number)))
    (made / "manifest.json").write_text(json.dumps({"a cat": "0.png", "a dog": ["1.png"]}))
    return made


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "0.png is truncated: it has no bytes"),
        (encode_png(image())[:-30], "0.png is truncated"),
        (b"text", "0.png is not a PNG"),
        (bomb(), "0.png declares"),
        (without_pixels(), "0.png is truncated or damaged"),
        (saved(to_pil(image()), save_all=True, append_images=[to_pil(image(seed=5))]), "animated"),
        (saved(Image.new("I;16", (32, 32))), "0.png has 16 bits per channel, not 8"),
        (saved(Image.new("RGBA", (32, 32))), "0.png has mode RGBA, not RGB"),
        (saved(Image.new("P", (32, 32))), "0.png has mode P, not RGB"),
        (saved(Image.new("L", (32, 32))), "0.png has mode L, not RGB"),
        (encode_png(image(16)), "0.png is 16 x 16 pixels, not 32 x 32"),
        (encode_png(image(seed=1)), "0.png, 1.png hold the same image"),
    ],
    ids=[
        *("empty", "truncated", "text", "bomb", "bare", "animated", "16-bit"),
        *("RGBA", "P", "L", "size", "twice"),
    ],
)
def test_an_image_that_cannot_be_used(
    fail: Callable[..., str], folder: Path, content: bytes, expected: str
) -> None:
    (folder / "0.png").write_bytes(content)
    assert expected in validate(fail, folder)


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ("", "manifest.json is not JSON"),
        ("{}", "manifest.json list no prompts"),
        ('{"a cat": [], "a dog": "1.png"}', "'a cat' has 0 of 1 reference images"),
        ('{"a cat": "../0.png", "a dog": "1.png"}', "'../0.png', of 'a cat', is not a name inside"),
        ('{"a cat": "/etc/passwd", "a dog": "1.png"}', "is not a name inside the folder"),
        ('{"a cat": "a\\u0000b", "a dog": "1.png"}', "is not a name inside the folder"),
        ('{"a cat": "0.png", "a dog": "0.png"}', "0.png is listed 2 times"),
        ('{"a cat": "9.png", "a dog": "1.png"}', "9.png is missing"),
        (f'{{"a cat": "{"x" * 300}.png", "a dog": "1.png"}}', "x.png is missing"),
        ('{"a cow": "0.png", "a dog": "1.png"}', "1 of the 2 prompts of"),
    ],
)
def test_a_manifest_that_cannot_be_used(
    fail: Callable[..., str], folder: Path, manifest: str, expected: str
) -> None:
    (folder / "manifest.json").write_text(manifest)
    output = validate(fail, folder)
    assert expected in output
    assert str(folder) in output


def test_a_link_that_leads_out_of_the_set(fail: Callable[..., str], folder: Path) -> None:
    (folder / "0.png").rename(folder.parent / "0.png")
    (folder / "0.png").symlink_to(folder.parent / "0.png")
    assert "0.png is reached by a symbolic link that leads out of" in validate(fail, folder)


def test_a_set_that_does_not_exist(fail: Callable[..., str], folder: Path) -> None:
    assert "nowhere" in validate(fail, folder.parent / "nowhere")
    manifests = f"reference_images.existing_manifests=[{folder / 'none.json'}]"
    assert "none.json" in validate(fail, folder, manifests)


def test_unknown_languages_and_file_formats(fail: Callable[..., str]) -> None:
    source = "{type: diffusers, weights: {location: x}, prompt_suffixes: {fr: beau}}"
    output = fail("config", "show", f"--set=reference_images.source={source}")
    assert "reference_images.source.prompt_suffixes.fr: unknown key" in output
    output = fail("config", "show", "--set=reference_images.file_format=gif")
    assert "reference_images.file_format='gif'" in output
