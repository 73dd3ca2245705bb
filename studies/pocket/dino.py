"""Pre-training of the vision backbone on masked patches, agreement of two views, and attributes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Dinov2Model

from advgrpo.pocket.captions import ATTRIBUTES, captions_of
from advgrpo.pocket.models import build_dino, seeded
from advgrpo.pocket.pictures import PictureNoise, render_labels
from studies.pocket.batches import draw_batch, draw_styles
from studies.pocket.judge import round_trip
from studies.pocket.loop import OptimizationSettings, minimize
from studies.pocket.text import attribute_cross_entropy

SETTINGS = OptimizationSettings(steps=2000, batch_size=64, learning_rate=1.5e-3, ema_decay=0.99)
MASKED_SHARE = 0.4
TEMPERATURE = 0.1
ROUND_TRIP_SHARE = 0.3
POOLED_GROUPS = 1024
GROUP_SIZE = 16
IMAGE_MEAN = (0.42, 0.40, 0.40)
IMAGE_STD = (0.30, 0.28, 0.30)


def normalize(images: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, "batch 3 32 32"]:
    """Normalize pictures with the mean and deviation of the backbone's preprocessor settings."""
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return (images - mean[:, None, None]) / std[:, None, None]


class _Student(nn.Module):
    def __init__(self, backbone: Dinov2Model) -> None:
        super().__init__()
        width, patch = backbone.config.hidden_size, backbone.config.patch_size
        self.backbone = backbone
        self.projector = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, 64))
        self.attributes = nn.Linear(width, sum(len(values) for values in ATTRIBUTES.values()))
        self.to_pixels = nn.Linear(width, 3 * patch * patch)


def train_dino(vae: AutoencoderKL, seed: int, scale: float) -> tuple[Dinov2Model, dict[str, float]]:
    """Train the backbone on pictures of every style.

    Two views show the same caption in the same style with different noise. Some are round trips
    through the autoencoder, so that features become invariant to its artifacts.

    Args:
        vae: The trained autoencoder.
        seed: Determines weights and data.
        scale: Multiplies the number of steps.

    Returns:
        The backbone and how well linear probes read attributes and style from its CLS token.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = SETTINGS.scaled(scale)
    backbone = build_dino(seed)
    patch = backbone.config.patch_size
    with seeded(seed):
        student = _Student(backbone)
    backbone.set_attn_implementation("eager")
    views, labels = _draw_views(vae, max(32, round(POOLED_GROUPS * min(scale, 1.0))), generator)
    groups = settings.batch_size // GROUP_SIZE

    def loss() -> Tensor:
        size = settings.batch_size
        rows = torch.randint(0, views.shape[1], (groups,), generator=generator)
        inputs = normalize(views[:, rows].flatten(0, 2))
        masked = torch.rand(2 * size, 64, generator=generator) < MASKED_SHARE
        masked[:size] = False
        with torch.autocast("cpu", torch.bfloat16):
            tokens = backbone(inputs, bool_masked_pos=masked).last_hidden_state
            directions = nn.functional.normalize(student.projector(tokens[:, 0]).float(), dim=1)
            readings: Tensor = student.attributes(tokens[:, 0]).float()
            guesses: Tensor = student.to_pixels(tokens[size:, 1:]).float()
        pixels: Tensor = nn.functional.unfold(inputs[size:], patch, stride=patch).transpose(1, 2)
        regression = (guesses - pixels).square().mean(2)[masked[size:]].mean()
        similarity = directions[:size] @ directions[size:].T / TEMPERATURE
        target = torch.arange(size)
        agreement = nn.functional.cross_entropy(similarity, target)
        agreement = agreement + nn.functional.cross_entropy(similarity.T, target)
        spelled = attribute_cross_entropy(readings, labels[rows].flatten(0, 1).repeat(2, 1))
        return 0.5 * agreement + regression + spelled

    trained = minimize(student, loss, settings, name="dino").backbone
    trained.set_attn_implementation("sdpa")
    return trained, _probe(trained, generator)


def _draw_views(
    vae: AutoencoderKL, groups: int, generator: torch.Generator
) -> tuple[Float[Tensor, "2 group member 3 32 32"], Int[Tensor, "group member 5"]]:
    """Draw two views of each picture in groups of one colour and background, and their labels.

    Without such groups colour and background alone distinguish the pictures of a batch, and
    features of shape and position are not learned. Half of the groups also share their style, and
    the other half size and position.
    """
    count = groups * GROUP_SIZE
    table = torch.tensor([caption.labels for caption in captions_of("train")])
    labels = table[torch.randint(0, len(table), (count,), generator=generator)]
    labels = labels.view(groups, GROUP_SIZE, 5)
    labels[:, :, [1, 3]] = labels[:, :1, [1, 3]]
    style = draw_styles("spread", count, generator).view(groups, GROUP_SIZE)
    style[::2] = style[::2, :1]
    labels[1::2, :, [0, 4]] = labels[1::2, :1, [0, 4]]
    views: list[Tensor] = []
    for _ in range(2):
        noise = PictureNoise.draw(count, generator)
        pictures = render_labels(labels.flatten(0, 1), style.flatten(), noise)
        again = torch.rand(count, generator=generator) < ROUND_TRIP_SHARE
        pictures[again] = round_trip(vae, pictures[again])
        views.append(pictures.view(groups, GROUP_SIZE, *pictures.shape[1:]))
    return torch.stack(views), labels


@torch.no_grad()
def cls_features(
    backbone: Dinov2Model, images: Float[Tensor, "batch 3 32 32"]
) -> Float[Tensor, "batch width"]:
    """Encode pictures to their normalized CLS tokens."""
    pieces = [backbone(normalize(p)).last_hidden_state[:, 0] for p in images.split(256)]
    return torch.cat(pieces)


@torch.no_grad()
def _probe(backbone: Dinov2Model, generator: torch.Generator) -> dict[str, float]:
    """Fit ridge regressions on training captions and evaluate them on held-out ones."""
    train = draw_batch("train", "uniform", 4096, generator)
    test = draw_batch("test", "uniform", 1024, generator)
    x, y = (cls_features(backbone, batch.pictures) for batch in (train, test))
    x, y = (nn.functional.pad(part, (0, 1), value=1.0) for part in (x, y))
    inverse = torch.linalg.inv(x.T @ x + 1e-2 * torch.eye(x.shape[1])) @ x.T
    metrics: dict[str, float] = {}
    for column, (attribute, values) in enumerate(ATTRIBUTES.items()):
        one_hot = nn.functional.one_hot(train.labels[:, column], len(values)).float()
        guess = (y @ (inverse @ one_hot)).argmax(1)
        metrics[f"probe_{attribute}_accuracy"] = (
            (guess == test.labels[:, column]).float().mean().item()
        )
    style = y @ (inverse @ train.style[:, None])
    residual = (style[:, 0] - test.style).square().mean() / test.style.var()
    return metrics | {"probe_style_r_squared": 1.0 - residual.item()}
