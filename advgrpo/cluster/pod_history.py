"""What became of a job's pods, also of those that are gone."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.pods import Pod
from advgrpo.cluster.resources import EVENTS
from advgrpo.errors import ClusterError

_EXITED = re.compile(r"Pod: [^.\s]+\.(?P<pod>\S+) exited with code (?P<code>\d+)")
"""The training operator's words; they outlive the pod."""


class History:
    """Remembers each pod's last bad end, and how often it was started again."""

    def __init__(self) -> None:
        self._now: dict[str, Pod] = {}
        self._ends: dict[str, Pod] = {}
        self._restarts: Counter[str] = Counter()
        self._thrown_out: set[str] = set()
        """Uids of the pods that were."""

        self._excused: dict[str, int] = {}
        """How many had been thrown out when a pod was last started again."""

    @property
    def pods(self) -> list[Pod]:
        """The pods as last seen."""
        return list(self._now.values())

    @property
    def evidence(self) -> list[Pod]:
        """The pods if one of them has ended badly, else the last bad end of an earlier one."""
        if any(pod.has_failed or pod.disruption or pod.waiting_reason for pod in self.pods):
            return self.pods
        worst, _ = self.most_restarted
        end = self._ends.get(worst) or next(reversed(self._ends.values()), None)
        return self.pods if end is None else [end]

    @property
    def most_restarted(self) -> tuple[str, int]:
        """The pod that was started again most often by its own fault, and how often."""
        return max(self._restarts.items(), key=lambda item: item[1], default=("", 0))

    def forget_pods(self) -> None:
        """Let the pods that come next be no restarts of those that were: the job is queued."""
        self._now.clear()

    def see(self, pods: Sequence[Pod]) -> list[Pod]:
        """Take note of the pods.

        Returns:
            The pods that were started again since the last time, as they were before.
        """
        again = []
        self._thrown_out |= {pod.uid for pod in pods if pod.disruption}
        for pod in pods:
            before = self._now.get(pod.name)
            if before is not None and before.uid != pod.uid:
                again.append(before)
                if not self._is_excused(before):
                    self._restarts[pod.name] += 1
            if pod.has_failed or pod.disruption:
                self._ends.pop(pod.name, None)
                self._ends[pod.name] = pod
            self._now[pod.name] = pod
        return again

    def _is_excused(self, pod: Pod) -> bool:
        """Say whether a pod ended for want of one that was thrown out, or was thrown out itself."""
        count = len(self._thrown_out)
        others = count > self._excused.get(pod.name, 0)
        self._excused[pod.name] = count
        return others or bool(pod.disruption)

    def learn_ends(self, events: Sequence[Json]) -> None:
        """Learn from a job's events how pods ended whose end was not seen."""
        for event in events:
            found = _EXITED.search(event.get("message") or "")
            if found is None or found["code"] == "0":
                continue
            pod = self._now.get(found["pod"])
            if pod is not None and found["pod"] not in self._ends:
                self._ends[pod.name] = replace(
                    pod, exit_code=int(found["code"]), container="pytorch", phase="Failed"
                )


def events_of(api: Api, uid: str) -> list[Json]:
    """Read the events about an object; none if they cannot be had."""
    try:
        return api.list(EVENTS, patient=False, fieldSelector=f"involvedObject.uid={uid}")
    except ClusterError:
        return []
