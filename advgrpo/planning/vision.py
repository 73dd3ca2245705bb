"""Parameter counts of the vision backbones of discriminators and distances."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt

from advgrpo.planning.architectures import Config, linear
from advgrpo.planning.encoder_architectures import Vision, encoder_layer


@dataclass(frozen=True)
class VisionBackbone(Vision):
    """A backbone of `advgrpo.models.backbones.vision`."""

    parameters: int
    """All parameters."""

    prefix: int
    """Tokens before the patches: the class token and the registers."""

    def tokens(self, pixels: int) -> int:
        """Return the number of tokens of an image."""
        return self.prefix + self.patches(pixels)

    def patches(self, pixels: int) -> int:
        """Return the number of patches of an image."""
        return (pixels // self.patch_size) ** 2


def read_dino(config: Config) -> VisionBackbone:
    """Read `Dinov2Model`."""
    return _dino(config, usual_patch_size=14, registers=0)


def _with_registers(config: Config) -> VisionBackbone:
    """Read `Dinov2WithRegistersModel`."""
    registers = int(config.get("num_register_tokens", 4))
    return _dino(config, usual_patch_size=16, registers=registers)


def _dino(config: Config, *, usual_patch_size: int, registers: int) -> VisionBackbone:
    width = int(config.get("hidden_size", 768))
    vision = Vision(
        width=width,
        layers=int(config.get("num_hidden_layers", 12)),
        # DINOv2 gives the ratio, not the width of the hidden layer.
        hidden=width * int(config.get("mlp_ratio", 4)),
        patch_size=int(config.get("patch_size", usual_patch_size)),
        pixels=int(config.get("image_size", 224)),
    )
    # Layers have LayerScale, patches have a bias, and there is a mask token.
    layers = vision.layers * (vision.layer_parameters + 2 * width)
    # Mask token and patch bias, then the registers; the final norm is at the end.
    parameters = vision.embedding_parameters + (2 + registers) * width + layers + 2 * width
    return VisionBackbone(**vars(vision), parameters=parameters, prefix=1 + registers)


def _dino3(config: Config) -> VisionBackbone:
    """Read `DINOv3ViTModel`: positions are rotations, and keys have no bias."""
    width = int(config.get("hidden_size", 384))
    hidden = int(config.get("intermediate_size", 1536))
    registers, patch = int(config.get("num_register_tokens", 0)), int(config.get("patch_size", 16))
    # The defaults of transformers, where each projection has a key of its own.
    biased = {"query": True, "key": False, "value": True, "proj": True}
    biases = sum(bool(config.get(f"{part}_bias", usual)) for part, usual in biased.items())
    # A gated MLP has two input projections.
    matrices = 3 if config.get("use_gated_mlp") else 2
    mlp_biases = (matrices - 1) * hidden + width if config.get("mlp_bias", True) else 0
    # Two norms, and LayerScale of two residuals.
    layer = 6 * width + 4 * width**2 + biases * width + matrices * width * hidden + mlp_biases
    layers = int(config.get("num_hidden_layers", 12))
    # Class and mask token, which exists even if nothing is masked. No position table: see above.
    embeddings = (2 + registers) * width + linear(3 * patch**2, width)
    return VisionBackbone(
        width=width,
        layers=layers,
        hidden=hidden,
        patch_size=patch,
        pixels=int(config.get("image_size", 224)),
        parameters=embeddings + layers * layer + 2 * width,
        prefix=1 + registers,
    )


def _siglip(config: Config) -> VisionBackbone:
    """Read `SiglipVisionModel`, or the vision half of `SiglipModel`."""
    vision = config.get("vision_config") or config
    patch, pixels = int(vision.get("patch_size", 16)), int(vision.get("image_size", 224))
    # SigLIP has no class token, so there are as many positions as patches.
    return _of_siglip(vision, patch=patch, positions=(pixels // patch) ** 2)


def _siglip2(config: Config) -> VisionBackbone:
    """Read `Siglip2VisionModel`, or the vision half of `Siglip2Model`."""
    vision = config.get("vision_config") or config
    patch = int(vision.get("patch_size", 16))
    # The position table of SigLIP 2 is interpolated to each image and does not depend on a size.
    return _of_siglip(vision, patch=patch, positions=int(vision.get("num_patches", 256)))


def _of_siglip(vision: Config, *, patch: int, positions: int) -> VisionBackbone:
    width = int(vision.get("hidden_size", 768))
    hidden = int(vision.get("intermediate_size", 3072))
    layers = int(vision.get("num_hidden_layers", 12))
    embeddings = linear(3 * patch**2, width) + positions * width
    # The attention pooling is a layer with one norm, and a learned query.
    pooling = encoder_layer(width, hidden) - 2 * width + width
    head = pooling if vision.get("vision_use_head", True) else 0
    return VisionBackbone(
        width=width,
        layers=layers,
        hidden=hidden,
        patch_size=patch,
        pixels=isqrt(positions) * patch,
        parameters=embeddings + layers * encoder_layer(width, hidden) + 2 * width + head,
        prefix=0,
    )


_READERS: Mapping[str, Callable[[Config], VisionBackbone]] = {
    "dinov2": read_dino,
    "dinov2_with_registers": _with_registers,
    "dinov3_vit": _dino3,
    "siglip": _siglip,
    "siglip_vision_model": _siglip,
    "siglip2": _siglip2,
    "siglip2_vision_model": _siglip2,
}


def read_vision(config: Config) -> VisionBackbone | None:
    """Read a vision backbone by its `model_type`; return None if it is not supported."""
    reader = _READERS.get(str(config.get("model_type", "dinov2")))
    return None if reader is None else reader(config)
