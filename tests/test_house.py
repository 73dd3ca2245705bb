"""Rules that hold for the whole tree."""

import ast
import importlib
import pkgutil
import re
import subprocess
from pathlib import Path

import pytest

import advgrpo

ROOT = Path(__file__).parents[1]
PACKAGES = [
    module.name
    for module in pkgutil.walk_packages(advgrpo.__path__, "advgrpo.")
    if module.ispkg and "pretraining" not in module.name
]


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_those_that_a_package_exports(name: str) -> None:
    package = importlib.import_module(name)
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    imported = sorted(
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    )
    assert sorted(vars(package).get("__all__", [])) == imported


def _tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", pattern],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_pins_are_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_the_metric_of_alarms_is_named_in_one_place() -> None:
    spelled = [path for path in _tracked("advgrpo/*.py") if '"watch/alarm"' in path.read_text()]
    assert spelled == [ROOT / "advgrpo" / "records.py"]


@pytest.mark.parametrize("word", ["utils", "helpers", "common"])
def test_no_file_has_a_meaningless_name(word: str) -> None:
    assert [path for path in _tracked("*.py") if path.stem == word] == []


def test_components_import_advgrpo_in_their_bodies_only() -> None:
    for path in _tracked("components/**/*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = []
            assert not [name for name in names if name.split(".")[0] == "advgrpo"], path


@pytest.mark.parametrize(
    "pattern",
    [
        r"trust_remote_code",
        r"verify(_ssl)?\s*=\s*False",
        r"CERT_NONE|_create_unverified_context|disable_warnings",
        r"shell\s*=\s*True|\bos\.system\(",
        r"yaml\.(unsafe_load|full_load)|yaml\.load(_all)?\((?!.*SafeLoader)",
        r"\b(eval|exec)\(",
        r"\.extractall\([^f]",
    ],
)
def test_no_source_executes_input_or_disables_verification(pattern: str) -> None:
    sources = [
        path
        for kind in ("*.py", "*.yaml", "*.yml", "*Dockerfile", "*.sh")
        for path in _tracked(kind)
        if path.parts[len(ROOT.parts)] not in {"tests", "studies"}
    ]
    assert len(sources) > 200
    found = [
        f"{path}: {line.strip()}"
        for path in sources
        for line in path.read_text("utf-8").splitlines()
        if re.search(pattern, line) and not re.search(r"\.(eval|exec)\(", line)
    ]
    assert found == []


def test_s3_is_reached_from_one_room() -> None:
    users = {
        path.parent.relative_to(ROOT).as_posix()
        for path in _tracked("*.py")
        if path.parts[len(ROOT.parts)] != "tests"
        and re.search(
            r"^\s*(import|from) (boto3|botocore|s3transfer)", path.read_text("utf-8"), re.M
        )
    }
    assert users == {"advgrpo/storage"}


_PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
_UNPICKLE = {
    # Of torch, pandas and DeepSpeed's engine.
    *("load", "read_pickle", "load_checkpoint", "save_checkpoint"),
    # torch.distributed's, which unpickle what comes over the network.
    *("all_gather_object", "broadcast_object_list", "gather_object", "recv_object_list"),
    *("scatter_object_list", "send_object_list"),
}
_FALSE, _TRUE = {"weights_only", "use_safetensors"}, {"allow_pickle", "trust_remote_code"}
_ALLOWED = {
    # Converts published pickles; torch builds nothing but tensors from them.
    ("advgrpo/models/scorers/conversion.py", "import pickle"),
    ("advgrpo/models/scorers/conversion.py", "torch.load"),
}


def _unpickling(tree: ast.AST) -> set[str]:
    """Name what in a module could run what a file holds."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {f"import {a.name}" for a in node.names if a.name in _PICKLERS}
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in _PICKLERS | {"torch"}:
            names = {alias.name for alias in node.names}
            if node.module != "torch" or "load" in names:
                found.add(f"import {node.module}")
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in _UNPICKLE:
                owner = ast.unparse(node.func.value)
                if owner in {"torch", "np", "numpy"} or node.func.attr != "load":
                    found.add(f"{owner}.{node.func.attr}")
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg in _FALSE and value is False) or (
                    keyword.arg in _TRUE and value is True
                ):
                    found.add(f"{keyword.arg}={value}")
    return found


def test_nothing_is_unpickled_anywhere() -> None:
    """Checkpoints are our own safetensors and JSON; DeepSpeed's own files are never made."""
    found = {
        (path.relative_to(ROOT).as_posix(), what)
        for folder in ("advgrpo", "components", "pipelines", "helm", "images", "studies")
        for path in _tracked(f"{folder}/**/*.py")
        for what in _unpickling(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == _ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from pickle import loads", "from torch import load"),
        *("torch.load(path)", "np.load(path)", "pandas.read_pickle(path)"),
        *("engine.load_checkpoint(folder)", "dist.broadcast_object_list(things)"),
        *("read(path, allow_pickle=True)", "read(path, weights_only=False)"),
    ],
)
def test_the_search_for_unpickling_finds_it(code: str) -> None:
    assert _unpickling(ast.parse(code))
