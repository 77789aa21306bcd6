#!/usr/bin/env bash
# Writes the exact pins anew. Needs the development environment; see CONTRIBUTING.md.
# One version of each package for both Pythons, so that what CI tests with 3.11 is what runs with 3.12.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --python-version 3.11 --universal --fork-strategy fewest --no-emit-index-url --no-header "$@"
}
compile --generate-hashes pyproject.toml --output-file requirements/serve.txt
compile --generate-hashes --constraint requirements/serve.txt requirements/build.in --output-file requirements/build.txt
compile --generate-hashes requirements/triton.in --output-file requirements/triton.txt
compile --generate-hashes requirements/triton-gpu.in --output-file requirements/triton-gpu.txt
compile --generate-hashes --no-deps requirements/pytriton.in --output-file requirements/pytriton.txt
compile --extra dev --constraint requirements/serve.txt pyproject.toml --output-file requirements/dev.txt
compile --generate-hashes --extra scale --constraint requirements/serve.txt pyproject.toml --output-file requirements/scale.txt
# For one platform only: the overrides take packages out with a marker, which a universal file would keep.
uv pip compile --quiet --python-version 3.11 --no-emit-index-url --no-header \
  --override requirements/export-overrides.txt --constraint requirements/serve.txt \
  requirements/export.in --output-file requirements/export.txt
