"""What each rank of the hanging test runs: the second never comes to the meeting."""

import sys
import time
from pathlib import Path

from advgrpo.config.training import HangsConfig
from advgrpo.errors import RankFailedError
from advgrpo.training.counters import Counters
from advgrpo.training.engine import connect
from advgrpo.runtime.process_group import Ranks, losses_of_ranks
from advgrpo.runtime.watchdog import Watchdog


def main(output: Path) -> None:
    ranks = Ranks()
    connect(ranks, timeout_seconds=6)
    config = HangsConfig(report_after_seconds=2, give_up_after_seconds=60)
    counters = Counters(turns=3, entered=ranks.whereabouts.enter)
    with Watchdog(ranks.whereabouts, config, give_up=sys.exit):
        if ranks.rank == 1:
            with counters.timed("reward"):
                time.sleep(60)
        try:
            with losses_of_ranks(ranks.whereabouts.in_words), counters.timed("rollout"):
                ranks.wait()
        except RankFailedError as error:
            (output / f"rank-{ranks.rank}").write_text(str(error), encoding="utf-8")
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
