from pathlib import Path

from advgrpo.models.scorers.catalogue import IMAGE_METRICS, SET_METRICS, find_facts
from advgrpo.models.scorers.documentation import markdown
from advgrpo.models.scorers.statistics import image_statistics
from tests.models.scorers.test_statistics import flat

PAGE = Path(__file__).parents[3] / "docs" / "scorers.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_metrics_of_scorers_are_in_the_catalogue_by_name() -> None:
    for name in ("pickscore.score", "ocr.accuracy", "external_judge.*", "image.edge_density"):
        assert name in IMAGE_METRICS
    assert find_facts("distance.frechet") is SET_METRICS["distance.frechet"]
    assert find_facts("external_judge.count") is None


def test_every_statistic_is_in_the_catalogue_without_a_direction() -> None:
    for name in image_statistics(flat(0.1, 0.2, 0.3)):
        facts = find_facts(f"image.{name}")
        assert facts is not None, name
        assert facts.higher_is_better is None


def test_no_cell_of_the_page_breaks_its_table() -> None:
    for facts in (*IMAGE_METRICS.values(), *SET_METRICS.values()):
        assert "|" not in "".join(str(value) for value in vars(facts).values())
