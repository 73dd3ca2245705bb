import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from advgrpo.config import PromptsConfig, resolve
from advgrpo.data.prompt_text import encoder_key
from advgrpo.data.prompts import check_disjoint, language_of, read_prompts, read_run_prompts
from advgrpo.errors import PromptFileError
from advgrpo.records import PromptSet


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.txt"


def test_a_prompt_is_a_line_in_the_order_of_the_file(file: Path) -> None:
    file.write_text("ein Kreis über Wasser\n一只猫\na dog\n", encoding="utf-8")
    assert read_prompts(file).texts == ("ein Kreis über Wasser", "一只猫", "a dog")


def test_a_packaged_prompt_file_is_read_by_its_location() -> None:
    assert len(read_prompts("package://advgrpo.pocket/prompts/test.txt")) == 320


def test_byte_order_marks_and_line_ends_do_not_change_the_prompts(file: Path) -> None:
    file.write_bytes(b"a cat\na dog")
    plain = read_prompts(file)
    file.write_bytes(b"\xef\xbb\xbfa cat \r\n\ta dog\r\n\r\n\n")
    assert read_prompts(file) == plain


def test_the_digest_depends_on_texts_and_order(file: Path) -> None:
    digests = set()
    for text in ("a cat\na dog", "a dog\na cat", "a cat", "a cata dog"):
        file.write_text(text)
        digests.add(read_prompts(file).digest)
    assert len(digests) == 4


def test_characters_that_only_look_like_line_ends_stay_in_the_prompt(file: Path) -> None:
    file.write_text("a\u2028b\nc\u3000d\n", encoding="utf-8")
    assert read_prompts(file).texts == ("a\u2028b", "c\u3000d")


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \t\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_prompts_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(PromptFileError, match=r"prompts\.txt is empty"):
        read_prompts(file)


def test_all_problems_are_named_with_their_lines_at_once(file: Path) -> None:
    file.write_bytes(b"a cat\n\na dog\na cat\n  a dog \nx\x00y\na cat\n")
    with pytest.raises(PromptFileError) as caught:
        read_prompts(file)
    assert caught.value.message.splitlines() == [
        f"prompt file {file} cannot be used:",
        "  - line 2 is empty",
        "  - line 6 holds the control character '\\x00'",
        "  - lines 1, 4, 7 are the same prompt 'a cat'",
        "  - lines 3, 5 are the same prompt 'a dog'",
    ]
    assert caught.value.repair


def test_a_long_list_of_problems_is_cut_and_counted(file: Path) -> None:
    file.write_text("a\n" + "\n" * 20 + "b\n")
    with pytest.raises(PromptFileError, match="and 8 more") as caught:
        read_prompts(file)
    assert caught.value.message.count("\n  - ") == 12


def test_bytes_that_are_not_utf8_are_named_with_their_line(file: Path) -> None:
    file.write_bytes("a cat\ncafé\n".encode("latin-1"))
    with pytest.raises(PromptFileError, match=r"not UTF-8: line 2 holds the byte 0xe9"):
        read_prompts(file)


def test_utf16_is_refused(file: Path) -> None:
    file.write_bytes("a cat\n".encode("utf-16-le"))
    with pytest.raises(PromptFileError, match="control character"):
        read_prompts(file)


def test_a_missing_file_is_named(file: Path) -> None:
    with pytest.raises(PromptFileError, match=r"prompts\.txt does not exist"):
        read_prompts(file)


def test_a_file_with_the_expected_hash_is_read(file: Path) -> None:
    file.write_bytes(b"a red circle\n")
    digest = hashlib.sha256(b"a red circle\n").hexdigest()

    assert read_prompts(file, sha256=digest).texts == ("a red circle",)


def test_a_file_with_another_hash_is_refused_with_both(file: Path) -> None:
    file.write_bytes(b"a red circle\n")
    found, wanted = hashlib.sha256(b"a red circle\n").hexdigest(), "ab" * 32

    with pytest.raises(PromptFileError, match=f"test_sha256={wanted}: .* {found}") as refusal:
        read_prompts(file, setting="prompts.test", sha256=wanted)

    assert f"prompts.test_sha256={found}" in refusal.value.repair


