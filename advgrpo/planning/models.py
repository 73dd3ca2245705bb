"""Models of a run, from their configurations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from advgrpo.config.base import Weights
from advgrpo.config.discriminator import DinoDiscriminatorConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.scorers.union import ScorerConfig
from advgrpo.config.tasks import TrainingSettings
from advgrpo.planning.architectures import Autoencoder, Config, JointTransformer
from advgrpo.planning.counts import parameters
from advgrpo.planning.encoder_architectures import Clip, ClipText, T5Encoder
from advgrpo.planning.reading import configuration
from advgrpo.planning.vision import VisionBackbone, read_dino, read_vision

M = TypeVar("M")

_USUAL_AUTOENCODER = "AutoencoderKL"
_USUAL_TRANSFORMER = "SD3Transformer2DModel"
_TRANSFORMERS: Mapping[str, Callable[[Config], JointTransformer]] = {
    _USUAL_TRANSFORMER: JointTransformer.read,
}
"""Class of diffusers, as a transformer's `config.json` names it -> reader."""


@dataclass(frozen=True)
class Models:
    """Models of a run; None where the configuration is unknown."""

    transformer: JointTransformer | None
    vae: Autoencoder | None
    transformer_parameters: int | None
    vae_parameters: int | None
    text_encoder_parameters: int | None
    """Sum over the text encoders of the policy."""

    backbone: VisionBackbone | Clip | None
    """Backbone of the discriminator."""

    prompt_encoder: ClipText | None
    """Text encoder of the discriminator, if it is conditioned on prompts."""

    scorer_parameters: dict[str, int | None]
    """Frozen scorers of evaluation and reward, which are loaded together with the policy."""


def models_of(run: RunConfig | TrainingSettings) -> Models:
    """Read the configurations of a run's models; never loads weights."""
    weights, discriminator = run.policy.weights, run.discriminator
    backbone: VisionBackbone | Clip | None
    # The type of the discriminator decides: in `PUBLISHED` only some models have a `model_type`.
    if isinstance(discriminator, DinoDiscriminatorConfig):
        backbone = _read(discriminator.weights, "", read_vision)
    else:
        backbone = _read(discriminator.weights, "", Clip.read)
    transformer = _read(weights, "transformer", _transformer)
    vae = _read(weights, "vae", _autoencoder)
    return Models(
        transformer=transformer,
        vae=vae,
        transformer_parameters=(
            transformer.parameters if transformer else parameters(weights, "transformer")
        ),
        vae_parameters=vae.parameters if vae else parameters(weights, "vae"),
        text_encoder_parameters=_text_encoders(weights),
        backbone=backbone,
        prompt_encoder=_prompt_encoder(run),
        scorer_parameters=_scorers(run),
    )


def _read(weights: Weights, part: str, read: Callable[[Config], M | None]) -> M | None:
    config = configuration(weights, part)
    return None if config is None else read(config)


def _transformer(config: Config) -> JointTransformer | None:
    reader = _TRANSFORMERS.get(str(config.get("_class_name", _USUAL_TRANSFORMER)))
    # An unknown class of diffusers may have other keys: no estimate is better than a wrong one.
    return None if reader is None else reader(config)


def _autoencoder(config: Config) -> Autoencoder | None:
    usual = config.get("_class_name", _USUAL_AUTOENCODER) == _USUAL_AUTOENCODER
    return Autoencoder.read(config) if usual else None


def _text_encoders(weights: Weights) -> int | None:
    clips = [_read(weights, name, ClipText.read) for name in ("text_encoder", "text_encoder_2")]
    t5 = _read(weights, "text_encoder_3", T5Encoder.read)
    found = [model.parameters for model in (*clips, t5) if model is not None]
    # A partial sum would pass for the whole. Other families have other encoders in these folders.
    if len(found) == 3:
        return sum(found)
    return parameters(weights, "text_encoder", "text_encoder_2")


def _prompt_encoder(run: RunConfig | TrainingSettings) -> ClipText | None:
    discriminator = run.discriminator
    if not isinstance(discriminator, DinoDiscriminatorConfig):
        return None
    if discriminator.prompt_conditioning is None:
        return None
    return _read(discriminator.prompt_conditioning.text_encoder, "", ClipText.read)


def _scorers(run: RunConfig | TrainingSettings) -> dict[str, int | None]:
    # `TrainingSettings` has the settings of the evaluation that it reads at its top level.
    measured = run.evaluation if isinstance(run, RunConfig) else run
    distance = _read(measured.distance.weights, "", read_dino)
    found = {"distance": None if distance is None else distance.parameters}
    found |= {f"scorer {scorer.metric_prefix}": _scorer(scorer) for scorer in measured.scorers}
    rewarding = run.training.reward.scorers.values()
    # A scorer of both evaluation and reward is loaded twice, and counted twice.
    found |= {f"reward {scorer.metric_prefix}": _scorer(scorer) for scorer in rewarding}
    return found


def _scorer(scorer: ScorerConfig) -> int | None:
    match scorer.backbone:
        case "dino":
            dino = _read(scorer.all_weights[0], "", read_dino)
            return None if dino is None else dino.parameters
        case "clip":
            clip = _read(scorer.all_weights[0], "", Clip.read)
            return None if clip is None else clip.parameters
        case "unknown":
            return None
        case None:
            # OCR and the pocket judge are small; an external judge has its own memory.
            return 0
