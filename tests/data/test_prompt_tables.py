from pathlib import Path

import pytest

from advgrpo.data.prompt_tables import read_any_prompts, read_prompt_table, refuse_repeats
from advgrpo.data.prompts import read_prompts
from advgrpo.errors import PromptFileError


def table(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_tsv_column_keeps_its_quotation_marks(tmp_path: Path) -> None:
    text = 'Prompt\tCategory\nbond\tAbstract\n"Fly" on a  wall. \tArts\n'

    found = read_prompt_table(table(tmp_path, "parti.tsv", text), "Prompt")

    assert found.prompts == ("bond", '"Fly" on a wall.')
    assert found.repeats == ()


def test_a_column_of_a_csv_may_hold_commas_and_line_ends(tmp_path: Path) -> None:
    text = 'Category,Prompts\r\nColors,"A red car, and\na ""white"" sheep."\r\nText,x\r\n'

    found = read_prompt_table(table(tmp_path, "drawbench.csv", text), "Prompts")

    assert found.prompts == ('A red car, and a "white" sheep.', "x")


def test_an_imported_table_is_a_prompt_file(tmp_path: Path) -> None:
    found = read_prompt_table(table(tmp_path, "t.tsv", "\ufeffPrompt\na\nb\u2028c\n"), "Prompt")
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{text}\n" for text in found.prompts), encoding="utf-8")

    assert read_prompts(file).texts == ("a", "b c")


def test_repeated_prompts_are_refused_by_name(tmp_path: Path) -> None:
    location = table(tmp_path, "t.tsv", "Prompt\na cat\na dog\na  cat\na cat\n")
    found = read_prompt_table(location, "Prompt")

    assert found.prompts == ("a cat", "a dog")
    assert found.repeats == ("a cat", "a cat")
    with pytest.raises(PromptFileError, match=r"repeats 2 prompts.*(.|\n)*'a cat'") as refusal:
        refuse_repeats(location, found)
    assert "--drop-repeats" in refusal.value.repair


def test_an_unknown_column_is_refused_with_the_existing_ones(tmp_path: Path) -> None:
    location = table(tmp_path, "t.tsv", "Prompt\tNote\na\tb\n")

    with pytest.raises(PromptFileError, match="no column 'Prompts'; it has 'Prompt', 'Note'"):
        read_prompt_table(location, "Prompts")


def test_rows_without_a_prompt_are_refused_by_number(tmp_path: Path) -> None:
    location = table(tmp_path, "t.tsv", "Note\tPrompt\nx\ta\ny\nz\t \n")

    with pytest.raises(PromptFileError, match="in 2 rows of column 'Prompt': 3, 4"):
        read_prompt_table(location, "Prompt")


@pytest.mark.parametrize(("name", "text"), [("t.tsv", ""), ("t.xlsx", "Prompt\na\n")])
def test_other_files_than_tables_are_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(PromptFileError, match=rf"{name} (has no column|is not a supported table)"):
        read_prompt_table(table(tmp_path, name, text), "Prompt")


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("Prompt\nFran\xe7ois\n".encode("latin-1"))

    with pytest.raises(PromptFileError, match="not a table in UTF-8"):
        read_prompt_table(str(path), "Prompt")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a cat\na dog\n"),
        ("p.csv", "Note,Prompt\nx,a cat\ny,a  dog\n"),
        ("p.jsonl", '{"Prompt": "a cat"}\n\n{"Prompt": "a dog", "Note": 7}\n'),
    ],
)
def test_prompts_are_read_from_a_file_of_any_kind(tmp_path: Path, name: str, text: str) -> None:
    found = read_any_prompts(table(tmp_path, name, text), "Prompt")
    assert found.texts == ("a cat", "a dog")
