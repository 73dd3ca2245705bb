"""The Python API: configuration, tasks, image generation, scores and evaluations.

`import advgrpo` offers these names; docs/python.md shows them in use. The tasks are those that the
command line and the pipeline run, so all three share the results in a workspace.
"""

from advgrpo.api.images import ImageGenerator, load_generator, score_images
from advgrpo.api.results import EvaluationTables, open_evaluation, read_history
from advgrpo.api.tasks import (
    evaluate,
    generate_reference_images,
    load_config,
    pretrain_reward,
    register,
    train,
)
from advgrpo.config.preset_files import preset_names
from advgrpo.config.run import RunConfig
from advgrpo.errors import AdvGrpoError
from advgrpo.runtime.results import ReferenceImageLocations, TaskResult

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
