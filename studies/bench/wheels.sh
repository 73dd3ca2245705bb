#!/usr/bin/env bash
# Collects in .whl/ what a GPU machine without internet lacks for `make bench-gpu`, if it has Python
# 3.12, torch with CUDA, transformers, accelerate, peft and jaxtyping. Less than 64 MiB.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
# Not all pins: those of packages that machine has differ.
pinned() { grep -E "^($1)==" constraints.txt; }
fetch() {
    "$python" -m pip download --quiet --only-binary=:all: --python-version 3.12 \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --dest .whl "$@"
}
rm -rf .whl
# With its own dependencies, because the version of pydantic-core follows from that of pydantic.
fetch $(pinned "pydantic")
fetch --no-deps $(pinned "boto3|botocore|diffusers|hjson|importlib_metadata|jmespath|s3transfer")
# Published as source alone; its ops are not compiled.
DS_BUILD_OPS=0 "$python" -m pip wheel --quiet --no-deps --wheel-dir .whl $(pinned "deepspeed")
du -sh .whl
