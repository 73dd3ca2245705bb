"""Files with which `mlflow.pyfunc` serves an adapter.

Not written by `mlflow.pyfunc`, which needs numpy and pandas: the image of a cluster's registration
task has neither.
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import yaml

from advgrpo import __version__
from advgrpo.config.policy import PolicyConfig, SamplingConfig
from advgrpo.records import LIBRARIES
from advgrpo.registry.versions import ADAPTER_FOLDER

_CODE = "served_model.py"


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
        # Settings of another release may not be readable.
        f"advgrpo[train]=={__version__}",
        # PyPI has no local versions such as 2.6.0+cpu.
        *(
            f"{name}=={versions[name].partition('+')[0]}" if name in versions else name
            # The training's own versions: other ones may give other images.
            for name in LIBRARIES
        ),
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
    _write_yaml(folder / "MLmodel", _model(policy, sampling, python, run_id, model_id))


def _model(
    policy: PolicyConfig, sampling: SamplingConfig, python: str, run_id: str, model_id: str
) -> dict[str, object]:
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
    parameters: list[tuple[str, str, int | float]] = [
        ("seed", "long", 0),
        ("num_inference_steps", "long", sampling.num_inference_steps),
        ("guidance_scale", "double", sampling.guidance_scale),
    ]
    column = json.dumps([{"type": "string", "required": True}])
    return {
        "flavors": {"python_function": flavor},
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
