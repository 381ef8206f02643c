#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of a Python 3.12 that runs, can make a virtual environment and has its C headers.
# A name on PATH is not enough: pyenv puts a `python3.12` there that fails unless that version is selected.
set -euo pipefail

# Prints the interpreter that a candidate stands for (a virtual environment's own is no base for another).
base_of() {
  "$1" - 2>/dev/null <<'PY'
import ensurepip, pathlib, sys, sysconfig, venv
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
if sys.version_info[:2] != (3, 12) or not header.is_file():
    sys.exit(1)
print(sys._base_executable)
PY
}

candidates() {
  [ -z "${PYTHON:-}" ] || echo "$PYTHON"
  type -ap python3.12 python3 2>/dev/null || true
  ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12 2>/dev/null || true
  ls -d "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/cpython-3.12*/bin/python3.12 2>/dev/null || true
  ls -d "${1:-.}"/.ros/python/cpython-3.12*/bin/python3.12 2>/dev/null || true
  ls -d /usr/bin/python3.12 /usr/local/bin/python3.12 /opt/*/bin/python3.12 2>/dev/null || true
}

while read -r candidate; do
  if [ -x "$candidate" ] && base_of "$candidate"; then exit 0; fi
done < <(candidates "$(dirname "$0")/..")
exit 1
