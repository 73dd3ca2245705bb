from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from advgrpo.config import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.scorers.aesthetic import Aesthetic

CPU = torch.device("cpu")
PROMPTS = ["a small red circle"] * 3


def published_network(width: int = 8, *, seed: int = 0) -> nn.Sequential:
    """The predictor as it was trained, dropout and all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(width, 32),
            nn.Dropout(0.2),
            nn.Linear(32, 16),
            nn.Dropout(0.2),
            nn.Linear(16, 8),
            nn.Dropout(0.1),
            nn.Linear(8, 4),
            nn.Linear(4, 1),
        ).eval()


def published_tensors(network: nn.Sequential) -> dict[str, torch.Tensor]:
    return {f"layers.{name}": tensor for name, tensor in network.state_dict().items()}


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Weights:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return Weights(location=str(folder))


def test_the_rating_is_the_networks_of_the_unit_embedding(
    clip_folder: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    network, clip = published_network(), Weights(location=str(clip_folder))

    scorer = Aesthetic(clip, saved(tmp_path / "head", published_tensors(network)), CPU)
    scores = scorer.score(images, PROMPTS)["score"]

    with torch.no_grad():
        expected = network(ClipBackbone(clip, CPU).image_features(images))[:, 0]
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert scores.unique().numel() == 3


def test_the_rating_ignores_the_prompt(
    clip_folder: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    head = saved(tmp_path / "head", published_tensors(published_network()))
    scorer = Aesthetic(Weights(location=str(clip_folder)), head, CPU)

    one, two = scorer.score(images, PROMPTS), scorer.score(images, ["a large blue ring"] * 3)

    assert torch.equal(one["score"], two["score"])


def test_a_predictor_for_another_clip_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    head = saved(tmp_path / "head", published_tensors(published_network(width=12)))

    with pytest.raises(WeightsError, match=r"embeddings of size 12.* have size 8") as refusal:
        Aesthetic(Weights(location=str(clip_folder)), head, CPU)

    assert "ViT-L/14" in refusal.value.repair


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.4.bias"), r"layers\.4\.bias is missing"),
        (lambda t: t.update({"layers.9.bias": torch.zeros(1)}), r"layers\.9\.bias is unknown"),
        (
            lambda t: t.update({"layers.2.weight": torch.zeros(16, 31)}),
            "has the wrong shape",
        ),
        (lambda t: t["layers.7.weight"].fill_(torch.nan), r"layers\.7 is not finite"),
    ],
)
def test_a_damaged_predictor_is_refused(
    change: object, message: str, clip_folder: Path, tmp_path: Path
) -> None:
    tensors = published_tensors(published_network())
    change(tensors)

    with pytest.raises(WeightsError, match=message):
        Aesthetic(Weights(location=str(clip_folder)), saved(tmp_path / "head", tensors), CPU)


def test_a_pickled_predictor_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    torch.save(published_tensors(published_network()), tmp_path / "head.pt")

    with pytest.raises(WeightsError, match="pickled weights only"):
        Aesthetic(Weights(location=str(clip_folder)), Weights(location=str(tmp_path)), CPU)
