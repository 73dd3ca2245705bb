"""Kubernetes' quantities in the form that its own programs write."""

from decimal import Decimal

_BINARY = {f"{prefix}i": Decimal(1024**power) for power, prefix in enumerate("KMGTPE", start=1)}
_DECIMAL = {"m": Decimal(1).scaleb(-3)} | {
    prefix: Decimal(1000**power) for power, prefix in enumerate(["", *"kMGTPE"])
}


def canonical_quantity(text: str) -> str:
    """Return a quantity as Kubernetes' programs write it: `500m` for `0.5`, `2Gi` for `2048Mi`.

    Programs that update an object write all of its quantities in this form. Where a field may not
    change, as the trainer of a TrainJob, such an update is refused if the object had another form.

    Source:
        Kubernetes 1.36, `k8s.io/apimachinery/pkg/api/resource`, `Quantity.CanonicalizeBytes`.
    """
    # Importing it takes seconds, and every command reads the settings.
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415

    value = parse_quantity(text)
    binary = text.endswith("i") and value >= 1024 and not value % 1
    for suffix, unit in reversed((_BINARY if binary else _DECIMAL).items()):
        if not value % unit:
            return f"{int(value / unit)}{suffix}" if value else "0"
    return text if value % 1 else str(int(value))
