"""Say what happens: in words where people read, as one JSON object a line where machines do.

Modules log by `logging`, as anywhere. `event` names what a line is about and adds fields, which
only the JSON has; `bind` adds fields to all lines that this process writes from then on.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from advgrpo.errors import AdvGrpoError, ConfigError
from advgrpo.redaction import RedactingFormatter, redact
from advgrpo.strict_json import load_json

FORMAT = "ADVGRPO_LOG_FORMAT"
"""Environment variable: `text` (the default), or `json` for one JSON object a line."""

BOUND = "ADVGRPO_LOG_FIELDS"
"""Environment variable: bound fields, as JSON, for the ranks that a process starts."""

JOB_OUTPUT = "job_output"
"""Event of a line that a job's pod wrote; one that is a JSON object already stays as it is."""

_FORMATS = ("text", "json")
_FIELDS, _EVENT, _QUIET = "advgrpo_fields", "advgrpo_event", "advgrpo_quiet"

# Of the process and not of the thread: the threads that send and watch work for the same task.
_bound: dict[str, object] = {}

logger = logging.getLogger("advgrpo")


def as_json() -> bool:
    """Tell whether lines are JSON objects."""
    return os.environ.get(FORMAT) == "json"


def configure(*, only_warnings: bool = False) -> None:
    """Send this process's log to standard error, in the format that the environment names.

    Args:
        only_warnings: Leave out what is no warning, as a rank does that does not speak for all.

    Raises:
        ConfigError: If there is no such format.
    """
    named = os.environ.get(FORMAT) or _FORMATS[0]
    if named not in _FORMATS:
        raise ConfigError(
            f"{FORMAT}={named} is no format of log lines",
            repair=f"set it to {' or '.join(_FORMATS)}, or not at all",
        )
    handler = logging.StreamHandler(sys.stderr)
    if as_json():
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(RedactingFormatter("%(message)s"))
        handler.addFilter(_is_for_people)
    logging.captureWarnings(as_json())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(logging.WARNING if only_warnings else logging.INFO)
    # The last of its attempts is our error.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def configure_rank() -> None:
    """Do so in one of a task's parallel processes; only the first one tells more than warnings."""
    rank = int(os.environ.get("RANK", "0"))
    configure(only_warnings=rank > 0)
    bind(**json.loads(os.environ.get(BOUND, "{}")), rank=rank)


def ensure_format() -> None:
    """Keep to the format, though somebody else's program, as KFP's executor, configured logging."""
    handlers = logging.getLogger().handlers
    if not as_json():
        for handler in handlers:
            handler.addFilter(_is_for_people)
    elif not any(type(handler.formatter) is JsonFormatter for handler in handlers):
        configure()


def bind(**fields: object) -> None:
    """Add fields to all lines of this process, or replace them; None takes one away."""
    _bound.update(fields)
    for name in [name for name, value in _bound.items() if value is None]:
        del _bound[name]


def rank_environment() -> dict[str, str]:
    """Give the environment by which ranks that are started now have the fields that are bound."""
    return {BOUND: json.dumps(_plain(_bound))}


def event(name: str, **fields: object) -> dict[str, object]:
    """Name what a log line is about: the argument `extra` of a logger's methods.

    Args:
        name: The event, in snake case.
        fields: What belongs to it: numbers and short texts, no secrets.
    """
    return {_EVENT: name, _FIELDS: fields}


def machine_event(name: str, **fields: object) -> dict[str, object]:
    """Do as `event` does for a line that people are told of in another way: no text has it."""
    return event(name, **fields) | {_QUIET: True}


def event_of(record: logging.LogRecord) -> tuple[str, Mapping[str, object]]:
    """Give a line's event and fields."""
    fields: Mapping[str, object] = record.__dict__.get(_FIELDS, {})
    return record.__dict__.get(_EVENT, "message"), fields


def is_quiet(record: logging.LogRecord) -> bool:
    """Tell whether a line is for machines only."""
    return bool(record.__dict__.get(_QUIET, False))


def report(text: str, name: str, **fields: object) -> None:
    """Tell what a command did: on standard output, or, where lines are JSON, as a line of the log.

    Args:
        text: What people read.
        name: The event.
        fields: What belongs to it.
    """
    if as_json():
        ensure_format()
        logger.info("%s", text, extra=event(name, **fields))
    else:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class JsonFormatter(logging.Formatter):
    """Writes a line as a JSON object of one level: time, level, event, message, then fields.

    No text in it holds a secret.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one line; a number that JSON has no word for becomes a text."""
        name, fields = event_of(record)
        message = record.getMessage()
        if name == JOB_OUTPUT and fields_of(message):
            return redact(message)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": name,
            "message": message,
        }
        more = {**_bound, **fields, "logger": record.name}
        if record.exc_info:
            more["traceback"] = self.formatException(record.exc_info)
        return json.dumps(_plain(line | {k: v for k, v in more.items() if k not in line}))


def fields_of(line: str) -> dict[str, object]:
    """Read a line of ours; empty if it is none."""
    if not line.startswith("{"):
        return {}
    try:
        found = load_json(line)
    except ValueError:
        return {}
    return found if {"time", "event", "message"} <= found.keys() else {}


def line_to_text(line: str) -> str:
    """Give what a line says to a person: of one of ours, its message, repair and traceback."""
    found = fields_of(line)
    if not found:
        return line
    repair = f"\n  repair: {found['repair']}" if found.get("repair") else ""
    traceback = f"\n{found['traceback']}" if found.get("traceback") else ""
    return f"{found['message']}{repair}{traceback}"


def lines_to_text(text: str) -> str:
    """Do so for each line of a text."""
    return "\n".join(line_to_text(line) for line in text.split("\n"))


def log_error(error: AdvGrpoError) -> None:
    """Write the error that ends this process, whatever its format."""
    if not as_json():
        sys.stderr.write(f"error: {error}\n")
        return
    ensure_format()
    logger.error("%s", error.message, extra=event("error", **_facts(error)))


def log_fault(error: Exception) -> None:
    """Write a fault of ours that ends this process, with its traceback, as JSON."""
    ensure_format()
    facts = {"kind": type(error).__name__, "exit_status": 1}
    logger.critical("%s", error, exc_info=error, extra=event("fault", **facts))


def _facts(error: AdvGrpoError) -> dict[str, object]:
    status = error.exit_code
    return {"kind": type(error).__name__, "repair": error.repair, "exit_status": status}


def _is_for_people(record: logging.LogRecord) -> bool:
    return not is_quiet(record)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, int | None) else redact(str(value))
