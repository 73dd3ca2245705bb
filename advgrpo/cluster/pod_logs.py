"""Repeat a pod's log, line by line, from answers that may be cut off, late or missing."""

import re
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from advgrpo.cluster.api import Api
from advgrpo.errors import ClusterError
from advgrpo.telemetry.logging import lines_to_text

_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\S* (.*)", re.DOTALL)
_OVERLAP = timedelta(seconds=1)
_LINES_KEPT = 40
_LAST_TRIES = 3


class LogFollower:
    """Asks again and again for the lines since shortly before the last one, and tells the new ones.

    Lines are known by their time and text, so what was told is not told again: after an answer that
    was lost, and when the pod is replaced by another of the same name.

    Args:
        api: Gives the log.
        pod: Name of the pod.
        tell: Gets each line.
    """

    def __init__(self, api: Api, pod: str, tell: Callable[[str], None]) -> None:
        self._api = api
        self._pod = pod
        self._tell = tell
        self._uid = ""
        self._since = ""
        self._told: Counter[str] = Counter()
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)

    @property
    def last_lines(self) -> str:
        """The last lines that were told."""
        return lines_to_text("\n".join(self._last))

    def poll(self, uid: str, container: str, *, at_end: bool = False) -> None:
        """Tell the lines that are new.

        Args:
            uid: The pod's, so that another one's log is read from its beginning.
            container: Whose log.
            at_end: Whether there will be no more lines: be patient, and tell one that has no end.

        Raises:
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If it refuses.
        """
        if uid != self._uid:
            # An answer to the last poll may already have come from this pod: keep what was told.
            self._uid, self._since = uid, ""
        query = {"container": container, "timestamps": "true"}
        if self._since:
            query["sinceTime"] = f"{self._since}Z"
        for _ in range(_LAST_TRIES if at_end else 1):
            answer = self._api.log(self._pod, patient=at_end, **query)
            *lines, rest = answer.decode("utf-8", errors="replace").split("\n")
            if not rest:
                break
        # A line without an end may have been cut off: it comes again, or else it has none.
        self._take([*lines, rest] if rest and at_end else lines)

    def _take(self, lines: list[str]) -> None:
        known = Counter(self._told)
        for line in lines:
            if known[line]:
                known[line] -= 1
                continue
            found = _LINE.fullmatch(line)
            words = found[2] if found else line
            self._last.append(words)
            self._tell(words)
        # The next answer begins no earlier than this one did.
        since = self._since
        self._told = Counter(
            {line: count for line, count in (self._told | Counter(lines)).items() if line >= since}
        )
        moments = [found[1] for line in lines if (found := _LINE.fullmatch(line))]
        if moments:
            before = datetime.fromisoformat(max(moments)) - _OVERLAP
            self._since = before.strftime("%Y-%m-%dT%H:%M:%S")


def tail(api: Api, pod: str, container: str, lines: int = _LINES_KEPT) -> str:
    """Read a pod's last lines; empty if they cannot be had."""
    try:
        answer = api.log(pod, container=container, tailLines=str(lines))
    except ClusterError:
        return ""
    return lines_to_text(answer.decode("utf-8", errors="replace"))
