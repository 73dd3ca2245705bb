"""CLIP, arXiv:2103.00020: images and texts in one space."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from advgrpo.config.base import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.loading import fingerprint, load_frozen, weights_files
from advgrpo.models.backbones.preprocessing import PREPROCESSOR_FILE, read_preprocessing
from advgrpo.storage.fetch import local_folder

PICKSCORE_UNIT = 26.0
"""Logit that PickScore reports as a score of 1."""

_VOCABULARY = ("merges.txt", "tokenizer.json", "vocab.json")


class ClipBackbone:
    """A frozen CLIP model with its tokenizer and preprocessing.

    Args:
        weights: Folder with model, tokenizer and `preprocessor_config.json`.
        device: Device of the model.

    Attributes:
        logit_scale: Learned factor of the cosine, exp(tau).
        width: Dimension of an embedding.
        fingerprint: Hash of the weights and the preprocessing.

    Raises:
        WeightsError: If a part is missing, damaged or of another architecture.
    """

    def __init__(self, weights: Weights, device: torch.device) -> None:
        folder = local_folder(weights)
        self._model = load_frozen(CLIPModel, folder, model_type="clip", device=device)
        settings: Any = self._model.config
        preprocessing = read_preprocessing(
            folder, resolution_pixels=int(settings.vision_config.image_size)
        )
        if preprocessing is None:
            raise WeightsError(
                f"{folder} has no {PREPROCESSOR_FILE}",
                repair=f"copy {PREPROCESSOR_FILE} from where the model came from",
            )
        self._preprocessing = preprocessing
        self._tokens = _Tokenizer(folder, int(settings.text_config.max_position_embeddings))
        self._texts = _TextCache(self._encode)
        self.device = device
        # A plain number, because it stays frozen also where the vision blocks are trained.
        self.logit_scale = float(self._model.logit_scale.exp())
        self.width = int(settings.projection_dim)
        # The tokenizer is left out: features of images do not depend on it.
        self.fingerprint = fingerprint(weights_files(folder), preprocessing)

    @torch.no_grad()
    def image_features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        """Embed RGB images in [0, 1] as vectors of norm 1."""
        pixels = self._preprocessing(images.to(self.device))
        output = self._model.get_image_features(pixel_values=pixels)
        # `get_image_features` returns an output object since transformers 5, no tensor.
        return functional.normalize(output.pooler_output, dim=-1)

    @property
    def vision_blocks(self) -> int:
        """Number of blocks of the vision tower."""
        return len(self._model.vision_model.encoder.layers)

    @torch.no_grad()
    def hidden_states(
        self, images: Float[Tensor, "batch 3 height width"], *, before_last: int
    ) -> Float[Tensor, "batch token token_width"]:
        """Run RGB images in [0, 1] through all but the last vision blocks.

        Args:
            images: Of any size; they are resized to the model's.
            before_last: Number of blocks at the end that are skipped.
        """
        vision = self._model.vision_model
        # `pre_layrnorm` is the library's own spelling.
        hidden: Tensor = vision.pre_layrnorm(
            vision.embeddings(self._preprocessing(images.to(self.device)))
        )
        # Not the model's own forward pass, which always runs all blocks.
        for block in vision.encoder.layers[: self.vision_blocks - before_last]:
            hidden = block(hidden, attention_mask=None)
        return hidden

    def tail(self, blocks: int) -> "ClipVisionTail":
        """Copy the last vision blocks for training; what follows them stays frozen."""
        vision = self._model.vision_model
        return ClipVisionTail(
            # A copy, so that training does not change this model, which stays frozen as its
            # fingerprint states.
            copy.deepcopy(vision.encoder.layers[-blocks:]),
            # Shared, not copied: neither is trained.
            vision.post_layernorm,
            self._model.visual_projection,
        )

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Embed prompts as vectors of norm 1; each is encoded once and cached."""
        return self._texts(prompts)

    def _encode(self, prompt: str) -> Tensor:
        output = self._model.get_text_features(input_ids=self._tokens(prompt).to(self.device))
        return functional.normalize(output.pooler_output[0], dim=-1)


class ClipVisionTail(nn.Module):
    """The last blocks of a CLIP vision tower, with its final norm and projection.

    Args:
        blocks: Trainable.
        norm: Frozen.
        projection: Frozen.
    """

    def __init__(self, blocks: nn.ModuleList, norm: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.blocks, self._norm, self._projection = blocks, norm, projection
        # `load_frozen` removed it from all parameters, also from those of the copy.
        self.blocks.requires_grad_(True)

    def forward(
        self, hidden: Float[Tensor, "batch token token_width"]
    ) -> Float[Tensor, "batch feature"]:
        """Embed the output of `hidden_states` as vectors of norm 1."""
        for block in self.blocks:
            hidden = block(hidden, attention_mask=None)
        # Position 0 is the class token; CLIP applies its last norm to that token alone.
        return functional.normalize(self._projection(self._norm(hidden[:, 0])), dim=-1)


class ClipTextEncoder:
    """A frozen CLIP text model with projection.

    Args:
        text_encoder: Folder of the model, for instance a pipeline's `text_encoder`.
        tokenizer: Folder of its tokenizer.
        device: Device of the model.

    Attributes:
        width: Dimension of an embedding.
        fingerprint: Hash of the weights and of the tokenizer.

    Raises:
        WeightsError: If a part is missing, damaged or of another architecture.
    """

    def __init__(self, text_encoder: Weights, tokenizer: Weights, device: torch.device) -> None:
        folder = local_folder(text_encoder)
        self._model = load_frozen(
            CLIPTextModelWithProjection, folder, model_type="clip_text_model", device=device
        )
        settings: Any = self._model.config
        words = local_folder(tokenizer)
        self._tokens = _Tokenizer(words, int(settings.max_position_embeddings))
        self._texts = _TextCache(self._encode)
        self.device = device
        self.width = int(settings.projection_dim)
        vocabulary = [words / name for name in _VOCABULARY if (words / name).is_file()]
        self.fingerprint = fingerprint([*weights_files(folder), *vocabulary])

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch feature"]:
        """Embed prompts by their projected end token; each is encoded once and cached."""
        return self._texts(prompts)

    def _encode(self, prompt: str) -> Tensor:
        output = self._model(input_ids=self._tokens(prompt).to(self.device))
        embedding: Tensor = output.text_embeds[0]
        return embedding


class _TextCache:
    """Encodes each text once and alone, so that no embedding depends on the rest of a batch."""

    def __init__(self, encode: Callable[[str], Tensor]) -> None:
        self._encode = encode
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            if text not in self._known:
                self._known[text] = self._encode(text)
        # Encoded texts stay on the device: an embedding has a few kilobytes, and prompts recur.
        return torch.stack([self._known[text] for text in texts])


class _Tokenizer:
    """Tokenizer of one text, truncated to the length of the model."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        # `from_pretrained` may build a tokenizer without a vocabulary instead of failing.
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise WeightsError(
                f"{folder} has no tokenizer",
                repair="copy tokenizer.json, or vocab.json and merges.txt, from where the model "
                "came from",
            )
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise WeightsError(
                f"the tokenizer in {folder} cannot be loaded: {error}",
                repair="copy the tokenizer's files from where the model came from",
            ) from error
        self._max_tokens = max_tokens

    def __call__(self, text: str) -> Int[Tensor, "1 token"]:
        batch = self._tokenizer(
            # Without padding: a single text needs none, and the model gets no attention mask.
            [text],
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        tokens: Tensor = batch["input_ids"]
        return tokens
