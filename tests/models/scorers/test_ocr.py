import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from advgrpo.data.images import from_pil
from advgrpo.errors import ConfigError
from advgrpo.models.scorers.ocr import Ocr, edit_distance, quoted_texts, rapid_reader, text_accuracy


def sign(*lines: str, side: int = 256) -> torch.Tensor:
    picture = Image.new("RGB", (side, side), "white")
    for number, line in enumerate(lines):
        font = ImageFont.load_default(size=40)
        ImageDraw.Draw(picture).text((12, 40 + 80 * number), line, fill="black", font=font)
    return from_pil(picture)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign that says "Open now"', ["Open now"]),
        ('a cup with “Tea” and "Milk"', ["Tea", "Milk"]),
        ("a cat", []),
        ("the dog's bowl, isn't it", []),
        ('an empty sign " "', []),
    ],
)
def test_quoted_texts_are_found(prompt: str, texts: list[str]) -> None:
    assert quoted_texts(prompt) == texts


@pytest.mark.parametrize(
    ("one", "two", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edits_are_counted(one: str, two: str, distance: int) -> None:
    assert edit_distance(one, two) == distance


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_are_a_distance(one: str, two: str, three: str) -> None:
    assert edit_distance(one, two) == edit_distance(two, one)
    assert (edit_distance(one, two) == 0) == (one == two)
    assert edit_distance(one, three) <= edit_distance(one, two) + edit_distance(two, three)


@pytest.mark.parametrize(
    ("read", "accuracy"),
    [
        ("OPEN\nnow", 1.0),
        ("we are open now, come in", 1.0),
        ("open mow", 1 - 1 / 7),
        ("", 0.0),
        ("something that is quite another text", 0.0),
    ],
)
def test_accuracy_is_the_share_of_characters_that_are_right(read: str, accuracy: float) -> None:
    assert text_accuracy(read, "Open now") == pytest.approx(accuracy)


def test_each_image_is_read_for_its_own_prompt() -> None:
    read = iter(["tea", "milk only"])

    scorer = Ocr(lambda picture: next(read) if picture.shape == (8, 8, 3) else "")
    scores = scorer.score(torch.zeros(2, 3, 8, 8), ['a "Tea"', 'a "Tea" and a "Milk"'])

    assert scores["accuracy"][0] == 1
    assert scores["accuracy"][1] == pytest.approx((text_accuracy("milk only", "tea") + 1) / 2)


def test_a_prompt_without_quoted_text_has_no_value() -> None:
    scorer = Ocr(lambda _picture: "")

    assert scorer.why_missing("a cat") == "it quotes no text"
    assert scorer.why_missing('a "cat"') == ""


def test_the_real_reader_reads_what_is_written_and_nothing_from_noise() -> None:
    noise = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    images = torch.stack([sign("HELLO"), sign("GRAND", "HOTEL"), sign("HELLO"), noise])
    prompts = ['a sign, "Hello"', 'a sign, "Grand Hotel"', 'a sign, "Bakery"', 'a sign, "Hello"']

    accuracy = Ocr(rapid_reader()).score(images, prompts)["accuracy"]

    assert accuracy[:2].tolist() == [1.0, 1.0]
    assert accuracy[2] < 0.4
    assert accuracy[3] == 0


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python then raises ImportError, as for a system library that the loader does not find.
    monkeypatch.setitem(sys.modules, "rapidocr", None)

    with pytest.raises(ConfigError, match="type ocr") as refusal:
        rapid_reader()

    assert "advgrpo[ocr]" in refusal.value.repair
