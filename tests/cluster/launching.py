"""The launcher against the fake cluster, in virtual time."""

from contextlib import closing
from dataclasses import dataclass, field

from kubernetes import client

from advgrpo.cluster.api import Api, RetryPolicy
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.clock import Clock as RealClock
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.launcher import Launcher
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.testing import FakeCluster
from tests.cluster.clock import Clock

REQUEST = JobRequest("train", "s3://bucket/jobs/train-1", ("python", "-m", "worker"), processes=16)
SETTINGS = ClusterSettings(image="registry.example/trainer:1", max_retries=0)
POLICY = RetryPolicy(connect_timeout_seconds=1.0, read_timeout_seconds=0.3)


def api_of(cluster: FakeCluster, clock: Clock, policy: RetryPolicy = POLICY) -> Api:
    configuration = client.Configuration(host=cluster.url)
    configuration.retries = False
    time = RealClock(monotonic=clock, wall=clock, sleep=clock.sleep)
    return Api(configuration, "default", policy=policy, clock=time)


@dataclass
class Launching:
    """A launcher of jobs on the cluster."""

    cluster: FakeCluster
    clock: Clock
    settings: ClusterSettings = field(default=SETTINGS)
    policy: RetryPolicy = POLICY
    backend: JobBackend = field(default_factory=PyTorchJobs)

    def run(self, request: JobRequest = REQUEST) -> None:
        """Run a task to its end; raises what the launcher raises."""
        with closing(api_of(self.cluster, self.clock, self.policy)) as api:
            Launcher(request, self.settings, api, self.backend).run()
