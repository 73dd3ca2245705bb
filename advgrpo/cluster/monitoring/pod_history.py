"""History of a job's pods, including those that are gone."""

from collections import Counter
from collections.abc import Sequence

from advgrpo.cluster.monitoring.pods import Pod


class PodHistory:
    """The last failure and the number of restarts of each node rank's pods."""

    def __init__(self) -> None:
        self._latest: dict[int, Pod] = {}
        self._failures: dict[int, Pod] = {}
        self._restarts: Counter[int] = Counter()
        self._disrupted: set[str] = set()
        """Uids of the pods that were preempted or evicted."""

        self._excused: dict[int, int] = {}
        """Number of disrupted pods at the time of a rank's last restart."""

    @property
    def pods(self) -> list[Pod]:
        """The latest pod of each rank, as last seen."""
        return list(self._latest.values())

    @property
    def evidence(self) -> list[Pod]:
        """The latest pods if one of them failed, else the last failure of an earlier one."""
        if any(pod.has_failed or pod.disruption or pod.waiting_reason for pod in self.pods):
            return self.pods
        # The pod that keeps failing is a better witness than one that failed once at the end.
        rank, _ = self.most_restarted
        failure = self._failures.get(rank) or next(reversed(self._failures.values()), None)
        return self.pods if failure is None else [failure]

    @property
    def most_restarted(self) -> tuple[int, int]:
        """The rank whose pod was restarted most often by its own fault, and how often."""
        return max(self._restarts.items(), key=lambda item: item[1], default=(-1, 0))

    def has_start_error(self, rank: int) -> bool:
        """Return whether the container runtime could not start the last failed pod of a rank."""
        return rank in self._failures and self._failures[rank].has_start_error

    def forget_pods(self) -> None:
        """Do not count the next pods as restarts: the job is queued and its pods are deleted."""
        self._latest.clear()

    def update(self, pods: Sequence[Pod]) -> list[Pod]:
        """Record the present pods.

        Returns:
            The pods that were replaced since the last update, as they were before.
        """
        replaced = []
        self._disrupted |= {pod.uid for pod in pods if pod.disruption}
        for pod in pods:
            if pod.has_failed or pod.disruption:
                # Reinserted at the end: the order tells which failure was the last.
                self._failures.pop(pod.rank, None)
                self._failures[pod.rank] = pod
        # Some controllers keep a failed pod next to the one that replaces it.
        latest = {pod.rank: pod for pod in sorted(pods, key=lambda pod: pod.created_at)}
        for rank, pod in latest.items():
            before = self._latest.get(rank)
            if before is not None and before.uid != pod.uid:
                replaced.append(before)
                if not self._is_excused(before):
                    self._restarts[rank] += 1
        # Merged: a rank whose failed pod was deleted and not yet replaced keeps it.
        self._latest |= latest
        return replaced

    def _is_excused(self, pod: Pod) -> bool:
        """Return whether a pod was disrupted, or may have failed because another one was."""
        # Ranks that lose a peer fail, too: a disruption excuses one failure of each other rank.
        count = len(self._disrupted)
        others = count > self._excused.get(pod.rank, 0)
        self._excused[pod.rank] = count
        return others or bool(pod.disruption)

    def add_exits(self, exits: Sequence[tuple[str, int]], container: str) -> None:
        """Record failures that happened between two updates.

        Args:
            exits: Names and exit statuses of pods, from a job's events.
            container: The container that exited.
        """
        for name, code in exits:
            pod = next((pod for pod in self.pods if pod.name == name), None)
            # An observed failure is better: it has the reason and the last lines, an event has the
            # status only.
            if code and pod is not None and pod.rank not in self._failures:
                self._failures[pod.rank] = pod.exited(code, container)
