from advgrpo.api import (
    AdvGrpoError as AdvGrpoError,
)
from advgrpo.api import (
    EvaluationTables as EvaluationTables,
)
from advgrpo.api import (
    ImageGenerator as ImageGenerator,
)
from advgrpo.api import (
    ReferenceImageLocations as ReferenceImageLocations,
)
from advgrpo.api import (
    RunConfig as RunConfig,
)
from advgrpo.api import (
    TaskResult as TaskResult,
)
from advgrpo.api import (
    evaluate as evaluate,
)
from advgrpo.api import (
    generate_reference_images as generate_reference_images,
)
from advgrpo.api import (
    load_config as load_config,
)
from advgrpo.api import (
    load_generator as load_generator,
)
from advgrpo.api import (
    open_evaluation as open_evaluation,
)
from advgrpo.api import (
    preset_names as preset_names,
)
from advgrpo.api import (
    pretrain_reward as pretrain_reward,
)
from advgrpo.api import (
    read_history as read_history,
)
from advgrpo.api import (
    register as register,
)
from advgrpo.api import (
    score_images as score_images,
)
from advgrpo.api import (
    train as train,
)

__version__: str
