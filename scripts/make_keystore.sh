#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the keys of a robot's enclaves: scripts/make_keystore.sh KEYSTORE [CONTRACT]
# Needs `ros2 security` (package sros2). Domain id: ROS_DOMAIN_ID at this moment goes into the permissions.
set -euo pipefail

keystore=${1:?usage: make_keystore.sh KEYSTORE [CONTRACT]}
contract=${2:-so101}
command -v ros2 >/dev/null && ros2 security --help >/dev/null 2>&1 || {
  echo "error: ros2 security is not here; install the package sros2 of your ROS distribution" >&2
  exit 2
}
[ ! -e "$keystore" ] || { echo "error: $keystore exists already" >&2; exit 2; }

umask 077
policy=$(mktemp --suffix .policy.xml)
trap 'rm -f "$policy"' EXIT
python3 -m sigma_ros.nodes.security_policy "$contract" > "$policy"
ros2 security create_keystore "$keystore"
for enclave in $(grep -o 'enclave path="[^"]*"' "$policy" | cut -d'"' -f2); do
  ros2 security create_enclave "$keystore" "$enclave"
  ros2 security create_permission "$keystore" "$enclave" "$policy"
done
chmod -R go-rwx "$keystore"
cat <<TEXT
Keys are in $keystore. In each shell that starts a node:
  export ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce ROS_SECURITY_KEYSTORE=$keystore
and start it with its enclave: --ros-args --enclave /sigma/supervisor (or policy, operator, also for run_policy_node, driver, cameras, incidents)
Keep $keystore/private away from the robot's computer: whoever has it can make new enclaves.
TEXT
