from pathlib import Path
from typing import get_args

from advgrpo.config.scorers import ExternalJudgeConfig, Scorer, metrics_of
from advgrpo.models.scorers.catalogue import IMAGE_METRICS, SET_METRICS, facts_of
from advgrpo.models.scorers.documentation import markdown
from advgrpo.models.scorers.statistics import image_statistics
from tests.models.scorers.test_statistics import flat

PAGE = Path(__file__).parents[3] / "docs" / "scorers.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


def test_every_measure_that_can_be_asked_for_is_in_the_catalogue() -> None:
    union, _discriminator = get_args(Scorer)
    for kind in get_args(union):
        if kind is ExternalJudgeConfig:
            assert facts_of("external_judge.*") is not None
            continue
        # What it measures depends on its type alone.
        for metric in metrics_of(kind.model_construct()):
            assert facts_of(metric) is not None, metric


def test_every_statistic_is_in_the_catalogue_without_a_direction() -> None:
    for name in image_statistics(flat(0.1, 0.2, 0.3)):
        facts = facts_of(f"image.{name}")
        assert facts is not None, name
        assert facts.higher_is_better is None


def test_no_cell_of_the_page_breaks_its_table() -> None:
    for facts in (*IMAGE_METRICS, *SET_METRICS):
        assert "|" not in "".join(str(value) for value in vars(facts).values())
