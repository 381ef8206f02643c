#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The sdist and a wheel built from it in out/dist, both checked by twine, and the wheel with its pinned packages in an
# empty environment of each Python, 3.12 and 3.13. What that leaves in uv's cache test/packaging/test_wheel.py installs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/setup_steps.sh
. scripts/setup_steps.sh
TWINE=twine==7.0.0

rm -rf out/dist
uv build -q --no-build-isolation --out-dir out/dist .
uv tool run -q --from "$TWINE" twine check --strict out/dist/*

mapfile -t torch < <(torch_options)
for version in 3.12 3.13; do
  if ! python=$(scripts/find_python.sh "$version" ||
    { UV_PYTHON_INSTALL_DIR=$PWD/.ros/python uv python install -q "$version" && scripts/find_python.sh "$version"; }); then
    echo "skipped: no Python $version on this machine, and none could be downloaded"
    continue
  fi
  environment=out/dist/python$version
  uv venv -q --no-project --python "$python" "$environment"
  uv pip install -q --python "$environment" "${torch[@]}" -c requirements/lock.txt \
    "$(realpath out/dist/*.whl)[sim]" || {
    [ $? = 2 ] || exit 1 # 1: the requirements contradict each other; 2: an index does not answer
    echo "skipped: the packages for Python $version could not be fetched"
    continue
  }
  (cd / && "$OLDPWD/$environment/bin/sigma" --help >/dev/null)
  echo "installed with Python $version: $environment/bin/sigma"
done
