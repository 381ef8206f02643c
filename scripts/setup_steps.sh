# SPDX-License-Identifier: Apache-2.0
# The steps of scripts/setup.sh; sourced by it, run from the root of the repository.

# Where there is a ROS installation (ROS_DISTRO), its packages take the place of the wheels.
ROS_MODE=${ROS_DISTRO:-wheels}
ENVIRONMENT="$ROS_MODE in $PWD" # neither its ROS nor its place can change once it is made
PYTHON_STAMP=.venv/.sigma-python
SYSTEM_STAMP=.venv/.sigma-system
PACKAGES_STAMP=.venv/.sigma-packages
# Where torch comes from: an index of CPU wheels, a mirror. The one that was named first stays until another is named.
torch_index() { cat .venv/.sigma-torch-index 2>/dev/null || true; }
TORCH_INDEX=${TORCH_INDEX-$(torch_index)}
PREFIX_STAMP=.venv/.sigma-prefix
MESSAGES_STAMP=.ros/install/.sigma-messages
UV_VERSION=$(sed -n 's/^uv==//p' requirements/lock.txt)
export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1 # the wheels need not start Python twice here

# Hash of files, and of whether ROS is installed or comes as wheels.
hash_of() {
  { echo "$ROS_MODE"; cat -- "$@"; } | sha256sum | cut -d' ' -f1
}

# Hash of what the build of the messages depends on: file contents that CMake reads, names of files it links.
hash_of_messages() {
  {
    hash_of CMakeLists.txt package.xml msg/*.msg msg/action/*.action msg/srv/*.srv requirements/ros.in scripts/setup_steps.sh
    cat scripts/*.in
    find config launch training -type f ! -name '*.pyc' | LC_ALL=C sort
    pwd
  } | sha256sum | cut -d' ' -f1
}

# step STAMP HASH COMMAND...: runs the command unless the stamp holds the hash.
step() {
  local stamp=$1 hash=$2
  shift 2
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$hash" ]; then return; fi
  "$@"
  echo "$hash" >"$stamp"
}

make_environment() {
  local python options=()
  if [ ! -f "$PYTHON_STAMP" ] && [ "$ROS_MODE" = wheels ] && is_python_312 .venv/bin/python; then
    python=.venv/bin/python # made by hand: kept
  else
    python=$(find_or_fetch_python)
    [ "$ROS_MODE" = wheels ] || options=(--system-site-packages)
    echo "set-up: .venv with $python"
    "$python" -m venv --clear "${options[@]}" .venv
  fi
  [ -x .venv/bin/uv ] || .venv/bin/python -m pip install -q --disable-pip-version-check "uv==$UV_VERSION"
}

is_python_312() {
  [ -x "$1" ] && "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null
}

# A Python 3.12 of this machine; as root with Ubuntu's packages for it, else one that uv downloads.
find_or_fetch_python() {
  if scripts/find_python.sh; then return; fi
  if [ -x /usr/bin/python3.12 ]; then
    scripts/system_packages.sh python3.12-venv python3.12-dev >&2
    if scripts/find_python.sh; then return; fi
  fi
  echo "set-up: no Python 3.12 with venv and headers on this machine; trying to download one with uv" >&2
  scripts/system_packages.sh python3-venv >&2 || true
  if python3 -m venv .ros/fetch >&2 &&
    .ros/fetch/bin/python -m pip install -q --disable-pip-version-check "uv==$UV_VERSION" >&2 &&
    UV_PYTHON_INSTALL_DIR=$PWD/.ros/python .ros/fetch/bin/uv python install 3.12 >&2 &&
    scripts/find_python.sh; then
    return
  fi
  cat >&2 <<'TEXT'
error: no Python 3.12
  expected  a Python 3.12 with venv and C headers (ROS 2 Jazzy and Kilted use it, LeRobot needs it)
  remedy    one of: apt-get install python3.12 python3.12-venv python3.12-dev | pyenv install 3.12 |
            uv python install 3.12 | make setup PYTHON=/path/to/python3.12
TEXT
  return 1
}

# From the index that was named come torch and torchvision alone, so that no other name is asked for there.
install_torch() {
  .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --default-index "$TORCH_INDEX" "$@" \
    torch torchvision -c requirements/lock.txt
  echo "$TORCH_INDEX" >.venv/.sigma-torch-index
}

install_packages() {
  local groups=(core model arm sim train fleet rerun onnx test dev) arguments=() again=() group
  [ "$ROS_MODE" != wheels ] || groups+=(ros)
  for group in "${groups[@]}"; do arguments+=(-r "requirements/$group.in"); done
  # a torch of the same version from elsewhere would be kept
  [ "$TORCH_INDEX" = "$(torch_index)" ] || again=(--reinstall-package torch --reinstall-package torchvision)
  echo "set-up: installing the pinned packages (some gigabytes the first time)"
  if [ -n "$TORCH_INDEX" ]; then
    install_torch "${again[@]}"
    again=()
  fi
  .venv/bin/uv pip install -q --compile-bytecode --python .venv/bin/python "${again[@]}" "${arguments[@]}" \
    -c requirements/lock.txt
  echo "$TORCH_INDEX" >.venv/.sigma-torch-index
  .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e . \
    -e ./plugins/lerobot_policy_sigma -e ./plugins/lerobot_env_sigma
}

# The workspace is a link to the repository: CMake refuses include folders below the source folder,
# and the virtual environment lies there.
build_messages() {
  local log=.ros/build.log
  echo "set-up: building the messages with colcon"
  mkdir -p .ros/src
  ln -sfn ../.. .ros/src/sigma_ros
  # Neither a build folder nor an installed package can be moved.
  [ "$(cat .ros/place 2>/dev/null)" = "$PWD" ] || rm -rf .ros/build .ros/install
  echo "$PWD" >.ros/place
  if ! (
    export VIRTUAL_ENV=$PWD/.venv PATH=$PWD/.venv/bin:$PATH
    if [ "$ROS_MODE" = wheels ]; then
      unset PYTHONPATH COLCON_PREFIX_PATH
      export AMENT_PREFIX_PATH=$PWD/.venv CMAKE_PREFIX_PATH=$PWD/.venv
    fi
    colcon --log-base .ros/log build --symlink-install --base-paths .ros/src --build-base .ros/build \
      --install-base .ros/install --cmake-args "-DPython3_EXECUTABLE=$PWD/.venv/bin/python" -DBUILD_TESTING=OFF
  ) >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    printf 'error: the messages did not build\n  where   %s\n  remedy  read the log; rm -rf .ros && make setup\n' "$log" >&2
    return 1
  fi
}
