"""One process that encodes prompts on a GPU; it ends before training's processes start."""

import argparse
import json
import os
from pathlib import Path

from advgrpo.config import Sd3PolicyConfig
from advgrpo.config.tasks import parse_json
from advgrpo.models.policies.embeddings import encode_prompts
from advgrpo.runtime.failures import failures_noted, run_as_process
from advgrpo.runtime.heartbeat import rank_heartbeat
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.telemetry.logging import configure_rank
from advgrpo.telemetry.progress import PROGRESS_FILE

TASK = "encode prompts"


def main() -> None:
    """Encode this process's share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, required=True, help="its settings as JSON")
    parser.add_argument("--prompts", type=Path, required=True, help="JSON list of prompts")
    parser.add_argument("--store", required=True, help="folder or s3:// location")
    arguments = parser.parse_args()
    configure_rank()
    process_group = ProcessGroup()
    if not process_group.is_first:
        os.environ.pop(PROGRESS_FILE, None)
    with failures_noted(TASK), rank_heartbeat():
        text = arguments.policy.read_text(encoding="utf-8")
        encode_prompts(
            parse_json(Sd3PolicyConfig, text, where=str(arguments.policy)),
            json.loads(arguments.prompts.read_text(encoding="utf-8")),
            store=arguments.store,
            device=process_group.device,
            share=process_group.rank,
            shares=process_group.world_size,
        )


if __name__ == "__main__":
    run_as_process(main)
