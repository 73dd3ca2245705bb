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
            # If null, diffusers takes the input channels; if missing, its default.
            out_channels=int(config.get("out_channels", 16) or channels),
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
