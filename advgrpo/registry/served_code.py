"""The code of advgrpo in a registered version, as a wheel."""

import base64
import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

import advgrpo

_WEIGHTS = "pocket/weights"


def write_wheel(folder: Path, *, weights: bool) -> str:
    """Write the running advgrpo as a wheel without dependencies.

    Args:
        folder: The version's files.
        weights: Whether to include the weights that the package ships, about 6 MB.

    Returns:
        Its path below `folder`, which is also a requirement for pip.
    """
    name = f"wheels/advgrpo-{advgrpo.__version__}-py3-none-any.whl"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(_wheel(weights))
    return name


@cache
def _wheel(weights: bool) -> bytes:
    version = advgrpo.__version__
    info = f"advgrpo-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: advgrpo\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: advgrpo\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    contents = {name: text.encode() for name, text in files.items()}
    root = Path(advgrpo.__file__).parent
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        skipped = "__pycache__" in name or name.startswith("testing/")
        if path.is_file() and not skipped and (weights or not name.startswith(_WEIGHTS)):
            contents[f"advgrpo/{name}"] = path.read_bytes()
    record = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in contents.items():
            # Weights hardly shrink, and take seconds.
            kind = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            # A ZipInfo has no time, so that a resumed registration writes the same bytes.
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return stream.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
