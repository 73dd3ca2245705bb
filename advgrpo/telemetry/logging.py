"""Log format: plain text in a terminal, one JSON object a line in containers.

Modules log by `logging`. `event` gives a line its event name and fields, which only the JSON shows;
`bind` adds fields to all further lines of the process.
"""

import io
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from advgrpo.errors import AdvGrpoError, ConfigError
from advgrpo.redaction import RedactingFormatter, redact
from advgrpo.strict_json import load_json

FORMAT = "ADVGRPO_LOG_FORMAT"
"""Environment variable: `text` (the default), or `json` for one JSON object a line."""

BOUND = "ADVGRPO_LOG_FIELDS"
"""Environment variable: bound fields, as JSON, for the ranks that a process starts."""

JOB_OUTPUT = "job_output"
"""Event of a line that a job's pod wrote; one that is JSON already is not wrapped again."""

_FORMATS = ("text", "json")
_FIELDS, _EVENT, _QUIET = "advgrpo_fields", "advgrpo_event", "advgrpo_quiet"

# Not per thread: the threads of the uploader and the watchdog log for the same task.
_bound: dict[str, object] = {}

logger = logging.getLogger("advgrpo")


def as_json() -> bool:
    """Return whether log lines are JSON objects."""
    return os.environ.get(FORMAT) == "json"


def configure(*, only_warnings: bool = False) -> None:
    """Send this process's log to standard error, in the format that `FORMAT` names.

    Args:
        only_warnings: Drop lines below WARNING, as ranks other than the first do.

    Raises:
        ConfigError: If the format is unknown.
    """
    named = os.environ.get(FORMAT) or _FORMATS[0]
    if named not in _FORMATS:
        raise ConfigError(
            f"{FORMAT}={named}: unknown log format",
            repair=f"set {FORMAT} to {' or '.join(_FORMATS)}, or unset it",
        )
    handler = logging.StreamHandler(sys.stderr)
    if as_json():
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(RedactingFormatter("%(message)s"))
        handler.addFilter(_is_in_text)
    # The module `warnings` would print lines that are not JSON.
    logging.captureWarnings(as_json())
    # Forced, because libraries configure the root logger when they are imported.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # Only our own lines are shown at INFO; the root logger keeps libraries at WARNING.
    logger.setLevel(logging.WARNING if only_warnings else logging.INFO)
    # urllib3 warns of each retry; the last failed attempt becomes an error of ours.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def configure_rank() -> None:
    """Configure the log of a rank; ranks other than the first log warnings only."""
    rank = int(os.environ.get("RANK", "0"))
    configure(only_warnings=rank > 0)
    # A rank is another process: it knows the run and the task from its environment only.
    bind(**json.loads(os.environ.get(BOUND, "{}")), rank=rank)


def ensure_format() -> None:
    """Restore our format in a process whose logging another program, as KFP's executor, set up."""
    replace_unencodable()
    handlers = logging.getLogger().handlers
    if not as_json():
        for handler in handlers:
            handler.addFilter(_is_in_text)
    elif not any(type(handler.formatter) is JsonFormatter for handler in handlers):
        configure()


def replace_unencodable() -> None:
    """Make this process print `?` for characters that a terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        # Other programs, such as KFP's executor, may have put other objects there.
        if isinstance(stream, io.TextIOWrapper):
            # A closed stream, or one whose file became a pipe, cannot be changed: no reason to end.
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")


def bind(**fields: object) -> None:
    """Add or replace fields of all further lines of this process; None removes a field."""
    _bound.update(fields)
    for name in [name for name, value in _bound.items() if value is None]:
        del _bound[name]


def rank_environment() -> dict[str, str]:
    """Return the environment that passes the bound fields to ranks."""
    return {BOUND: json.dumps(_plain(_bound))}


def event(name: str, **fields: object) -> dict[str, object]:
    """Return the argument `extra` of a logger's methods that names the event of a line.

    Args:
        name: The event, in snake case.
        fields: Numbers and short texts, no secrets.
    """
    return {_EVENT: name, _FIELDS: fields}


def machine_event(name: str, **fields: object) -> dict[str, object]:
    """Return what `event` does, for a line that the text format leaves out."""
    return event(name, **fields) | {_QUIET: True}


def event_of(record: logging.LogRecord) -> tuple[str, Mapping[str, object]]:
    """Return the event and the fields of a line."""
    fields: Mapping[str, object] = record.__dict__.get(_FIELDS, {})
    return record.__dict__.get(_EVENT, "message"), fields


def is_quiet(record: logging.LogRecord) -> bool:
    """Return whether the text format leaves a line out."""
    return bool(record.__dict__.get(_QUIET, False))


def report(text: str, name: str, **fields: object) -> None:
    """Report the outcome of a command: on standard output, or as a log line if those are JSON.

    Args:
        text: Text of the line.
        name: The event.
        fields: Fields of the event.
    """
    if as_json():
        ensure_format()
        logger.info("%s", text, extra=event(name, **fields))
    else:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class JsonFormatter(logging.Formatter):
    """Formats a line as a flat JSON object without secrets: time, level, event, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line; infinities and NaN become texts."""
        name, fields = event_of(record)
        message = record.getMessage()
        # The pod's own JSON has its rank and update, which a second object around it would hide.
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
        # A field must not replace one of the fixed keys.
        return json.dumps(_plain(line | {k: v for k, v in more.items() if k not in line}))


def fields_of(line: str) -> dict[str, object]:
    """Return the fields of a line that `JsonFormatter` wrote; empty for any other line."""
    # Most lines of a job are text: do not try to parse each.
    if not line.startswith("{"):
        return {}
    try:
        fields = load_json(line)
    except ValueError:
        return {}
    return fields if {"time", "event", "message"} <= fields.keys() else {}


def line_to_text(line: str) -> str:
    """Return a JSON line as text: message, repair and traceback; other lines as they are."""
    fields = fields_of(line)
    if not fields:
        return line
    repair = f"\n  repair: {fields['repair']}" if fields.get("repair") else ""
    traceback = f"\n{fields['traceback']}" if fields.get("traceback") else ""
    return f"{fields['message']}{repair}{traceback}"


def lines_to_text(text: str) -> str:
    """Return each line of a log as `line_to_text` does."""
    return "\n".join(line_to_text(line) for line in text.split("\n"))


def log_error(error: AdvGrpoError) -> None:
    """Write the error that ends this process, in either format."""
    if not as_json():
        sys.stderr.write(f"error: {error}\n")
        return
    ensure_format()
    logger.error("%s", error.message, extra=event("error", **_facts(error)))


def log_fault(error: Exception) -> None:
    """Write an unexpected exception that ends this process, with its traceback, as JSON."""
    ensure_format()
    facts = {"kind": type(error).__name__, "exit_status": 1}
    logger.critical("%s", error, exc_info=error, extra=event("fault", **facts))


def _facts(error: AdvGrpoError) -> dict[str, object]:
    status = error.exit_code
    return {"kind": type(error).__name__, "repair": error.repair, "exit_status": status}


def _is_in_text(record: logging.LogRecord) -> bool:
    return not is_quiet(record)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # json.dumps writes NaN and Infinity, which parsers of JSON refuse.
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    # Fields may quote an address or an error, like messages.
    return value if isinstance(value, int | None) else redact(str(value))
