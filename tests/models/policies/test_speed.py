import torch

from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.speed import PolicySpeed


class OneProduct:
    """A policy whose pass is one matrix product."""

    device, latent_shape = torch.device("cpu"), (4, 2, 2)
    sigmas = base_policy = as_in_update = NotImplemented

    def embed(self, prompts: list[str]) -> PromptEmbeddings:
        return PromptEmbeddings(({},) * len(prompts))

    def velocity(self, latents: torch.Tensor, *_: object, guidance_scale: None) -> torch.Tensor:
        assert guidance_scale is None
        return (latents.flatten(1) @ torch.ones(16, 16)).view_as(latents)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        # Of a size that runs the fused kernel.
        heads = latents.new_zeros(1, 4, 38, 32)
        attended = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return attended @ torch.ones(32, 3)


def test_flops_of_products_and_of_attention_are_counted() -> None:
    speed = PolicySpeed(OneProduct(), "a prompt", torch.float32)
    assert speed.pass_flops == 2 * 16 * 16
    # Scores and their product with the values, of 4 heads; then one product.
    assert speed.decode_flops == 4 * 2 * (2 * 38 * 38 * 32) + 4 * 2 * (38 * 32 * 3)
    assert speed.matmul_rate > 0
