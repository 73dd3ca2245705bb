"""Images from latents and latents from images, by the VAE of a pipeline."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.policy import PolicyConfig


class LatentCodec:
    """Decodes latents and encodes images by a frozen VAE.

    `_decode` and `_encode` are those of an `AutoencoderKL`; a family with another VAE overrides
    both.
    """

    config: PolicyConfig
    """Settings with the number of images at once."""

    device: torch.device
    vae: Any

    def _decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents into RGB in [-1, 1]."""
        # `shift_factor` is None in VAEs from before SD3.
        scaling, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor
        scaled = (latents / scaling + (shift or 0.0)).to(self.vae.dtype)
        images: Tensor = self.vae.decode(scaled, return_dict=False)[0]
        return images

    def _encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Encode RGB in [-1, 1] into the mode of the latents' distribution."""
        scaling, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor
        (posterior,) = self.vae.encode(images.to(self.vae.dtype), return_dict=False)
        latents: Tensor = (posterior.mode().float() - (shift or 0.0)) * scaling
        return latents

    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents into RGB in [0, 1], in steps of 1/255.

        Reference images come from 8-bit files; by unrounded values alone a discriminator could
        recognize generated images.
        """
        # In parts to limit memory: the largest feature maps of the VAE have the size of the image.
        parts = latents.split(self.config.decode_batch_size or len(latents))
        # No gradient passes the decoder: rewards reach the policy through advantages alone.
        with torch.no_grad():
            images = torch.cat([self._decode(part).float() for part in parts])
        return ((images / 2 + 0.5).clamp(0, 1) * 255).round() / 255

    def encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Encode RGB in [0, 1], on any device, into float32 latents without noise.

        They are the mode of the VAE's posterior, so an image has the same latents each time.
        """
        parts = images.split(self.config.decode_batch_size or len(images))
        with torch.no_grad():
            latents = [self._encode(2 * part.to(self.device).float() - 1) for part in parts]
        return torch.cat(latents).float()
