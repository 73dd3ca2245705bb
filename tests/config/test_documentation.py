from pathlib import Path

from advgrpo.config import RunConfig
from advgrpo.config.documentation import markdown

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_every_section_of_a_run_is_described() -> None:
    page = markdown()
    for name in RunConfig.model_fields:
        assert f"`{name}`" in page
