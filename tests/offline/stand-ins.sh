#!/usr/bin/env bash
#
# For machines that reach no container registry or no GitHub:
#
#     bash tests/offline/stand-ins.sh COMMAND...
#
# tries to pull the images and to find the repository that the SDK's build and the default task
# need, makes stand-ins for what cannot be had, says which, and becomes COMMAND. Whatever is
# here already is used as it is. An image that stands in has the label programbench.stand-in,
# and stays until it is removed with `docker image rm`; all else is in the user's cache, in
# the folder programbench-stand-ins. COMMAND learns of the repository by its environment.
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "$0")" && pwd)
readonly HERE
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/programbench-stand-ins"
readonly LABEL=programbench.stand-in
readonly SOURCES_LABEL=programbench.stand-in.sources

readonly TASK_IMAGE=programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6
readonly BASE_IMAGE=debian:trixie-slim
readonly PYTHON_IMAGE=python:3.13-bookworm
readonly UV_IMAGE=ghcr.io/astral-sh/uv # its tag is in the SDK's Dockerfile
readonly SDK_URL=https://github.com/OpenHands/software-agent-sdk
readonly PACKAGES=(openhands-sdk openhands-tools openhands-workspace openhands-agent-server)

scratch='' log='' doing=''
stand_ins=()

