# SPDX-License-Identifier: Apache-2.0
# Usage: `. ./env.sh` (bash or zsh, from any folder) after `make setup`.
# Gives a shell in which `sigma`, the nodes and `sigma_ros.msg` work. Everything that is only a
# default (domain id, discovery range) can be set before.

if [ -n "${ZSH_VERSION:-}" ]; then
  eval '_sigma_root=${${(%):-%x}:A:h}'
else
  _sigma_root=$(cd "$(dirname "${BASH_SOURCE:-./env.sh}")" && pwd)
fi
_sigma_venv=$_sigma_root/.venv
_sigma_install=$_sigma_root/.ros/install/sigma_ros

# Puts a folder in front of a path variable, once.
_sigma_prepend() {
  eval "_sigma_old=\${$1:-}"
  case ":$_sigma_old:" in
    *":$2:"*) ;;
    *) export "$1=$2${_sigma_old:+:$_sigma_old}" ;;
  esac
}

if [ ! -x "$_sigma_venv/bin/python" ] || [ ! -d "$_sigma_install" ]; then
  echo "env.sh: not set up yet; run: make -C $_sigma_root setup" >&2
fi

export VIRTUAL_ENV="$_sigma_venv"
_sigma_prepend PATH "$_sigma_venv/bin"

if [ -z "${ROS_DISTRO:-}" ]; then
  # The ROS wheels: the virtual environment is the ROS prefix. They would start Python a second time
  # to set the library path; it is set here instead.
  for _sigma_libs in $(find "$_sigma_venv/lib/python3.12/site-packages" -maxdepth 1 -name 'ros_*.libs' 2>/dev/null); do
    _sigma_prepend LD_LIBRARY_PATH "$_sigma_libs"
  done
  _sigma_prepend LD_LIBRARY_PATH "$_sigma_venv/lib"
  _sigma_prepend AMENT_PREFIX_PATH "$_sigma_venv"
  _sigma_prepend CMAKE_PREFIX_PATH "$_sigma_venv"
  export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  # Stay on this machine, and away from other graphs on it.
  export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
  export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$((20 + $(printf %s "$_sigma_root" | cksum | cut -d' ' -f1) % 80))}"
fi

_sigma_prepend LD_LIBRARY_PATH "$_sigma_install/lib"
_sigma_prepend AMENT_PREFIX_PATH "$_sigma_install"
_sigma_prepend CMAKE_PREFIX_PATH "$_sigma_install"
_sigma_prepend PYTHONPATH "$_sigma_install/lib/python3.12/site-packages"
_sigma_prepend PYTHONPATH "$_sigma_root"
export RCUTILS_COLORIZED_OUTPUT="${RCUTILS_COLORIZED_OUTPUT:-0}"

# Raw camera images fit into these shared-memory segments; the defaults lose nearly half of them (docs/performance.md).
case "${ROS_DISTRO:-}" in
  humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$_sigma_root/config/fastdds.xml}" ;;
  *) export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$_sigma_root/config/fastdds.xml}" ;;
esac

unset _sigma_root _sigma_venv _sigma_install _sigma_old _sigma_libs
unset -f _sigma_prepend
