"""Joint attention in plain matrix products, for pre-training on CPU only."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "batch token width"]


class PlainJointAttention:
    """The computation of diffusers' `JointAttnProcessor2_0` without the fused kernel.

    On CPU the fused kernel's bfloat16 backward takes half of a training step; this one is compiled
    into the rest.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tokens,
        encoder_hidden_states: Tokens,
        attention_mask: None = None,  # noqa: ARG002 - diffusers passes it
    ) -> tuple[Tokens, Tokens]:
        """Attend from image and text tokens to both."""
        batch, image_tokens, _ = hidden_states.shape

        def heads(tokens: Tensor) -> Float[Tensor, "batch head token width"]:
            return tokens.view(batch, -1, attn.heads, tokens.shape[-1] // attn.heads).transpose(
                1, 2
            )

        query = attn.norm_q(heads(attn.to_q(hidden_states)))
        key = attn.norm_k(heads(attn.to_k(hidden_states)))
        text_query = attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states)))
        text_key = attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states)))
        text_value = heads(attn.add_v_proj(encoder_hidden_states))
        query = torch.cat([query, text_query], dim=2)
        key = torch.cat([key, text_key], dim=2)
        value = torch.cat([heads(attn.to_v(hidden_states)), text_value], dim=2)
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        mixed = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        image, text = mixed[:, :image_tokens], mixed[:, image_tokens:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[0](image), text
