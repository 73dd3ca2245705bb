import pytest
import torch

from advgrpo.models.scorers import manifold
from advgrpo.models.scorers.manifold import ManifoldValues, manifold_values


def gaussian(images: int, features: int, seed: int) -> torch.Tensor:
    return torch.randn(images, features, generator=torch.Generator().manual_seed(seed))


def by_definition(generated: torch.Tensor, reference: torch.Tensor) -> dict[str, list[float]]:
    """Straight from the papers, one image at a time."""

    def radius(image: int, features: torch.Tensor, k: int) -> float:
        distances = (features[image] - features).norm(dim=1)
        others = torch.cat([distances[:image], distances[image + 1 :]])
        return float(others.sort().values[k - 1])

    def near(x: torch.Tensor, y: torch.Tensor, r: float) -> bool:
        return bool((x - y).norm() < r)

    real, fake = reference.double(), generated.double()
    three = [radius(i, real, 3) for i in range(len(real))]
    five = [radius(i, real, 5) for i in range(len(real))]
    fakes = [radius(i, fake, 3) for i in range(len(fake))]
    reals = list(zip(real, five, strict=True))
    return {
        "precision": [any(near(x, y, r) for y, r in zip(real, three, strict=True)) for x in fake],
        "recall": [any(near(y, x, r) for x, r in zip(fake, fakes, strict=True)) for y in real],
        "density": [sum(near(x, y, r) for y, r in reals) / 5 for x in fake],
        "coverage": [any(near(x, y, r) for x in fake) for y, r in reals],
    }


def means(values: ManifoldValues) -> dict[str, float]:
    names = ("precision", "recall", "density", "coverage")
    return {name: float(getattr(values, name).mean()) for name in names}


@pytest.mark.parametrize("rows_at_once", [7, 1024])
def test_values_are_those_of_the_definitions(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifold, "ROWS_AT_ONCE", rows_at_once)
    generated, reference = 0.8 * gaussian(40, 3, seed=0) + 0.6, gaussian(60, 3, seed=1)

    values = manifold_values(generated, reference)

    for name, expected in by_definition(generated, reference).items():
        assert getattr(values, name).tolist() == pytest.approx([float(v) for v in expected]), name
    assert 0.2 < values.precision.mean() < 1


def test_equal_sets_cover_each_other() -> None:
    images = gaussian(100, 8, seed=2)

    found = means(manifold_values(images, images))

    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    # Each image lies in its own ball and in those of the five on average that it is among.
    assert found["density"] == pytest.approx(1.0, abs=0.2)


def test_sets_far_apart_cover_nothing() -> None:
    images = gaussian(50, 4, seed=3)

    assert set(means(manifold_values(images + 100, images)).values()) == {0}


def test_a_collapse_to_one_mode_of_two_is_precise_and_covers_half() -> None:
    modes = torch.tensor([0.0, 50.0]).repeat_interleave(100)
    reference = gaussian(200, 4, seed=4) + modes[:, None]
    both = gaussian(200, 4, seed=5) + modes[:, None]
    collapsed = gaussian(200, 4, seed=6)

    whole = means(manifold_values(both, reference))
    half = means(manifold_values(collapsed, reference))

    assert half["precision"] > 0.9
    assert half["recall"] <= 0.5
    assert half["coverage"] <= 0.5
    assert whole["recall"] > 0.85
    assert whole["coverage"] > 0.85


def test_one_repeated_image_covers_only_its_neighbours() -> None:
    reference = gaussian(80, 6, seed=7)
    repeated = reference[:1].repeat(80, 1)

    found = means(manifold_values(repeated, reference))

    assert found["precision"] == 1
    assert found["recall"] == 0
    assert found["coverage"] < 0.3


def test_an_outlier_among_the_reference_images_raises_precision_but_hardly_density() -> None:
    reference = torch.cat([gaussian(99, 2, seed=8), torch.tensor([[40.0, 0.0]])])
    stray = gaussian(50, 2, seed=9) + torch.tensor([20.0, 0.0])

    found = means(manifold_values(stray, reference))

    assert found["precision"] == 1
    assert found["density"] == pytest.approx(1 / 5)


def test_equal_distributions_have_a_density_near_one() -> None:
    found = means(manifold_values(gaussian(800, 4, seed=10), gaussian(800, 4, seed=11)))

    assert found["density"] == pytest.approx(1.0, abs=0.1)


def test_too_few_images_have_no_neighbours() -> None:
    with pytest.raises(ValueError, match="no neighbour number 5"):
        manifold_values(gaussian(20, 2, seed=0), gaussian(5, 2, seed=1))
