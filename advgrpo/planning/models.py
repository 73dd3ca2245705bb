"""Models of a run, built from their configurations without weights."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import diffusers
import transformers
from transformers import CLIPModel, CLIPTextModelWithProjection, Dinov2Model

from advgrpo.config.base import Weights
from advgrpo.config.discriminator import DinoDiscriminatorConfig
from advgrpo.config.policy import AnyPolicyConfig, PolicyConfig
from advgrpo.config.reference_images import DiffusersSource
from advgrpo.config.run import RunConfig
from advgrpo.config.scorers.union import ScorerConfig
from advgrpo.config.tasks import TrainingSettings
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.vision import BACKBONES
from advgrpo.models.meta import META, component_names, configuration, count, shared
from advgrpo.models.policies.loading import policy_class
from advgrpo.models.policies.transformer_policy import TransformerPolicy
from advgrpo.planning.parts import Models, Part, weights_part
from advgrpo.storage.locations import scheme

T = TypeVar("T")


def models_of(run: RunConfig | TrainingSettings) -> Models:
    """Build the models of a run; never loads weights."""
    discriminator = run.discriminator
    prompt_encoder = None
    backbone: Callable[[Weights], Any] = _clip
    if isinstance(discriminator, DinoDiscriminatorConfig):
        prompt_encoder, backbone = _prompt_encoder(discriminator), _vision
    return Models(
        policy=known(lambda: build_policy(run.policy)),
        text_encoder_parameters=known(lambda: _text_encoders(run.policy)),
        backbone=known(lambda: backbone(discriminator.weights)),
        prompt_encoder=prompt_encoder,
        scorer_parameters=_scorers(run),
    )


def build_policy(config: AnyPolicyConfig) -> TransformerPolicy:
    """Build a policy on the meta device.

    Raises:
        WeightsError: If a configuration cannot be read.
    """
    # Activations are counted for all ways of guidance and without gradient checkpointing; what is
    # recomputed follows from them. An initial adapter has the shape of the settings, and the others
    # change neither transformer nor VAE.
    adapter = config.adapter.model_copy(update={"initial_adapter": None})
    bare = config.model_copy(
        update={
            "gradient_checkpointing": False,
            "guidance": "one_batch",
            "adapter": adapter,
            "decode_batch_size": None,
            "quantization": "none",
            "text_dtype": "float32",
            "text_device": "cpu",
        }
    )
    # Published shapes do not change; those in a folder may, while this process runs.
    is_published = scheme(config.weights.location) == "hub"
    return _build_policy(bare) if is_published else _build_policy.__wrapped__(bare)


@lru_cache(maxsize=16)
def _build_policy(config: PolicyConfig) -> TransformerPolicy:
    family: Any = policy_class(config)
    policy: TransformerPolicy = family(config, META)
    return policy


def pipeline_parameters(source: DiffusersSource) -> int:
    """Count the parameters of all models of a pipeline.

    Raises:
        WeightsError: If a configuration cannot be read.
    """
    total = 0
    for name in component_names(source.weights):
        config = configuration(source.weights, name)
        library: Any = diffusers if "_class_name" in config else transformers
        kind = config.get("_class_name") or config["architectures"][0]
        total += count(getattr(library, kind), config)
    return total


def generation_memory(run: RunConfig) -> Part | None:
    """Return the memory of a process that generates reference images, on its GPU if it has one."""
    source = run.reference_images.source
    if not isinstance(source, DiffusersSource):
        return None
    count = known(lambda: pipeline_parameters(source))
    return weights_part("pipeline of the reference images", count, source.dtype)


def known(make: Callable[[], T]) -> T | str:
    """Build something, or return why it cannot be built."""
    try:
        return make()
    # Not an error of the plan: loading the model reports a missing or damaged file.
    except WeightsError as error:
        return f"{error.message}; {error.repair}"


def _text_encoders(config: PolicyConfig) -> int:
    parts = policy_class(config).parts
    assert parts is not None, config.type
    return parts.count_text_encoders(config)


def _vision(weights: Weights) -> Any:  # noqa: ANN401 - one of several classes
    config = configuration(weights)
    kind = config.get("model_type", "dinov2")
    for backbone in BACKBONES:
        if kind in backbone.model_types:
            # SigLIP is published with its text half.
            return shared(backbone.model_class, config.get("vision_config") or config)
    raise WeightsError(
        f"no discriminator supports a backbone of type {kind!r}",
        repair="set discriminator.weights to another backbone",
    )


def _clip(weights: Weights) -> CLIPModel:
    model: CLIPModel = shared(CLIPModel, configuration(weights))
    return model


def _prompt_encoder(config: DinoDiscriminatorConfig) -> Any:  # noqa: ANN401 - a model, or a reason
    if (conditioning := config.prompt_conditioning) is None:
        return None
    weights = conditioning.text_encoder
    return known(lambda: shared(CLIPTextModelWithProjection, configuration(weights)))


def _scorers(run: RunConfig | TrainingSettings) -> dict[str, int | str]:
    # `TrainingSettings` has the settings of the evaluation that it reads at its top level.
    measured = run.evaluation if isinstance(run, RunConfig) else run
    found = {"distance": known(lambda: _dino(measured.distance.weights))}
    found |= {f"scorer {scorer.metric_prefix}": _scorer(scorer) for scorer in measured.scorers}
    rewarding = run.training.reward.scorers.values()
    # A scorer of both evaluation and reward is loaded twice, and counted twice.
    found |= {f"reward {scorer.metric_prefix}": _scorer(scorer) for scorer in rewarding}
    return found


def _dino(weights: Weights) -> int:
    return count(Dinov2Model, configuration(weights))


def _scorer(scorer: ScorerConfig) -> int | str:
    match scorer.backbone:
        case "dino":
            return known(lambda: _dino(scorer.all_weights[0]))
        case "clip":
            return known(lambda: count(CLIPModel, configuration(scorer.all_weights[0])))
        case "unknown":
            return "the settings do not name its architecture"
        case None:
            # OCR and the pocket judge are small; an external judge has its own memory.
            return 0
