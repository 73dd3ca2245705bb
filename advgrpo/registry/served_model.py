"""The model that MLflow serves: prompts in, PNG files out.

MLflow stores a copy of this file with the adapter and executes it; the server must have advgrpo
installed.
"""

import base64
from typing import Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

BATCH_SIZE = 8


class AdapterModel(PythonModel):
    """A policy with a registered adapter."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load base model and adapter.

        Args:
            context: Has the adapter's folder and, as `model_config`, the policy's settings.
        """
        from pathlib import Path  # noqa: PLC0415

        import torch  # noqa: PLC0415
        from pydantic import TypeAdapter  # noqa: PLC0415

        from advgrpo.config.policy import AnyPolicyConfig  # noqa: PLC0415
        from advgrpo.models.policies.loading import load_policy  # noqa: PLC0415

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = TypeAdapter(AnyPolicyConfig).validate_python(context.model_config["policy"])
        self.policy = load_policy(config, device, adapter=Path(context.artifacts["adapter"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's interface
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Generate an image for each prompt.

        Args:
            context: As for `load_context`.
            model_input: One column of prompts.
            params: `seed` (of the first image; each next image increments it),
                `num_inference_steps` and `guidance_scale`.

        Returns:
            A PNG file per prompt, in base64.

        Raises:
            MlflowException: If the number of steps is below 1.
        """
        from advgrpo.data.images import encode_png  # noqa: PLC0415
        from advgrpo.models.policies.sampling import sample_images  # noqa: PLC0415

        settings = params or {}
        steps = int(settings["num_inference_steps"])
        if steps < 1:
            raise MlflowException.invalid_parameter_value(
                f"num_inference_steps={steps}: must be at least 1"
            )
        prompts = [str(prompt) for prompt in model_input.iloc[:, 0]]
        files: list[str] = []
        for start in range(0, len(prompts), BATCH_SIZE):
            batch = prompts[start : start + BATCH_SIZE]
            first_seed = int(settings["seed"]) + start
            images = sample_images(
                self.policy,
                batch,
                range(first_seed, first_seed + len(batch)),
                num_inference_steps=steps,
                guidance_scale=float(settings["guidance_scale"]),
            )
            files += [base64.b64encode(encode_png(image)).decode("ascii") for image in images]
        return files


mlflow.models.set_model(AdapterModel())