def test_the_settings_hashes_are_checked(file: Path) -> None:
    other = file.with_name("other.txt")
    file.write_text("a red circle")
    other.write_text("a blue square")
    config = PromptsConfig(train=str(file), test=str(other), test_sha256="ab" * 32)

    with pytest.raises(PromptFileError, match=r"^prompts\.test_sha256=abab.*other\.txt"):
        read_run_prompts(config)


def test_resolved_settings_pin_both_files(file: Path) -> None:
    other = file.with_name("other.txt")
    file.write_text("a red circle")
    other.write_text("a blue square")
    config = resolve("pocket", [f"prompts.train={file}", f"prompts.test={other}"])

    pinned = read_run_prompts(config.prompts).resolve(config).prompts

    assert pinned.train_sha256 == hashlib.sha256(b"a red circle").hexdigest()
    assert pinned.test_sha256 == hashlib.sha256(b"a blue square").hexdigest()
    file.write_text("a red square")
    with pytest.raises(PromptFileError, match=r"prompts\.train_sha256"):
        read_run_prompts(pinned)


def test_reading_prompts_loads_no_torch() -> None:
    code = "import sys, advgrpo.data.prompts; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prompts_in_both_files_are_refused() -> None:
    train = PromptSet(("a cat", "a dog", "a cow"), digest="")
    check_disjoint(train, PromptSet(("a hen",), digest=""))
    with pytest.raises(PromptFileError, match=r"line 2 .* is line 3 of the training .*'a cow'"):
        check_disjoint(train, PromptSet(("a hen", "a cow"), digest=""))


ALIKE = [
    "a red  cafe\u0301 table",
    "a red\tcafé table",
    "a red\u00a0café table",
    "a red\u2028café table",
    "a red\u0085café table",
    "a red\u200b café table",
    "a red\u00ad café table",
    "a red \u202ecafé table",
    "A Red CAFÉ table",
    "a red café \uff54able",
]


@pytest.mark.parametrize("text", ALIKE)
def test_prompts_that_a_text_encoder_does_not_tell_apart_are_the_same(
    file: Path, text: str
) -> None:
    file.write_text(f"a dog\na red café table\n{text}\n", encoding="utf-8")
    with pytest.raises(PromptFileError, match="lines 2, 3 are the same prompt to a text") as caught:
        read_prompts(file)
    assert "--drop-repeats" in caught.value.repair
    train = PromptSet(("a dog", "a red café table"), digest="", location="train.txt")
    with pytest.raises(PromptFileError, match=r"line 1 of the test .* is line 2 of the") as caught:
        check_disjoint(train, PromptSet((text,), digest="", location="test.txt"))
    assert "prompts import train.txt --exclude test.txt" in caught.value.repair


@pytest.mark.parametrize("text", ["a red café table.", "a red cafe table", "a redcafé table"])
def test_prompts_that_a_text_encoder_tells_apart_are_different(text: str) -> None:
    check_disjoint(PromptSet(("a red café table",), digest=""), PromptSet((text,), digest=""))


def test_a_decomposed_accent_is_shown_as_such(file: Path) -> None:
    file.write_text("café\ncafe\u0301\n", encoding="utf-8")
    with pytest.raises(PromptFileError, match=r"'café' and 'cafe\\u0301' differ in white space"):
        read_prompts(file)


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("a cat", "en"),
        ("un café à Zürich, “déjà vu”", "en"),
        ("a sign that says 你好", "zh"),
        ("𠀋", "zh"),
        ("ねこ", "en"),
        ("", "en"),
    ],
)
def test_a_prompt_with_an_ideograph_is_chinese(prompt: str, language: str) -> None:
    assert language_of(prompt) == language


def test_the_key_of_ascii_is_that_of_the_general_case() -> None:
    for character in map(chr, range(128)):
        text = f"A{character}b"
        assert encoder_key(f"{text} é") == f"{encoder_key(text)} é"
