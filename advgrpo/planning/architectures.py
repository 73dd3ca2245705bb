"""Parameter counts of models, from their configurations.

Each class reads a `config.json` of diffusers or transformers; missing keys have the library's
defaults. tests/planning compares the counts with those of the libraries' own classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

Config = Mapping[str, Any]


def linear(inputs: int, outputs: int) -> int:
    """Return the parameters of a linear layer with a bias."""
    return inputs * outputs + outputs


@dataclass(frozen=True)
class JointTransformer:
    """`SD3Transformer2DModel`."""

    layers: int
    heads: int
    head_width: int
    patch_size: int
    in_channels: int
    out_channels: int
    text_width: int
    pooled_width: int
    dual_layers: int
    """Number of layers with a second attention over the image tokens alone."""

    has_qk_norm: bool
    position_side: int
    """Side of the grid of position embeddings, a buffer that is loaded too."""

    @classmethod
    def read(cls, config: Config) -> Self:
        """Read a configuration."""
        channels = int(config.get("in_channels", 16))
        return cls(
            layers=int(config.get("num_layers", 18)),
            heads=int(config.get("num_attention_heads", 18)),
            head_width=int(config.get("attention_head_dim", 64)),
            patch_size=int(config.get("patch_size", 2)),
            in_channels=channels,
            # May be null, which diffusers replaces by the input channels.
            out_channels=int(config.get("out_channels") or channels),
            text_width=int(config.get("joint_attention_dim", 4096)),
            pooled_width=int(config.get("pooled_projection_dim", 2048)),
            dual_layers=len(config.get("dual_attention_layers") or ()),
            has_qk_norm=bool(config.get("qk_norm")),
            position_side=int(config.get("pos_embed_max_size", 96)),
        )

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_width

    @property
    def parameters(self) -> int:
        """Parameters; the last layer has no output for the text stream."""
        width, square = self.width, linear(self.width, self.width)
        # RMS norms of queries and keys, one weight per channel of a head.
        norms = 2 * self.head_width if self.has_qk_norm else 0
        feed_forward = linear(width, 4 * width) + linear(4 * width, width)
        attention = 8 * square + 2 * norms
        # Adaptive layer norm: six modulation vectors for each of the two streams.
        layer = 12 * square + attention + 2 * feed_forward
        # The second attention has its own three modulation vectors on top of the six.
        dual = 3 * square + 4 * square + norms
        # The last layer discards the text stream.
        missing_in_last = 4 * square + square + feed_forward
        patch = self.patch_size**2
        outer = (
            linear(self.in_channels * patch, width)
            # diffusers embeds a timestep in 256 sinusoidal channels.
            + linear(256, width)
            + linear(self.pooled_width, width)
            + 2 * square
            + linear(self.text_width, width)
            + 2 * square
            + linear(width, patch * self.out_channels)
        )
        return self.layers * layer + self.dual_layers * dual - missing_in_last + outer

    @property
    def position_values(self) -> int:
        """Values of the position embeddings."""
        return self.position_side**2 * self.width

    def adapter_parameters(self, rank: int, target_modules: tuple[str, ...]) -> int | None:
        """Return the parameters of a LoRA adapter on the first attention of each layer.

        Args:
            rank: Rank of each update.
            target_modules: Adapted modules.

        Returns:
            None if the count is unknown for one of the modules.
        """
        # peft matches the end of a name after a dot: `attn.to_q` does not match `attn2.to_q`, the
        # second attention. Other names could match modules of other shapes.
        joint = {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.to_add_out"}
        joint |= {f"attn.add_{part}_proj" for part in "qkv"}
        if not set(target_modules) <= joint:
            return None
        # The last layer discards the text stream, so its `to_add_out` does not exist.
        modules = self.layers * len(target_modules) - ("attn.to_add_out" in target_modules)
        return modules * 2 * rank * self.width


@dataclass(frozen=True)
class Autoencoder:
    """`AutoencoderKL` with residual blocks and mid-block attention."""

    channels: tuple[int, ...]
    blocks: int
    latent_channels: int
    has_quant: bool
    has_post_quant: bool
    has_attention: bool

    @classmethod
    def read(cls, config: Config) -> Self:
        """Read a configuration."""
        return cls(
            channels=tuple(config.get("block_out_channels", (64,))),
            blocks=int(config.get("layers_per_block", 1)),
            latent_channels=int(config.get("latent_channels", 4)),
            has_quant=bool(config.get("use_quant_conv", True)),
            has_post_quant=bool(config.get("use_post_quant_conv", True)),
            has_attention=bool(config.get("mid_block_add_attention", True)),
        )

    @property
    def parameters(self) -> int:
        """Parameters of encoder and decoder."""
        first, last, latent = self.channels[0], self.channels[-1], self.latent_channels
        attention = 2 * last + 4 * linear(last, last)
        middle = 2 * _residual(last, last) + (attention if self.has_attention else 0)
        # A level of the decoder has one residual block more than a level of the encoder.
        down = _levels((first, *self.channels), self.blocks)
        up = _levels((last, *reversed(self.channels)), self.blocks + 1)
        # A 3 x 3 convolution has the parameters of a linear layer over nine pixels. The encoder
        # predicts a mean and a log variance.
        encoder = linear(27, first) + down + middle + 2 * last + linear(9 * last, 2 * latent)
        decoder = linear(9 * latent, last) + up + middle + 2 * first + linear(9 * first, 3)
        quant = linear(2 * latent, 2 * latent) if self.has_quant else 0
        post_quant = linear(latent, latent) if self.has_post_quant else 0
        return encoder + decoder + quant + post_quant

    @property
    def stride(self) -> int:
        """Pixels per latent along a side."""
        # The last level does not downsample.
        return int(2 ** (len(self.channels) - 1))

    @property
    def widest_at_full_resolution(self) -> int:
        """Channels of the decoder's widest feature map at the image's resolution."""
        # The last decoder level receives the upsampled features of the level below, which has more
        # channels than its own output.
        return self.channels[min(1, len(self.channels) - 1)]


def _levels(channels: tuple[int, ...], blocks: int) -> int:
    """Return the parameters of the residual blocks and the resampling convolutions."""
    # The first entry is the input of the first level, and the last level is not resized.
    resizing = sum(linear(9 * out, out) for out in channels[1:-1])
    return resizing + sum(
        _residual(before, out) + (blocks - 1) * _residual(out, out)
        for before, out in pairwise(channels)
    )


def _residual(inputs: int, outputs: int) -> int:
    shortcut = linear(inputs, outputs) if inputs != outputs else 0
    convolutions = linear(9 * inputs, outputs) + linear(9 * outputs, outputs)
    return 2 * inputs + 2 * outputs + convolutions + shortcut


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
