"""A plain loop with the structure of the released code, for comparison.

Nothing is cached: prompts are encoded for each batch on the training device, latents are stored in
bfloat16, images are decoded in float32 and pass through PIL pictures before the reward, reference
images are read and encoded each time, and a rollout gives either one step of the discriminator or
the policy's updates: nine in ten go to the discriminator.
Steps, guidance, microbatch, precision of the transformer, gradient checkpointing, adapter and the
mathematics are those of the state that it is compared with.

Source:
    The schedule and the order of work of Adv-GRPO's public code, arXiv:2511.20256.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from advgrpo.algorithm import sde
from advgrpo.algorithm.advantage import group_advantages
from advgrpo.algorithm.discriminator_loss import hinge_loss
from advgrpo.algorithm.policy_loss import clipped_policy_loss
from advgrpo.config import Weights
from advgrpo.config.algorithms import GrpoConfig
from advgrpo.config.discriminator import DinoDiscriminatorConfig
from advgrpo.data.images import decode_image, from_pil, to_pil
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.discriminators.dino import DinoHead
from advgrpo.models.policies.adapter import add_adapter, trainable_parameters
from advgrpo.models.policies.pipeline_parts import DTYPES
from studies.bench.world import World

DISCRIMINATOR_ROLLOUTS = 9
_CLASS_WEIGHT, _PATCH_WEIGHT = 0.7, 0.3
_PATCH_LOSS_WEIGHT = 0.3


class ComparisonLoop:
    """The comparison loop, with its own models.

    Args:
        world: Gives models, prompts, reference images and settings.
    """

    def __init__(self, world: World) -> None:
        self._world, self._training = world, world.config.training
        # The released code has no other.
        assert isinstance(self._training.algorithm, GrpoConfig)
        self._algorithm = self._training.algorithm
        self._device = world.state.process_group.device
        self._half = DTYPES[world.config.policy.forward_dtype]
        self._pipeline = world.pipeline().to(self._device)
        for name, part in self._pipeline.components.items():
            if isinstance(part, nn.Module):
                part.to(torch.float32 if name == "vae" else self._half).requires_grad_(False)
        self._transformer = self._pipeline.transformer
        policy = world.config.policy
        add_adapter(self._transformer, policy.adapter, cast=policy.adapter_dtype == "auto")
        if policy.gradient_checkpointing is True:
            self._transformer.enable_gradient_checkpointing()
        self._parameters = list(trainable_parameters(self._transformer).values())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1e-6)
        discriminator = world.config.discriminator
        assert isinstance(discriminator, DinoDiscriminatorConfig)
        self._backbone = DinoBackbone(
            Weights(location=str(world.dino)),
            resolution_pixels=discriminator.resolution_pixels,
            device=self._device,
        )
        self._head = DinoHead(self._backbone.width, discriminator.hidden_width, 0, seed=0)
        self._head.to(self._device)
        self._head_optimizer = torch.optim.Adam(self._head.parameters(), lr=1e-6)
        self._sigmas = world.state.policy.sigmas(self._training.sampling.num_inference_steps)

    @property
    def images(self) -> int:
        """Images of a rollout."""
        rollout = self._training.rollout
        return rollout.prompts_per_update * rollout.group_size

    def trained(self) -> tuple[Tensor, Tensor]:
        """Copy what the discriminator and the policy have learned, each as one row."""
        head, adapter = (
            nn.utils.parameters_to_vector([value.detach() for value in values]).clone()
            for values in (self._head.parameters(), self._parameters)
        )
        return head, adapter

    def train_discriminator(self) -> None:
        """Generate a rollout and take one step of the discriminator with it."""
        _, generated = self._rollout()
        reference = torch.cat([self._tokens_of_file(text) for text in self._texts()])
        real, fake = self._head(reference), self._head(generated)
        loss = hinge_loss(real[:, :1], fake[:, :1])
        loss = loss + _PATCH_LOSS_WEIGHT * hinge_loss(real[:, 1:], fake[:, 1:])
        self._head_optimizer.zero_grad()
        loss.backward()
        self._head_optimizer.step()

    def train_policy(self) -> None:
        """Generate a rollout and take the policy's optimizer steps with it."""
        batches, tokens = self._rollout()
        with torch.no_grad():
            logits = self._head(tokens).squeeze(-1)
            rewards = _CLASS_WEIGHT * logits[:, 0] + _PATCH_WEIGHT * logits[:, 1:].mean(dim=1)
        by_group = rewards.view(-1, self._training.rollout.group_size)
        advantages = group_advantages(by_group, normalization="batch").flatten()
        steps = self._training.optimizer_steps_per_update
        per_step = len(batches) // steps
        for number, batch in enumerate(batches):
            size = len(batch.texts)
            self._train_on(batch, advantages[number * size : (number + 1) * size], per_step)
            if (number + 1) % per_step == 0:
                nn.utils.clip_grad_norm_(self._parameters, 1.0)
                self._optimizer.step()
                self._optimizer.zero_grad()

    def _train_on(self, batch: "_Batch", advantages: Tensor, batches: int) -> None:
        context, pooled = self._encode(batch.texts)
        for index, old in enumerate(batch.log_probs):
            step = self._step(batch.latents[index], index, context, pooled)
            log_prob = sde.released_log_prob(batch.latents[index + 1].float(), step)
            loss = clipped_policy_loss(log_prob, old, advantages, clip_range=1e-5).loss
            (loss / batches).backward()

    @torch.no_grad()
    def _rollout(self) -> tuple[list["_Batch"], Tensor]:
        texts, size = self._texts(), self._training.rollout.microbatch
        batches, tokens = [], []
        for first in range(0, len(texts), size):
            batch = _Batch(texts[first : first + size])
            context, pooled = self._encode(batch.texts)
            shape = (size, *self._world.state.policy.latent_shape)
            latents = torch.randn(shape, device=self._device).to(self._half)
            trained = self._algorithm.window.length
            for index in range(self._training.sampling.num_inference_steps):
                step = self._step(latents, index, context, pooled, ode=index >= trained)
                following = sde.draw(step, torch.randn(shape, device=self._device))
                if index < trained:
                    batch.latents.append(latents)
                    batch.log_probs.append(sde.released_log_prob(following, step))
                latents = following.to(self._half)
                if index == trained - 1:
                    batch.latents.append(latents)
            batches.append(batch)
            tokens.append(self._tokens(self._decode(latents)))
        return batches, torch.cat(tokens)

    def _step(
        self, latents: Tensor, index: int, context: Tensor, pooled: Tensor, *, ode: bool = False
    ) -> sde.GaussianStep:
        sampling = self._training.sampling
        sigma, next_sigma = (float(self._sigmas[index + k]) for k in (0, 1))
        (velocity,) = self._transformer(
            hidden_states=torch.cat([latents, latents]),
            timestep=torch.full((2 * len(latents),), 1000 * sigma, device=self._device),
            encoder_hidden_states=context,
            pooled_projections=pooled,
            return_dict=False,
        )
        without, given = velocity.float().chunk(2)
        return sde.cps_step(
            latents.float(),
            without + sampling.guidance_scale * (given - without),
            sigma=sigma,
            next_sigma=next_sigma,
            noise_level=0.0 if ode else self._algorithm.sampler.noise_level,
        )

    def _encode(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            context, negative, pooled, negative_pooled = self._pipeline.encode_prompt(
                prompt=texts,
                prompt_2=texts,
                prompt_3=texts,
                device=self._device,
                do_classifier_free_guidance=True,
                max_sequence_length=self._world.config.policy.max_sequence_length,
            )
        return torch.cat([negative, context]), torch.cat([negative_pooled, pooled])

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        scaled = latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        images = (vae.decode(scaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        pictures = [to_pil(image) for image in images.float()]
        return torch.stack([from_pil(picture) for picture in pictures])

    @torch.no_grad()
    def _tokens(self, images: Tensor) -> Tensor:
        return self._backbone.tokens(images)

    def _tokens_of_file(self, text: str) -> Tensor:
        images = self._world.reference_images
        name = images.files[text][0]
        return self._tokens(decode_image(Path(images.root, name).read_bytes())[None])

    def _texts(self) -> list[str]:
        rollout = self._training.rollout
        prompts = self._world.prompts.texts[: rollout.prompts_per_update]
        return [text for text in prompts for _ in range(rollout.group_size)]


class _Batch:
    """A microbatch of a rollout: latents around each trained step, and their log-probs."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.latents: list[Tensor] = []
        self.log_probs: list[Tensor] = []
