#!/usr/bin/env bash
# Runs the benchmark of a GPU: with .venv if there is one, or else with python3 and the wheels that
# studies/bench/wheels.sh collected.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -x .venv/bin/python ]; then
    exec .venv/bin/python -m studies.bench.gpu "$@"
fi
site=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" .whl/*.whl
PYTHONUNBUFFERED=1 PYTHONPATH="$site" exec python3 -m studies.bench.gpu "$@"
