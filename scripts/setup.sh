#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv, installs the pinned packages, makes the ROS wheels a prefix and builds the messages.
# Each step leaves a stamp with the hash of what it was made from, so a second run only compares hashes.
# Usage: scripts/setup.sh [--rebuild]   (--rebuild builds the messages in any case)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/setup_steps.sh
. scripts/setup_steps.sh

mkdir -p .ros
exec 9>.ros/lock
flock 9 # two targets at once must not set up the same folder

if [ "${1:-}" = --rebuild ]; then rm -rf .ros/build .ros/install; fi
if ! is_python_312 .venv/bin/python; then rm -f "$PYTHON_STAMP"; fi # the Python it was made with is gone
step "$PYTHON_STAMP" "$ENVIRONMENT" make_environment
step "$SYSTEM_STAMP" "$(hash_of scripts/system_packages.sh)" scripts/system_packages.sh
step "$PACKAGES_STAMP" "$(hash_of requirements/*.in requirements/lock.txt setup.py) $TORCH_INDEX" install_packages
if [ -z "${ROS_DISTRO:-}" ]; then
  step "$PREFIX_STAMP" "$(hash_of scripts/ros_prefix.py "$PACKAGES_STAMP")" .venv/bin/python scripts/ros_prefix.py
fi
step "$MESSAGES_STAMP" "$(hash_of_messages)" build_messages
