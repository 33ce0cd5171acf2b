#!/usr/bin/env bash
#
# Makes a fresh Debian or Ubuntu machine ready for the example and its tests, as root:
#
#     bash tests/setup-debian.sh COMMAND...
#
# and becomes COMMAND. Whoever has git, ssh, uv and a Docker engine with buildx needs none of
# this. It installs only what is missing, says so, and can be run again. What it changes:
#
# - packages: git, ssh, Docker with buildx, and a Python. If the release has no buildx, as
#   Debian 12, they come from Debian 13, which is then one of apt's sources, with a priority
#   at which nothing else is taken from it;
# - /opt/uv and /usr/local/bin/uv;
# - the Docker engine is started if none answers, and goes on running;
# - if root may not have as many open files as the SDK gives its container, as in some
#   sandboxes: /usr/local/sbin/runc-within-limits and /etc/docker/daemon.json, which names it.
#
# Last it tries to pull the images, and makes stand-ins for what is out of reach: see
# tests/offline/stand-ins.sh.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
readonly HERE
readonly DEBIAN_13=/etc/apt/sources.list.d/debian-13-for-docker.sources
readonly OPEN_FILES=65536 # in the SDK's `docker run`
readonly RUNC=/usr/local/sbin/runc-within-limits

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# Shows what a command says only if it fails.
quietly() {
  local log
  log=$(mktemp)
  if ! "$@" </dev/null >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm "$log"
    die "failed: $*"
  fi
  rm "$log"
}

need_root_of_debian() {
  grep -Eqs '^ID=(debian|ubuntu)' /etc/os-release || die "$1, and this is not Debian or Ubuntu"
  [ "$(id -u)" = 0 ] || die "$1, and only root can install it"
}

apt_install() {
  say "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  quietly apt-get update
  quietly apt-get install --yes --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@"
}

has_package() { apt-cache show "$1" >/dev/null 2>&1; }

install_from_debian_13() {
  local archive
  if [ ! -e "$DEBIAN_13" ]; then
    quietly apt-get update
    archive=$(bash "$HERE/offline/debian-archive.sh")
    [ -n "$archive" ] || die "$1 is missing: this release has none, and is not Debian's"
    say "adding Debian 13 to apt's sources, for packages that this release lacks"
    printf '%s\n' 'Package: *' 'Pin: release n=trixie' 'Pin-Priority: 100' \
      >/etc/apt/preferences.d/debian-13-for-docker
    printf '%s\n' 'Types: deb' "URIs: $archive" 'Suites: trixie' \
      'Components: main' 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' \
      >"$DEBIAN_13"
  fi
  apt_install --target-release=trixie "$@"
}

# Debian parts the engine from its client since 13; Ubuntu does not.
install_docker() {
  quietly apt-get update
  if [ -e "$DEBIAN_13" ] || ! has_package docker-buildx; then
    install_from_debian_13 docker.io docker-cli docker-buildx
  elif has_package docker-cli; then
    apt_install docker.io docker-cli docker-buildx
  else
    apt_install docker.io docker-buildx
  fi
}

# runc fails where it is to allow more open files than this machine does.
wrap_runc_if_limited() {
  if (ulimit -n "$OPEN_FILES") 2>/dev/null || [ -e /etc/docker/daemon.json ]; then return; fi
  say "wrapping runc: only $(ulimit -Hn) open files are allowed here"
  mkdir -p /etc/docker
  install --mode=755 "$HERE/offline/runc-within-limits" "$RUNC"
  cat >/etc/docker/daemon.json <<JSON
{
  "default-runtime": "runc-within-limits",
  "runtimes": {"runc-within-limits": {"path": "$RUNC"}}
}
JSON
}

engine_answers() { timeout 20 docker version >/dev/null 2>&1; }

# Holds nothing of its caller's open, such as a pipe that somebody reads to its end.
become_engine() {
  local fd
  exec </dev/null >>/var/log/dockerd.log 2>&1
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    if ((fd > 2)); then exec {fd}>&-; fi
  done
  cd /
  exec setsid dockerd
}

start_engine() {
  say "starting the Docker engine"
  if [ -d /run/systemd/system ]; then
    quietly systemctl enable --now docker
  else
    become_engine &
  fi
  for _ in $(seq 120); do
    if engine_answers; then return; fi
    sleep 0.5
  done
  die "the Docker engine does not answer; see its log, /var/log/dockerd.log or journalctl"
}

ensure_docker() {
  if docker version 2>&1 | grep -q 'permission denied'; then
    die "this user may not use the Docker engine that runs here: add them to the group docker"
  fi
  if engine_answers && docker buildx version >/dev/null 2>&1; then return; fi
  [ -z "${DOCKER_HOST:-}" ] || engine_answers || die "DOCKER_HOST=$DOCKER_HOST does not answer"
  need_root_of_debian "there is no Docker engine with buildx"
  engine_answers || wrap_runc_if_limited # before a package starts the engine
  if ! command -v dockerd >/dev/null || ! docker buildx version >/dev/null 2>&1; then
    install_docker
  fi
  if ! engine_answers; then start_engine; fi
}

ensure_git_and_ssh() {
  if command -v git >/dev/null && command -v ssh-keygen >/dev/null; then return; fi
  need_root_of_debian "git or ssh is missing"
  apt_install git ca-certificates openssh-client
}

ensure_uv() {
  if uv --version >/dev/null 2>&1; then return; fi
  need_root_of_debian "uv is missing"
  apt_install python3-venv
  say "installing uv into /opt/uv"
  quietly /usr/bin/python3 -m venv /opt/uv
  quietly /opt/uv/bin/python -m pip install uv
  ln -sf /opt/uv/bin/uv /opt/uv/bin/uvx /usr/local/bin/
}

# One that uv finds, or may fetch. It gives up at a pyenv shim, so it is told of what pyenv has.
ensure_python() {
  local python
  if [ -n "${UV_PYTHON:-}" ] || uv python find --system '>=3.12' >/dev/null 2>&1; then return; fi
  for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
    if [ -x "$python" ]; then export UV_PYTHON=$python; fi
  done
  if [ -n "${UV_PYTHON:-}" ] || timeout 300 uv python install 3.13 >/dev/null 2>&1; then return; fi
  need_root_of_debian "there is no Python of 3.12 or newer, and uv cannot fetch one"
  quietly apt-get update
  if has_package python3.13; then apt_install python3.13; else install_from_debian_13 python3.13; fi
}

if [ $# = 0 ]; then
  echo "usage: bash tests/setup-debian.sh COMMAND..." >&2
  exit 2
fi
ensure_git_and_ssh
ensure_uv
ensure_python
ensure_docker
exec bash "$HERE/offline/stand-ins.sh" "$@"
