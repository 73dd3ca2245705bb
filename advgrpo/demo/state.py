"""Which run a demo is at, so that an interrupted one goes on."""

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from advgrpo.storage import write_bytes


@dataclass
class DemoRun:
    """One run, over all attempts at it."""

    key: str
    """Names its MLflow run and its place in the store."""

    settings: str
    """Digest of the settings that it was started with."""

    finished: bool = False
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier attempt came past its start."""
        return bool(self.seconds_by_phase)

    def save(self, folder: Path) -> None:
        """Keep it for the next attempt."""
        write_bytes(str(_file(folder)), json.dumps(asdict(self), indent=1).encode())


def take_up_run(folder: Path, settings: str) -> DemoRun:
    """Take up the run that was interrupted, or begin a new one.

    Args:
        folder: The demo's folder.
        settings: Digest of its settings; a run that was started with others is left alone.
    """
    try:
        run = DemoRun(**json.loads(_file(folder).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        run = None
    if run is None or run.finished or run.settings != settings:
        run = DemoRun(key=uuid.uuid4().hex[:12], settings=settings)
    run.save(folder)
    return run


def state_folder(folder: Path) -> Path:
    """Name the folder for what a demo needs from one attempt to the next."""
    return folder / "state"


def _file(folder: Path) -> Path:
    return state_folder(folder) / "run.json"
