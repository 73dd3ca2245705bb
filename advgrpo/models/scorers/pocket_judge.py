"""The judge of the pocket world as a scorer."""

from advgrpo.config.scorers.pocket_judge import PocketJudgeConfig
from advgrpo.models.scorers.base import BuildContext
from advgrpo.pocket.judge import PocketJudgeScorer
from advgrpo.storage.fetch import local_folder

WEIGHTS = "package://advgrpo.pocket/weights/judge"


def build(_config: PocketJudgeConfig, context: BuildContext) -> PocketJudgeScorer:
    """Load the judge that the package ships."""
    return PocketJudgeScorer.load(local_folder(WEIGHTS), context.device)