say() { printf 'stand-ins: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# make WHAT FUNCTION ARGUMENT...: has a function make a stand-in, in a subshell, with a log.
make() {
  doing="making a stand-in for $1" log=$CACHE/$2.log
  shift
  say "$doing, which cannot be had"
  (
    cd "$scratch"
    "$@"
  ) </dev/null >"$log" 2>&1 9>&-
  doing=''
}

at_exit() {
  rm -rf "$scratch"
  [ -n "$doing" ] || return 0
  tail -n 20 "$log" >&2
  say "failed: $doing. The whole log: $log"
}

# --- The SDK's repository ------------------------------------------------------------------

# Git is told, by COMMAND's environment alone, that the repository's address is a folder.
ensure_sdk_repository() {
  local n=${GIT_CONFIG_COUNT:-0} stand_in
  stand_in=$CACHE/sdk-$1.git
  if [ ! -d "$stand_in" ]; then
    say "looking for $SDK_URL"
    if GIT_TERMINAL_PROMPT=0 timeout 10 \
      git ls-remote --exit-code "$SDK_URL.git" "v$1" >/dev/null 2>&1; then return; fi
    make "$SDK_URL" make_sdk_repository "$1" "$stand_in"
  fi
  stand_ins+=("the SDK's repository")
  export GIT_CONFIG_COUNT=$((n + 1))
  export "GIT_CONFIG_KEY_$n=url.file://${stand_in%.git}.insteadOf"
  export "GIT_CONFIG_VALUE_$n=$SDK_URL"
}

# The published source packages, laid out as the repository lays them out, and locked.
make_sdk_repository() {
  local package
  export TMPDIR=$scratch # uv leaves a lock of its own there
  # pip asks each source package for its metadata, with a setuptools that is at hand.
  uvx --python "${UV_PYTHON:->=3.12}" --with setuptools pip download --no-deps \
    --no-binary :all: --no-build-isolation --dest packages "${PACKAGES[@]/%/==$1}"
  mkdir sdk
  cd sdk
  {
    echo '[tool.uv]'
    grep '^exclude-newer *=' "$HERE/../../pyproject.toml"
    echo '[tool.uv.workspace]'
    printf 'members = ["%s", "%s", "%s", "%s"]\n' "${PACKAGES[@]}"
    echo '[tool.uv.sources]'
    printf '%s = { workspace = true }\n' "${PACKAGES[@]}"
  } >pyproject.toml
  # The SDK's build takes a checkout's source distribution, so that must hold everything.
  echo 'include pyproject.toml uv.lock README.md LICENSE' >MANIFEST.in
  echo "Stands in for $SDK_URL; made from its source packages." | tee README.md >LICENSE
  for package in "${PACKAGES[@]}"; do
    mkdir "$package"
    tar -xzf "../packages/${package//-/_}-$1.tar.gz" --strip-components 1 -C "$package"
    echo "graft $package" >>MANIFEST.in
  done
  # The frontend that this line names would be pulled; the engine's own builds the file too.
  sed -i '/^# *syntax *=/d' openhands-agent-server/openhands/agent_server/docker/Dockerfile
  uv lock
  git init --quiet
  git add --all --force
  git -c user.name=nobody -c user.email=nobody@example.invalid -c commit.gpgsign=false \
    commit --quiet --message "v$1"
  git -c tag.gpgsign=false tag "v$1"
  git clone --quiet --bare . "$2"
}

# --- Images --------------------------------------------------------------------------------

image_label() {
  docker image inspect \
    --format "{{with .Config.Labels}}{{index . \"$2\"}}{{end}}" "$1" 2>/dev/null
}

# The engine gives up within seconds on a registry that it cannot reach.
pulled() {
  local words
  say "pulling $1"
  words=$(timeout 1800 docker pull --quiet --platform linux/amd64 "$1" 2>&1 >/dev/null) || {
    say "${words##*$'\n'}"
    return 1
  }
}

# ensure_image NAME FUNCTION: NAME as it is here, or pulled, or else made by FUNCTION.
ensure_image() {
  local stand_in
  if ! stand_in=$(image_label "$1" "$LABEL"); then
    if pulled "$1"; then return; fi
    make "$1" "$2" "$1"
    stand_in=yes
  fi
  if [ -n "$stand_in" ]; then stand_ins+=("$1"); fi
}

# A small Debian that trusts whom this machine trusts: builds go through the same proxies.
make_base_image() {
  local archive
  if ! command -v debootstrap >/dev/null; then
    apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 debootstrap
  fi
  apt-get update
  archive=$(bash "$HERE/debian-archive.sh")
  mkdir -p root/usr/local/share
  cp -rL /usr/local/share/ca-certificates root/usr/local/share/ 2>/dev/null || true
  debootstrap --variant=minbase --include=ca-certificates trixie root "$archive"
  rm -rf root/var/lib/apt/lists/* root/var/cache/apt/*.bin root/var/cache/apt/archives/*.deb
  tar --numeric-owner -C root -c . |
    docker import --change "LABEL $LABEL=yes" --change 'CMD ["bash"]' - "$1"
  rm -rf root
}

make_uv_image() {
  uv pip install --quiet --no-deps --target uv "uv==${1#*:}"
  tar --owner=0 --group=0 -C uv/bin -c uv uvx |
    docker import --change "LABEL $LABEL=yes" - "$1"
}

build() {
  docker build --progress plain --platform linux/amd64 --label "$LABEL=yes" "$@"
}

make_python_image() { build --tag "$1" "$HERE/python"; }

# The uv that the SDK's Dockerfile names.
uv_image() {
  local file=$CACHE/uv-image-$1
  if [ ! -s "$file" ]; then
    uv pip install --quiet --no-deps --target "$scratch/server" "openhands-agent-server==$1"
    grep -oE -m 1 "$UV_IMAGE:[^ ]+" \
      "$scratch/server/openhands/agent_server/docker/Dockerfile" >"$file"
  fi
  cat "$file"
}

# The real image takes a while to pull: it is several GiB. The stand-in is made anew whenever
# its sources changed.
ensure_task_image() {
  local sources made_of
  sources=$(cd "$HERE/task" && find . -type f -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum | sha256sum)
  sources=${sources%% *}
  if made_of=$(image_label "$TASK_IMAGE" "$SOURCES_LABEL"); then
    if [ -z "$made_of" ]; then return; fi # the real one
  else
    if pulled "$TASK_IMAGE"; then return; fi
  fi
  stand_ins+=("$TASK_IMAGE")
  if [ "$made_of" != "$sources" ]; then make "$TASK_IMAGE" make_task_image "$sources"; fi
}

make_task_image() {
  build --label "$SOURCES_LABEL=$1" --tag "$TASK_IMAGE" "$HERE/task"
}

# --- Main ----------------------------------------------------------------------------------

main() {
  local version uv list
  version=$(sed -nE 's/.*openhands-sdk==([0-9.]+).*/\1/p' "$HERE/../../pyproject.toml")
  mkdir -p "$CACHE"
  # Several tasks may start at a time; the lock stays out of what they start.
  exec 9>"$CACHE/lock"
  flock 9
  scratch=$(mktemp -d)
  trap at_exit EXIT

  ensure_sdk_repository "$version"
  uv=$(uv_image "$version")
  ensure_image "$uv" make_uv_image
  ensure_image "$BASE_IMAGE" make_base_image # of which the other two are made
  ensure_image "$PYTHON_IMAGE" make_python_image
  ensure_task_image
  if [ ${#stand_ins[@]} -gt 0 ]; then
    printf -v list ', %s' "${stand_ins[@]}"
    say "in use: ${list#, }"
  fi

  trap - EXIT
  rm -rf "$scratch"
  exec 9>&-
  exec "$@"
}

if [ $# = 0 ]; then
  echo "usage: bash tests/offline/stand-ins.sh COMMAND..." >&2
  exit 2
fi
main "$@"
