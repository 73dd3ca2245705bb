"""Post-train a text-to-image flow model by adversarial reward, from a laptop to a cluster."""

from importlib import import_module

__version__ = "0.1.0"

# Types are in __init__.pyi, which type checkers read instead of this file.
__all__ = [
    "AdvGrpoError",
    "EvaluationTables",
    "ImageGenerator",
    "ReferenceImageLocations",
    "RunConfig",
    "TaskResult",
    "evaluate",
    "generate_reference_images",
    "load_config",
    "load_generator",
    "open_evaluation",
    "preset_names",
    "pretrain_reward",
    "read_history",
    "register",
    "score_images",
    "train",
]


def __getattr__(name: str) -> object:
    # Imported when a name is used: the API needs torch, `advgrpo --help` and the launcher do not.
    if name not in __all__:
        raise AttributeError(f"module 'advgrpo' has no attribute {name!r}")
    return getattr(import_module("advgrpo.api"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
