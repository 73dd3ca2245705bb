"""`make package`: the chart as an archive and, with PUSH, in an OCI registry."""

import os
import sys
from pathlib import Path

import helm_python

from helm.chart import CHART

DIST = Path("dist")


def package(folder: Path) -> Path:
    """Write the chart as an archive, `advgrpo-VERSION.tgz`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(helm_python.package(CHART, destination=folder))


def push(archive: Path, registry: str, *, plain_http: bool = False) -> str:
    """Push an archive to a registry, with the credentials of `helm registry login` or docker.

    Args:
        archive: The chart.
        registry: Host, and folder if any.
        plain_http: Whether the registry has no TLS.

    Returns:
        Its reference for `helm install`.

    Raises:
        HelmRegistryError: If the registry refuses it or does not answer.
    """
    place = f"oci://{registry}/charts"
    helm_python.push(archive, place, plain_http=plain_http)
    return f"{place}/{CHART.name}"


def main() -> int:
    """Package the chart, and push it if the environment has PUSH and REGISTRY.

    Returns:
        Exit status.
    """
    archive = package(DIST)
    print(f"wrote {archive}")
    registry = os.environ.get("REGISTRY", "").rstrip("/")
    if os.environ.get("PUSH"):
        if not registry:
            print("error: PUSH without REGISTRY\n  repair: set REGISTRY, for instance "
                  "registry.example.org/team", file=sys.stderr)  # fmt: skip
            return 2
        print(f"pushed {push(archive, registry)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
