"""`advgrpo demo-ui`: look at what a demo left."""

import time
from pathlib import Path

from rich.console import Console

from advgrpo.demo.lock import only_demo_in
from advgrpo.errors import ConfigError
from advgrpo.stores import BUCKET, EmbeddedStores


def serve_stores(folder: Path, *, console: Console, mlflow_port: int, s3_port: int) -> None:
    """Serve a demo's MLflow and S3 stores until Ctrl-C.

    Args:
        folder: The demo's folder.
        console: Where to say where they are.
        mlflow_port: Port of MLflow; 0 takes a free one.
        s3_port: Port of the S3 store; 0 takes a free one.

    Raises:
        ConfigError: If there was no demo, or one runs now.
        StorageError: If a server does not start.
    """
    if not (folder / "stores").is_dir():
        raise ConfigError(f"no demo has run in {folder} yet", repair="run `make demo` first")
    with only_demo_in(folder):
        console.print("Starting ...")
        with EmbeddedStores(folder / "stores", mlflow_port=mlflow_port, s3_port=s3_port) as stores:
            credentials = folder / "stores" / "credentials.json"
            for name, value in (
                ("MLflow", stores.tracking_uri),
                ("S3", f"{stores.s3_endpoint} (bucket {BUCKET}; keys in {credentials})"),
                ("Report", (folder / "report.html").resolve().as_uri()),
            ):
                console.print(f"{name + ':':<8}{value}", markup=False, soft_wrap=True)
            console.print("Ctrl-C ends it.")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                console.print("Stopped.")
