from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from advgrpo.data.prompt_tables import (
    read_any_prompts,
    read_prompt_list,
    read_prompt_table,
    refuse_repeats,
    without,
)
from advgrpo.data.prompts import read_prompts
from advgrpo.errors import ConfigError, PromptFileError, WeightsError
from tests.hub import COMMIT, local_hub


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
    location = table(tmp_path, "t.tsv", "Prompt\na cat\na dog\n\na  cat\nA cat\n")
    found = read_prompt_table(location, "Prompt")

    assert found.prompts == ("a cat", "a dog")
    assert found.repeats == ("a cat", "A cat")
    with pytest.raises(PromptFileError, match="repeats 2 prompts") as refusal:
        refuse_repeats(location, found)
    assert "\n  - line 5: 'a cat' is line 2\n" in refusal.value.message
    assert "- line 6: 'A cat' is line 2, 'a cat', to a text encoder" in refusal.value.message
    assert "--drop-repeats" in refusal.value.repair


def test_an_unknown_column_is_refused_with_the_existing_ones(tmp_path: Path) -> None:
    location = table(tmp_path, "t.tsv", "Prompt\tNote\na\tb\n")

    with pytest.raises(PromptFileError, match="no column 'Prompts'; it has 'Prompt', 'Note'"):
        read_prompt_table(location, "Prompts")


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("t.tsv", "Note\tPrompt\nx\ta\n\ny\t\nz\t \n", [4, 5]),
        ("t.csv", "Note,Prompt\r\n\r\nx,a\r\n,\r\n", [4]),
        ("t.csv", 'Note,Prompt\n"x\n\ny",a\n,""\n', [5]),
        ("t.jsonl", '\n{"Prompt": "a"}\n\n{"Prompt": " "}\n{}\n{"Note": "a"}\n', [4, 5, 6]),
    ],
)
def test_rows_without_a_prompt_are_named_by_their_lines_in_the_file(
    tmp_path: Path, name: str, text: str, lines: list[int]
) -> None:
    with pytest.raises(PromptFileError) as refusal:
        read_prompt_table(table(tmp_path, name, text), "Prompt")
    found = refusal.value.message.splitlines()[1:]
    assert found == [f"  - column 'Prompt' of line {line} is empty" for line in lines]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "id,Prompt\n\n2,a ball, a cube\n", "line 3 has 3 instead of 2 fields"),
        ("t.csv", "Prompt,Kind\na ball, a cube,x\n", "line 2 has 3 instead of 2 fields"),
        ("t.csv", "Prompt,Kind\na\n", "line 2 has 1 instead of 2 fields"),
        ("t.csv", 'Prompt,Meta\na,{"b": 1, "c": 2}\n', "line 2 has 3 instead of 2 fields"),
        ("t.tsv", "Prompt\tKind\na\tball\tx\n", "line 2 has 3 instead of 2 fields"),
        # An unclosed quotation mark, up to the end of the file or to the next one.
        ("t.csv", 'Prompt,Kind\nx,y\n"a,x\nb,x\n', "from line 3 to line 4 .* is never closed"),
        ("t.csv", 'Prompt,Kind\n"a,x\nb",x\n', "from line 2 to line 3 looks like several rows"),
        ("t.csv", 'id,Prompt\n1,"a, b\n2,c\n3,d"\n', "from line 2 to line 4 looks like several"),
        ("t.csv", 'Prompt,Kind\n"a "b" c",x\n', "line 2 to line 2 .* is not written twice"),
        ("t.csv", "Prompt\na\n" + "x" * 200_000, "line 3 to line 3 .* more than 131072 char"),
        ("t.tsv", "Prompt\na\n" + "x" * 200_000, "line 3 to line 3 .* more than 131072 char"),
        ("t.csv", "Prompt\na\n" + "x" * 20_000, "line 3 has 20000 characters, more than 10000"),
        ("t.csv", "Prompt,a,Prompt\nx,y,z\n", "several columns 'Prompt': columns 1 and 3"),
        ("t.csv", "id;Prompt\n1;a ball\n", "separated by ';' instead of ','"),
        ("t.csv", "id\tPrompt\n1\ta ball\n", "separated by '\\\\t' instead of ','"),
        ("t.tsv", "id,Prompt\n1,a ball\n", "separated by ',' instead of '\\\\t'"),
        ("t.tsv", 'Prompt\na\n"a sign ""Hi"""\n', "(?s)quotes its fields.*line 3"),
        ("t.tsv", 'Prompt\n"a"\n"b"\n', "(?s)quotes its fields.*line 2.*line 3"),
        ("t.jsonl", '{"Prompt": "a", "Prompt": "b"}', "line 1: the key 'Prompt' occurs twice"),
        ("t.jsonl", '{"Prompt": ["a", "b"]}', "line 1: the value of 'Prompt' is not a text"),
    ],
)
def test_a_table_that_would_be_misread_is_refused_with_its_lines(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(PromptFileError, match=message) as refusal:
        read_prompt_table(table(tmp_path, name, text), "Prompt")
    assert refusal.value.repair


def test_quotation_marks_that_belong_to_prompts_are_kept(tmp_path: Path) -> None:
    csv = table(tmp_path, "t.csv", 'Prompt,Kind\na 5" cup,x\n"a 6"" cup",x\n')
    tsv = table(tmp_path, "t.tsv", 'Prompt\n"Hi"\na "sign"\n')
    assert read_prompt_table(csv, "Prompt").prompts == ('a 5" cup', 'a 6" cup')
    assert read_prompt_table(tsv, "Prompt").prompts == ('"Hi"', 'a "sign"')


def test_byte_order_marks_within_a_file_are_removed_on_request(tmp_path: Path) -> None:
    for name in ("t.tsv", "t.txt"):
        location = table(tmp_path, name, "Prompt\n\ufeffa cat\na\ufeff dog\n")
        with pytest.raises(PromptFileError, match="line 2 holds the control character") as refusal:
            read_prompt_list(location, "Prompt")
        assert "--strip-byte-order-marks" in refusal.value.repair
        found = read_prompt_list(location, "Prompt", strip_byte_order_marks=True)
        assert found.prompts[-2:] == ("a cat", "a dog")


def test_prompts_of_another_file_are_left_out(tmp_path: Path) -> None:
    ours = read_prompt_list(table(tmp_path, "a.txt", "a cat\nA  dog\na cow\n"), "")
    theirs = read_prompt_list(table(tmp_path, "b.txt", "a dog\nA CAT\n"), "")
    assert without(ours, theirs).prompts == ("a cow",)


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


def test_a_column_of_a_parquet_file_is_read(tmp_path: Path) -> None:
    file = str(tmp_path / "prompts.parquet")
    table = pa.table({"id": [1, 2, 3], "Prompt": ["a cat", "two\n dogs", "a cat"]})
    parquet.write_table(table, file)
    found = read_prompt_table(file, "Prompt")
    assert (found.prompts, found.repeats) == (("a cat", "two dogs"), ("a cat",))
    with pytest.raises(PromptFileError, match="no column 'text'; it has 'id', 'Prompt'"):
        read_prompt_table(file, "text")
    with pytest.raises(PromptFileError, match="other values than texts"):
        read_prompt_table(file, "id")
    Path(file).write_bytes(b"not a table")
    with pytest.raises(PromptFileError, match="cannot be read"):
        read_prompt_table(file, "Prompt")


def test_the_arrow_file_of_a_saved_dataset_is_read(tmp_path: Path) -> None:
    file = tmp_path / "data-00000-of-00001.arrow"
    table = pa.table({"prompt": ["a cat", None]})
    with ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(PromptFileError, match="'prompt' of line 2 is empty"):
        read_prompt_table(str(file), "prompt")
    with ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table.slice(0, 1))
    assert read_any_prompts(str(file), "prompt").texts == ("a cat",)


def test_a_file_of_a_dataset_on_a_hub_is_read_at_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVGRPO_CACHE", str(tmp_path))
    location = f"hub://datasets/owner/name/data/train.csv@{COMMIT}"
    with local_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["data/train.csv"] = b"Prompt\na cat\n"
        assert read_any_prompts(location, "Prompt").texts == ("a cat",)
        with pytest.raises(WeightsError, match=r"has no other\.csv at commit"):
            read_any_prompts(location.replace("data/train", "other"), "Prompt")
        with pytest.raises(ConfigError, match="names no file at a commit"):
            read_any_prompts(location.partition("@")[0], "Prompt")
