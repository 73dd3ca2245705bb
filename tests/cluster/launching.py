"""Run the launcher against the pretended cluster, in virtual time."""

from contextlib import closing
from dataclasses import dataclass, field

from kubernetes import client

from advgrpo.cluster.api import Api, Patience
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.clock import Clock as RealClock
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.launcher import Launcher
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.testing import FakeCluster
from tests.cluster.clock import Clock

WORK = JobRequest("train", "s3://bucket/jobs/train-1", ("python", "-m", "worker"), processes=16)
SETTINGS = ClusterSettings(image="registry.example/trainer:1")
PATIENCE = Patience(connect_seconds=1.0, read_seconds=0.3)


def api_of(cluster: FakeCluster, clock: Clock, patience: Patience = PATIENCE) -> Api:
    configuration = client.Configuration(host=cluster.url)
    configuration.retries = False
    time = RealClock(monotonic=clock, wall=clock, sleep=clock.sleep)
    return Api(configuration, "default", patience=patience, clock=time)


@dataclass
class Launching:
    """Launches work on a cluster."""

    cluster: FakeCluster
    clock: Clock
    settings: ClusterSettings = field(default=SETTINGS)
    patience: Patience = PATIENCE
    backend: PyTorchJobs = field(default_factory=PyTorchJobs)

    def run(self, work: JobRequest = WORK) -> None:
        """Run work to its end; raises what the launcher raises."""
        with closing(api_of(self.cluster, self.clock, self.patience)) as api:
            Launcher(work, self.settings, api, self.backend).run()
