"""Files with which MLflow serves an adapter (`mlflow.pyfunc`) or loads it (`mlflow.diffusers`).

Not written by MLflow itself, which needs numpy, pandas and diffusers for it: the image of a
cluster's registration task has none of them.
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import yaml

from advgrpo.config.base import Weights
from advgrpo.config.policy import PolicyConfig, SamplingConfig
from advgrpo.records import LIBRARIES
from advgrpo.registry.served_code import write_wheel
from advgrpo.registry.versions import ADAPTER_FOLDER, DIFFUSERS_FILE
from advgrpo.storage.locations import scheme

_CODE = "served_model.py"

_UNPINNED = (
    "boto3",
    "huggingface-hub",
    "jaxtyping",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "sentencepiece",
)
"""What the code of a version imports, or loads weights with, besides `LIBRARIES`."""


def write_served_files(
    folder: Path,
    *,
    policy: PolicyConfig,
    sampling: SamplingConfig,
    versions: Mapping[str, str],
    run_id: str,
    model_id: str,
) -> None:
    """Write the files for serving next to the adapter in `artifacts/adapter`.

    Args:
        folder: The version's files.
        policy: Base model, with an absolute location, and shape of the adapter.
        sampling: Default steps and guidance.
        versions: Versions of `LIBRARIES` in the training, by name; unknown ones are not pinned.
        run_id: MLflow run of the adapter.
        model_id: Id of MLflow's logged model.
    """
    requirements = [
        # The code itself: no index has it, and another release may not read these settings.
        write_wheel(folder, weights=policy.weights.location.startswith("package://")),
        # PyPI has no local versions such as 2.6.0+cpu.
        *(
            f"{name}=={versions[name].partition('+')[0]}" if name in versions else name
            # The training's own versions: other ones may give other images.
            for name in LIBRARIES
        ),
        *_UNPINNED,
        *(("torchao",) if policy.quantization == "int8" else ()),
        f"mlflow=={mlflow.__version__}",
    ]
    python = platform.python_version()
    shutil.copyfile(Path(__file__).with_name(_CODE), folder / _CODE)
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    _write_yaml(
        folder / "python_env.yaml",
        {"python": python, "dependencies": ["-r requirements.txt"]},
    )
    _write_yaml(folder / "conda.yaml", _conda(python, requirements))
    flavors = _diffusers_flavor(policy.weights, versions) | _pyfunc_flavor(policy, python)
    _write_yaml(folder / "MLmodel", {"flavors": flavors, **_model(sampling, run_id, model_id)})


def _diffusers_flavor(weights: Weights, versions: Mapping[str, str]) -> dict[str, object]:
    """Describe the adapter for `mlflow.diffusers.load_model`; empty if it could not load the base.

    Source:
        MLflow 3.17, `mlflow/diffusers/__init__.py`.
    """
    # diffusers reads local folders and the hub only.
    if weights.subfolder or scheme(weights.location) not in {"", "hub"}:
        return {}
    flavor = {
        "base_model": weights.location.removeprefix("hub://"),
        "adapter_type": "lora",
        "adapter_weights": ADAPTER_FOLDER,
        # The folder has peft's layout, too.
        "weight_name": DIFFUSERS_FILE,
        "diffusers_version": versions.get("diffusers"),
        "code": None,
        **({"base_model_revision": weights.revision} if weights.revision else {}),
    }
    return {"diffusers": flavor}


def _pyfunc_flavor(policy: PolicyConfig, python: str) -> dict[str, object]:
    flavor = {
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        "model_code_path": _CODE,
        "code": None,
        "python_version": python,
        "streamable": False,
        "artifacts": {"adapter": {"path": ADAPTER_FOLDER, "uri": ADAPTER_FOLDER}},
        "config": {"policy": policy.model_dump(mode="json")},
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    }
    return {"python_function": flavor}


def _model(sampling: SamplingConfig, run_id: str, model_id: str) -> dict[str, object]:
    parameters: list[tuple[str, str, int | float]] = [
        ("seed", "long", 0),
        ("num_inference_steps", "long", sampling.num_inference_steps),
        ("guidance_scale", "double", sampling.guidance_scale),
    ]
    column = json.dumps([{"type": "string", "required": True}])
    return {
        "mlflow_version": mlflow.__version__,
        "model_id": model_id,
        "model_uuid": model_id,
        "run_id": run_id,
        "signature": {
            "inputs": column,
            "outputs": column,
            "params": json.dumps(
                [
                    {"name": name, "type": kind, "default": default, "shape": None}
                    for name, kind, default in parameters
                ]
            ),
        },
        "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}",
    }


def _conda(python: str, requirements: Sequence[str]) -> dict[str, object]:
    return {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": list(requirements)}],
    }


def _write_yaml(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
