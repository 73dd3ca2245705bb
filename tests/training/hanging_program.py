"""One rank of the hanging test; the second never joins the collective."""

import sys
import time
from pathlib import Path

from advgrpo.config.training import HangsConfig
from advgrpo.errors import RankFailedError
from advgrpo.runtime.process_group import ProcessGroup, translate_rank_loss
from advgrpo.runtime.watchdog import Watchdog
from advgrpo.training.counters import Counters


def main(output: Path) -> None:
    process_group = ProcessGroup()
    process_group.connect(timeout_seconds=4)
    config = HangsConfig(report_after_seconds=1, timeout_seconds=60)
    counters = Counters(rollouts=3, on_enter=process_group.monitor.enter)
    with Watchdog(process_group.monitor, config, give_up=sys.exit):
        if process_group.rank == 1:
            with counters.timed("reward"):
                time.sleep(60)
        try:
            with translate_rank_loss(process_group.monitor.describe), counters.timed("rollout"):
                process_group.barrier()
        except RankFailedError as error:
            (output / f"rank-{process_group.rank}").write_text(str(error), encoding="utf-8")
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
