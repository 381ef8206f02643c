#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a Python that runs, can make a virtual environment and has its C headers.
# Usage: scripts/find_python.sh [VERSION]   (3.12 unless said)
# A name on PATH is not enough: pyenv puts a `python3.12` there that fails unless that version is selected.
set -euo pipefail
version=${1:-3.12}
root=$(dirname "$0")/..

# Prints the interpreter that a candidate stands for (a virtual environment's own is no base for another).
base_of() {
  "$1" - "$version" 2>/dev/null <<'PY'
import ensurepip, pathlib, sys, sysconfig, venv
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
if "%d.%d" % sys.version_info[:2] != sys.argv[1] or not header.is_file():
    sys.exit(1)
print(sys._base_executable)
PY
}

candidates() {
  [ -z "${PYTHON:-}" ] || echo "$PYTHON"
  type -ap "python$version" python3 2>/dev/null || true
  ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/"python$version" 2>/dev/null || true
  ls -d "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-"$version"*/bin/"python$version" 2>/dev/null || true
  ls -d "$root"/.ros/python/cpython-"$version"*/bin/"python$version" 2>/dev/null || true
  ls -d {/usr,/usr/local,/opt/*}/bin/"python$version" 2>/dev/null || true
}

while read -r candidate; do
  if [ -x "$candidate" ] && base_of "$candidate"; then exit 0; fi
done < <(candidates)
exit 1
