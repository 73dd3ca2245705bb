"""What `make chart` does: bring the chart's generated files up to date, lint it and render it.

Two files are written in part from elsewhere: README.md from the comments of values.yaml, and the
section `cluster` of values.schema.json from `ClusterSettings`.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

from advgrpo.cluster.settings import ClusterSettings

CHART = Path(__file__).parent / "advgrpo"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
README = CHART / "README.md"
SCHEMA = CHART / "values.schema.json"

NOT_VALUES = (
    "image",
    "image_pull_policy",
    "image_pull_secrets",
    "service_account",
    "config_map",
    "s3_secret",
    "mlflow_secret",
    "cache_claim",
    "cache_size",
)
"""Settings of a cluster that are no values under `cluster`: they follow from other values of the
chart."""

OFFLINE = {"checks": {"customResources": False, "existingObjects": False}}
"""Values for a place where no cluster can be asked."""

Values = Mapping[str, Any]

_HEAD = """# Chart advgrpo

Written by `make chart` from the comments of values.yaml; change them, not this page.

What advgrpo needs in a namespace of a cluster that has Kubeflow Pipelines 2.17 and Kubeflow's
training operator 1.9: roles, settings, Secrets, network policies, the pipeline, the janitor and, if
wanted, an MLflow server and what promotes models. It brings neither Pipelines nor the operator.

    helm install advgrpo helm/advgrpo --namespace research --values my-values.yaml
    helm test advgrpo --namespace research

Start from an example: {examples}.

What must be given is `s3.bucket`, access to it, and `mlflow.trackingUri` or
`mlflow.server.enabled`. Who installs it needs an administrator's rights in the namespace, and those
that its roles give.

| value | default | meaning |
|---|---|---|
"""


def render(values: Values, *, name: str = "advgrpo", namespace: str = "research") -> dict[str, str]:
    """Render the chart as `helm template` does.

    Args:
        values: What differs from values.yaml.
        name: Name of the release.
        namespace: Its namespace.

    Returns:
        Text by template.

    Raises:
        HelmError: If values are refused.
    """
    # A chart remembers what an earlier rendering did to it, so each has its own.
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(dict(values), name=name, namespace=namespace)


def example(path: Path) -> dict[str, Any]:
    """Read values of an example, for a place where no cluster can be asked."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) | OFFLINE


def lint(values: Values) -> list[str]:
    """Lint the chart as `helm lint --strict` does.

    Returns:
        What is wrong.
    """
    report = helm_python.lint(CHART, dict(values), strict=True)
    return [str(error) for error in report["errors"]]


def readme() -> str:
    """Describe every value: key, default and meaning."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    names = ", ".join(f"[{path.stem}](examples/{path.name})" for path in EXAMPLES)
    rows = (f"| `{key}` | {default} | {meaning} |\n" for key, default, meaning in described(text))
    return _HEAD.format(examples=names) + "".join(rows)


def described(text: str) -> Iterator[tuple[str, str, str]]:
    """Find each value of a file and the comment above it.

    Args:
        text: A values file. A mapping whose first entry has a comment of its own is a group; any
            other is one value.

    Yields:
        Key with dots, default and meaning; the last is empty where there is no comment. A group
        has no default, and is left out if it has no comment.
    """
    values = yaml.compose(text)
    assert isinstance(values, yaml.MappingNode)
    yield from _described(values, text.splitlines(), "")


def _described(
    node: yaml.MappingNode, lines: list[str], prefix: str
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = _comment_above(lines, key.start_mark)
        if _is_group(value, lines):
            if comment:
                yield name, "", comment
            yield from _described(value, lines, f"{name}.")
        else:
            default = json.dumps(yaml.safe_load(yaml.serialize(value)), ensure_ascii=False)
            yield name, f"`{default}`", comment


def _is_group(node: yaml.Node, lines: list[str]) -> bool:
    if not isinstance(node, yaml.MappingNode) or not node.value:
        return False
    key, value = node.value[0]
    return bool(_comment_above(lines, key.start_mark)) or _is_group(value, lines)


def _comment_above(lines: list[str], mark: yaml.Mark) -> str:
    above: list[str] = []
    line = mark.line
    if lines[line][: mark.column].strip():
        return ""  # Another key stands before it.
    while line and (found := re.fullmatch(r"\s*# ?(.*)", lines[line - 1])):
        above.insert(0, found[1])
        line -= 1
    return " ".join(above).replace("|", "\\|")


def schema() -> str:
    """Give the chart's schema with its section `cluster` as `ClusterSettings` has it."""
    chart = json.loads(SCHEMA.read_text(encoding="utf-8"))
    settings = ClusterSettings.model_json_schema()
    parts = {_lower(name): part for name, part in settings.pop("$defs").items()}
    settings["properties"] = {
        name: field for name, field in settings["properties"].items() if name not in NOT_VALUES
    }
    del settings["required"]
    chart["$defs"] |= _plain(parts | {"cluster": settings})
    return json.dumps(chart, indent=2, ensure_ascii=False) + "\n"


def _plain(part: Any) -> Any:  # noqa: ANN401 - any JSON
    """Leave out titles and defaults; say where the definitions are in the chart's schema."""
    if isinstance(part, list):
        return [_plain(item) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return {"$ref": "#/$defs/" + _lower(part["$ref"].rpartition("/")[2])}
    return {
        key: {name: _plain(field) for name, field in value.items()}
        if key == "properties"
        else _plain(value)
        for key, value in part.items()
        if key not in {"title", "default"}
    }


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]


def main() -> int:
    """Write, lint, render.

    Returns:
        Exit status.
    """
    SCHEMA.write_text(schema(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    for path in EXAMPLES:
        values = example(path)
        if errors := lint(values):
            print(f"{path}:", *errors, sep="\n  ", file=sys.stderr)
            return 1
        print(f"{path.name}: {len(render(values))} templates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
