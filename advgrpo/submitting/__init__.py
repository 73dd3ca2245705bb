"""Send the pipeline to a Kubeflow Pipelines server, start runs of it and follow them."""

from advgrpo.submitting.arguments import paths_in_image, run_arguments
from advgrpo.submitting.document import PipelineDocument
from advgrpo.submitting.runs import Started, start_run
from advgrpo.submitting.schedule import Schedule, start_recurring_run
from advgrpo.submitting.server import Access, KfpRefusedError, KfpServer, endpoint_of
from advgrpo.submitting.versions import PipelineVersion, upload_pipeline
from advgrpo.submitting.watching import watch_run

__all__ = [
    "Access",
    "KfpRefusedError",
    "KfpServer",
    "PipelineDocument",
    "PipelineVersion",
    "Schedule",
    "Started",
    "endpoint_of",
    "paths_in_image",
    "run_arguments",
    "start_recurring_run",
    "start_run",
    "upload_pipeline",
    "watch_run",
]
