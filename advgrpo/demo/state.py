"""State of the demo's run, by which an interrupted one resumes."""

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from advgrpo.storage.files import write_bytes


@dataclass
class DemoRun:
    """A run, over all attempts."""

    key: str
    """Names its MLflow run and its workspace."""

    settings: str
    """Digest of its settings."""

    finished: bool = False
    seconds_by_phase: dict[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier attempt finished a phase."""
        return bool(self.seconds_by_phase)

    def save(self, folder: Path) -> None:
        """Write it for the next attempt."""
        write_bytes(str(_file(folder)), json.dumps(asdict(self), indent=1).encode())


def resume_run(folder: Path, settings: str) -> DemoRun:
    """Return the interrupted run, or a new one.

    Args:
        folder: The demo's folder.
        settings: Digest of its settings; a run with other settings is not resumed.
    """
    try:
        run = DemoRun(**json.loads(_file(folder).read_text(encoding="utf-8")))
    # A damaged file, or one of another version, starts a new run instead of an error.
    except (FileNotFoundError, ValueError, TypeError):
        run = None
    # Other settings need a new MLflow run: one run must not mix two.
    if run is None or run.finished or run.settings != settings:
        run = DemoRun(key=uuid.uuid4().hex[:12], settings=settings)
    # Before the first task, so that the key survives if the demo is killed.
    run.save(folder)
    return run


def state_folder(folder: Path) -> Path:
    """Return the folder for the state that attempts share."""
    return folder / "state"


def _file(folder: Path) -> Path:
    return state_folder(folder) / "run.json"
