"""Text encoders of diffusers' pipelines, loaded only while they are needed."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, device, no_grad

from advgrpo.config.policy import PolicyConfig
from advgrpo.models.backbones.loading import fingerprint
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.pipeline_parts import DTYPES, PipelineParts

CPU = device("cpu")

logger = logging.getLogger("advgrpo")


class PipelineTextEncoders(ABC):
    """Encodes prompts one at a time with a pipeline's own text encoders.

    In a batch, a prompt's last bits would depend on the other prompts.

    Args:
        config: The policy's settings.
        device: Device of the encoders. Next to a transformer in training a T5 does not fit on a
            GPU: there it is the CPU.
    """

    parts: ClassVar[PipelineParts]

    def __init__(self, config: PolicyConfig, device: device = CPU) -> None:
        self._config, self._device = config, device
        self._pipeline: Any = None
        self._cut: dict[str, list[str]] = {}
        """Tokenizer -> prompts that its encoder does not read to the end."""

    @abstractmethod
    def _encode(self, pipeline: Any, prompt: str) -> Mapping[str, Tensor]:  # noqa: ANN401
        """Encode one prompt into named tensors without a batch axis."""

    def encode(self, prompt: str) -> PromptEmbeddings:
        """Encode a prompt in the precision that the transformer takes, loading the encoders first.

        Raises:
            WeightsError: If weights are missing, damaged, pickled or of another architecture.
        """
        if self._pipeline is None:
            self._pipeline = self._load()
        self._note_length(prompt)
        # The pipeline's `encode_prompt` does not disable gradients; only its `__call__` does.
        with no_grad():
            tensors = self._encode(self._pipeline, prompt)
        return PromptEmbeddings((tensors,)).to(CPU, DTYPES[self._config.forward_dtype])

    def release(self) -> None:
        """Free their memory, and log which prompts they did not read to the end."""
        for name, prompts in self._cut.items():
            logger.warning(
                "%d prompts are longer than the %d tokens that the encoder of %s reads; it ignores "
                "their ends, for instance of %r",
                len(prompts),
                self._limit(name),
                name,
                prompts[0],
            )
        self._cut = {}
        self._pipeline = None

    def _limit(self, name: str) -> int:
        # The setting is for the last encoder; others have a fixed number of positions.
        if name == self.parts.tokenizers[-1]:
            return self._config.max_sequence_length
        return int(self._pipeline.components[name].model_max_length)

    def _note_length(self, prompt: str) -> None:
        for name in self.parts.tokenizers:
            tokenizer = self._pipeline.components[name]
            # A published pipeline may lack one. `verbose` would warn of each prompt.
            if tokenizer and len(tokenizer(prompt, verbose=False).input_ids) > self._limit(name):
                self._cut.setdefault(name, []).append(prompt)

    def fingerprint(self) -> str:
        """Hash all that an embedding depends on besides the prompt."""
        folder, _ = self.parts.folder(self._config)
        files = [
            path
            for name in (*self.parts.text_encoders, *self.parts.tokenizers)
            # Sorted: the order in a directory differs between file systems, and would change the
            # hash.
            for path in sorted((folder / name).rglob("*"))
            # Published repositories also hold half-precision copies, which are not loaded.
            if path.is_file() and ".fp16." not in path.name
        ]
        names = [path.relative_to(folder).as_posix() for path in files]
        config = self._config
        facts = (
            # Families may share text encoders and use other layers of them.
            config.type,
            names,
            config.max_sequence_length,
            config.text_dtype,
            config.forward_dtype,
            # A GPU's last bits are not the CPU's.
            *([self._device.type] if self._device != CPU else []),
        )
        return fingerprint(files, *facts)

    def _load(self) -> Any:  # noqa: ANN401 - diffusers has no types
        pipeline = self.parts.load_text_encoders(self._config)
        for name in self.parts.text_encoders:
            if pipeline.components[name] is not None:
                pipeline.components[name].to(self._device)
        return pipeline
