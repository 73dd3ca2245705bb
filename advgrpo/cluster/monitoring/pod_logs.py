"""The log of a pod, followed line by line through answers that are truncated, late or missing."""

import re
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from advgrpo.cluster.api import Api
from advgrpo.errors import ClusterError
from advgrpo.telemetry.logging import lines_to_text

_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\S* (.*)", re.DOTALL)
# `sinceTime` has whole seconds: read one twice rather than miss a line.
_OVERLAP = timedelta(seconds=1)
_LINES_KEPT = 40
_ATTEMPTS_AT_END = 3


class LogFollower:
    """Reader of a log's new lines.

    Each poll reads from shortly before the last line on and passes on what is new. Lines are
    identified by time and text, so none is repeated after a lost answer, or when a pod is replaced.

    Args:
        api: Client of the API server.
        handle: Called with each line.
    """

    def __init__(self, api: Api, handle: Callable[[str], None]) -> None:
        self._api = api
        self._handle = handle
        self._uid = ""
        self._since = ""
        self._seen: Counter[str] = Counter()
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)

    @property
    def last_lines(self) -> str:
        """The last lines."""
        return lines_to_text("\n".join(self._last))

    def poll(self, pod: str, uid: str, container: str, *, at_end: bool = False) -> None:
        """Handle the new lines.

        Args:
            pod: Name of the pod.
            uid: Its uid: the log of another pod is read from the beginning.
            container: The container whose log is read.
            at_end: Whether the log is complete: retry failures, and handle a last line without a
                line break.

        Raises:
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If the API server refuses the request.
        """
        if uid != self._uid:
            # A pod of the same name may have answered the last poll already: keep the lines seen.
            self._uid, self._since = uid, ""
        query = {"container": container, "timestamps": "true"}
        if self._since:
            query["sinceTime"] = f"{self._since}Z"
        for _ in range(_ATTEMPTS_AT_END if at_end else 1):
            answer = self._api.log(pod, retry=at_end, **query)
            # Not splitlines(), which also splits at the carriage returns of progress bars. A
            # truncated answer may end within a character.
            *lines, rest = answer.decode("utf-8", errors="replace").split("\n")
            if not rest:
                break
        # A line without a line break may be truncated: the next poll reads it again.
        self._handle_lines([*lines, rest] if rest and at_end else lines)

    def _handle_lines(self, lines: list[str]) -> None:
        known = Counter(self._seen)
        for line in lines:
            if known[line]:
                known[line] -= 1
                continue
            match = _LINE.fullmatch(line)
            text = match[2] if match else line
            self._last.append(text)
            self._handle(text)
        # The next answer starts no earlier than this one, so older lines need not be kept.
        since = self._since
        # A union, not a sum: the answers overlap, and a line in both was written once. Lines start
        # with their time, so they compare by it.
        self._seen = Counter(
            {line: count for line, count in (self._seen | Counter(lines)).items() if line >= since}
        )
        times = [match[1] for line in lines if (match := _LINE.fullmatch(line))]
        if times:
            before = datetime.fromisoformat(max(times)) - _OVERLAP
            self._since = before.strftime("%Y-%m-%dT%H:%M:%S")


def tail(api: Api, pod: str, container: str, lines: int = _LINES_KEPT) -> str:
    """Return a pod's last lines; empty if they cannot be read."""
    try:
        answer = api.log(pod, container=container, tailLines=str(lines))
    except ClusterError:
        # The log only explains a failure; it must not replace it.
        return ""
    return lines_to_text(answer.decode("utf-8", errors="replace"))
