"""The text encoders of Stable Diffusion 3: on the CPU, and only while they are needed."""

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import device, no_grad

from advgrpo.config import Sd3PolicyConfig
from advgrpo.models.backbones.loading import fingerprint
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.loading import (
    DTYPES,
    TEXT_ENCODERS,
    TOKENIZERS,
    load_text_encoders,
    pipeline_folder,
)

CPU = device("cpu")


class TextEncoders:
    """Encodes prompts, one at a time.

    Encoded together, a prompt's last bits would depend on who shares the batch.

    Args:
        config: The policy's settings.
        device: Where the encoders work. Beside a transformer that is trained T5 has no place on a
            GPU: there it is the CPU.
    """

    def __init__(self, config: Sd3PolicyConfig, device: device = CPU) -> None:
        self._config, self._device = config, device
        self._pipeline: StableDiffusion3Pipeline | None = None

    def encode(self, prompt: str) -> PromptEmbeddings:
        """Encode a prompt in the precision that the transformer takes, loading what it needs.

        Raises:
            WeightsError: If weights are missing, damaged, pickled or of another architecture.
        """
        if self._pipeline is None:
            self._pipeline = self._loaded()
        with no_grad():
            context, _, pooled, _ = self._pipeline.encode_prompt(
                prompt=[prompt],
                prompt_2=[prompt],
                prompt_3=[prompt],
                device=self._device,
                do_classifier_free_guidance=False,
                max_sequence_length=self._config.max_sequence_length,
            )
        dtype = DTYPES[self._config.forward_dtype]
        return PromptEmbeddings(context.to(CPU, dtype), pooled.to(CPU, dtype))

    def release(self) -> None:
        """Free their memory."""
        self._pipeline = None

    def fingerprint(self) -> str:
        """Hash all that an embedding depends on but the prompt."""
        folder, _ = pipeline_folder(self._config)
        files = [
            path
            for name in (*TEXT_ENCODERS, *TOKENIZERS)
            for path in sorted((folder / name).rglob("*"))
            # The half-precision copies beside published weights are not loaded.
            if path.is_file() and ".fp16." not in path.name
        ]
        names = [path.relative_to(folder).as_posix() for path in files]
        config = self._config
        facts = (
            names,
            config.max_sequence_length,
            config.text_dtype,
            config.forward_dtype,
            # Its last bits are not the CPU's.
            *([self._device.type] if self._device != CPU else []),
        )
        return fingerprint(files, *facts)

    def _loaded(self) -> StableDiffusion3Pipeline:
        pipeline = load_text_encoders(self._config)
        if pipeline.text_encoder_3 is None:
            # Then zeros take T5's place, whose width the pipeline asks of the transformer.
            folder, _ = pipeline_folder(self._config)
            settings = SD3Transformer2DModel.load_config(folder / "transformer")
            with device("meta"):
                pipeline.transformer = SD3Transformer2DModel.from_config(settings)
        for name in TEXT_ENCODERS:
            if pipeline.components[name] is not None:
                pipeline.components[name].to(self._device)
        return pipeline
