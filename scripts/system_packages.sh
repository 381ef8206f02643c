#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian or Ubuntu packages that the set-up needs: by itself as root, else it says which are missing.
set -euo pipefail

needed=(g++ make)
wanted=(libegl1 libgl1-mesa-dri libosmesa6) # MuJoCo draws with one of them
[ -n "${ROS_DISTRO:-}" ] || needed+=(ament-cmake)
for package in "$@"; do needed+=("$package"); done

missing() {
  local package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok' || echo "$package"
  done
}

if ! command -v dpkg-query >/dev/null; then
  echo "note: not Debian or Ubuntu; make sure that these are there: ${needed[*]} ${wanted[*]}" >&2
  exit 0
fi

mapfile -t absent < <(missing "${needed[@]}" "${wanted[@]}")
[ ${#absent[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ]; then
  echo "set-up: installing ${absent[*]} with apt"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${absent[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    printf 'error: apt could not install packages\n  got     %s\n  remedy  install them by hand, then run make again\n' \
      "${absent[*]}" >&2
    exit 1
  fi
  exit 0
fi

mapfile -t blocking < <(missing "${needed[@]}")
if [ ${#blocking[@]} -gt 0 ]; then
  printf 'error: system packages are missing\n  missing  %s\n  remedy   sudo apt-get install %s\n' \
    "${absent[*]}" "${absent[*]}" >&2
  exit 1
fi
echo "note: without ${absent[*]} the simulator may be unable to draw; sudo apt-get install ${absent[*]}" >&2
