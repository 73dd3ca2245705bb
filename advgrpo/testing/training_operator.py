"""A fake of Kubeflow's training operator, which carries out the plans of jobs.

Source:
    Kubeflow training-operator 1.9, `pkg/controller.v1/common/{job,pod}.go`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from advgrpo.testing.cluster_objects import Json, ObjectStore, Target
from advgrpo.testing.pods import PodLogs, is_running
from advgrpo.testing.training_jobs import FakeJob, Plan


@dataclass
class TrainingOperator:
    """The operator, scheduler and kubelet, driven by the clock.

    The first job created gets the first plan, and so on; further ones get the last.
    """

    store: ObjectStore
    job_type: type[FakeJob] = FakeJob
    restart_seconds: float | int = 2
    """Time from a pod's failure to its replacement."""

    plans: list[Plan] = field(default_factory=list)
    jobs: list[FakeJob] = field(default_factory=list)
    """Every job that was ever created."""

    logs: PodLogs = field(default_factory=PodLogs)

    def clear(self) -> None:
        """Remove all plans, jobs and logs."""
        self.plans.clear()
        self.jobs.clear()
        self.logs.lines.clear()

    def on_create(self, target: Target, created: Json) -> None:
        """Start to reconcile a new object if it is a job."""
        kind = self.job_type.resource
        if (target.group, target.resource) == (kind.group, kind.plural):
            plan = self.plans[min(len(self.jobs), len(self.plans) - 1)] if self.plans else ()
            self.jobs.append(self.job_type(self, created, plan))

    def advance(self) -> None:
        """Carry out all steps that are due, each at its own time."""
        while self.jobs:
            job = min(self.jobs, key=FakeJob.next_due)
            if job.next_due() > self.store.clock():
                return
            # The clock may have passed several steps at once: each sees its own due time.
            self.store.moment = job.next_due()
            self.store.collect()
            job.do_next()
            self.store.moment = None

    def is_running(self, namespace: str, name: str) -> bool:
        """Return whether a pod exists and its container runs."""
        pod = self.store.find("", "pods", namespace, name)
        return pod is not None and is_running(pod)

    def log(self, namespace: str, name: str, parameters: Mapping[str, str]) -> str:
        """Return a pod's log.

        Raises:
            RefusedError: If the pod does not exist or has not started.
        """
        return self.logs.read(self.store.get(Target("", "v1", "pods", namespace, name)), parameters)
