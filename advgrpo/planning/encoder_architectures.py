"""Parameter counts of vision and text encoders, from their configurations."""

from dataclasses import dataclass
from typing import Self

from advgrpo.planning.architectures import Config, linear


def encoder_layer(width: int, hidden: int) -> int:
    """Return the parameters of a layer: two norms, attention with biases, two linear layers."""
    norms = 4 * width
    return norms + 4 * linear(width, width) + linear(width, hidden) + linear(hidden, width)


@dataclass(frozen=True)
class Vision:
    """A vision transformer: the vision part of `CLIPModel`, or a backbone."""

    width: int
    layers: int
    hidden: int
    patch_size: int
    pixels: int
    """Image size of its position embeddings."""

    def tokens(self, pixels: int) -> int:
        """Return the number of tokens of an image, including the class token."""
        return 1 + (pixels // self.patch_size) ** 2

    @property
    def layer_parameters(self) -> int:
        """Parameters of a layer that all architectures share."""
        return encoder_layer(self.width, self.hidden)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the patch embedding without a bias, the positions and the class token."""
        return (3 * self.patch_size**2 + 1 + self.tokens(self.pixels)) * self.width


@dataclass(frozen=True)
class ClipText:
    """`CLIPTextModelWithProjection`."""

    width: int
    layers: int
    hidden: int
    vocabulary: int
    positions: int
    projection: int

    @classmethod
    def read(cls, config: Config, projection: int | None = None) -> Self:
        """Read a configuration."""
        return cls(
            width=int(config.get("hidden_size", 512)),
            layers=int(config.get("num_hidden_layers", 12)),
            hidden=int(config.get("intermediate_size", 2048)),
            vocabulary=int(config.get("vocab_size", 49408)),
            positions=int(config.get("max_position_embeddings", 77)),
            # `CLIPModel` has one projection width for both parts and ignores that of its text part.
            projection=projection or int(config.get("projection_dim", 512)),
        )

    @property
    def parameters(self) -> int:
        """Parameters; the projection has no bias."""
        # The final layer norm adds two vectors.
        embeddings = (self.vocabulary + self.positions + 2) * self.width
        layers = self.layers * encoder_layer(self.width, self.hidden)
        return embeddings + layers + self.width * self.projection


@dataclass(frozen=True)
class Clip:
    """`CLIPModel`."""

    text: ClipText
    vision: Vision
    projection: int

    @classmethod
    def read(cls, config: Config) -> Self:
        """Read a configuration."""
        projection = int(config.get("projection_dim", 512))
        vision = config.get("vision_config") or {}
        return cls(
            text=ClipText.read(config.get("text_config") or {}, projection),
            vision=Vision(
                width=int(vision.get("hidden_size", 768)),
                layers=int(vision.get("num_hidden_layers", 12)),
                hidden=int(vision.get("intermediate_size", 3072)),
                patch_size=int(vision.get("patch_size", 32)),
                pixels=int(vision.get("image_size", 224)),
            ),
            projection=projection,
        )

    @property
    def parameters(self) -> int:
        """Parameters, including the temperature; the patch embedding has no bias."""
        vision = self.vision
        # CLIP has a layer norm before the layers too, unlike most vision transformers.
        images = vision.embedding_parameters + 4 * vision.width
        images += vision.layers * vision.layer_parameters + vision.width * self.projection
        return self.text.parameters + images + 1


@dataclass(frozen=True)
class T5Encoder:
    """`T5EncoderModel`."""

    width: int
    head_width: int
    heads: int
    hidden: int
    layers: int
    vocabulary: int
    buckets: int
    is_gated: bool

    @classmethod
    def read(cls, config: Config) -> Self:
        """Read a configuration."""
        return cls(
            width=int(config.get("d_model", 512)),
            head_width=int(config.get("d_kv", 64)),
            heads=int(config.get("num_heads", 8)),
            hidden=int(config.get("d_ff", 2048)),
            layers=int(config.get("num_layers", 6)),
            vocabulary=int(config.get("vocab_size", 32128)),
            buckets=int(config.get("relative_attention_num_buckets", 32)),
            is_gated="gated" in str(config.get("feed_forward_proj", "relu")),
        )

    @property
    def parameters(self) -> int:
        """Parameters; there are no biases, and only the first layer has position biases."""
        # T5 sets the width of a head independently: the heads together may differ from `d_model`.
        attention = 4 * self.width * self.heads * self.head_width
        # A gated layer multiplies two input projections.
        feed_forward = (3 if self.is_gated else 2) * self.width * self.hidden
        layers = self.layers * (attention + feed_forward + 2 * self.width)
        return (self.vocabulary + 1) * self.width + self.buckets * self.heads + layers
