import json
from pathlib import Path

import pytest

from advgrpo.reference_images.check_record import CheckRecord, ValidFile
from advgrpo.storage import FileState

FOUND = ValidFile("0" * 64, 32, 32)
LISTING = {"a.png": FileState(10, "1")}


@pytest.mark.parametrize("damaged", ["true", "[{}, 1, 1, 1, 1, 1]", "[1]", "[" * 50_000, "\0\0"])
def test_the_file_of_a_damaged_line_is_checked_again_and_no_other(
    tmp_path: Path, damaged: str
) -> None:
    record = CheckRecord(str(tmp_path))
    record.add({"a.png": FOUND}, LISTING)
    (file,) = tmp_path.iterdir()
    file.write_text(f"{damaged}\n{file.read_text()}\n{json.dumps(['a.png', 11, '1', '', 1, 1])}")
    assert record.known(LISTING) == {"a.png": FOUND}
