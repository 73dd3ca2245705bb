"""Client of Kubeflow Pipelines: upload the pipeline, start runs, watch them."""

from advgrpo.kfp_client.access import Access, endpoint_of
from advgrpo.kfp_client.arguments import paths_in_image, run_arguments
from advgrpo.kfp_client.document import PipelineDocument
from advgrpo.kfp_client.runs import Started, start_run
from advgrpo.kfp_client.schedule import Schedule, start_recurring_run
from advgrpo.kfp_client.server import KfpRefusedError, KfpServer
from advgrpo.kfp_client.versions import PipelineVersion, download_pipeline, upload_pipeline
from advgrpo.kfp_client.watching import watch_run

__all__ = [
    "Access",
    "KfpRefusedError",
    "KfpServer",
    "PipelineDocument",
    "PipelineVersion",
    "Schedule",
    "Started",
    "download_pipeline",
    "endpoint_of",
    "paths_in_image",
    "run_arguments",
    "start_recurring_run",
    "start_run",
    "upload_pipeline",
    "watch_run",
]
