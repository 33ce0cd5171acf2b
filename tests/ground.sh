#!/usr/bin/env bash
#
# The ground the example and its tests stand on.
#
#     bash tests/ground.sh COMMAND...
#
# makes a bare Debian machine ready (Docker engine and buildx, git, ssh, uv, a Python >= 3.12), installing only what is
# missing, and becomes COMMAND. Where no container registry and no GitHub can be reached, it also makes stand-ins for
# the few images and the one repository that the SDK's build asks for. It never replaces a real one, and touches no
# configuration of the user's: COMMAND learns of all this by its environment alone.
#
# Everything said here goes to stderr; stdout belongs to COMMAND. A stand-in stays until it is removed: an image by
# `docker image rm`, everything else with the folder programbench-ground in the user's cache.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/programbench-ground"
readonly SCRATCH="$CACHE/scratch" # only the holder of the lock uses it

readonly TASK_IMAGE=programbench/abishekvashok_1776_cmatrix.5c082c6:task_cleanroom_v6
readonly BASE_IMAGE=debian:trixie-slim
readonly PYTHON_IMAGE=python:3.13-bookworm
readonly UV_IMAGE=ghcr.io/astral-sh/uv # its tag is read from the SDK's Dockerfile
readonly SDK_URL=https://github.com/OpenHands/software-agent-sdk

readonly TRIXIE_SOURCE=/etc/apt/sources.list.d/programbench-ground.sources

readonly STAND_IN_LABEL=programbench.ground.stand-in
readonly SOURCE_LABEL=programbench.ground.source

# The SDK starts its container with --ulimit nofile=65536:65536.
readonly NOFILE=65536
readonly RUNC_WITHIN_LIMITS=/usr/local/sbin/runc-within-limits

stand_ins=()

# --- Saying and doing ------------------------------------------------------------------------------------------------

say() { printf 'ground: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# step WHAT FUNCTION ARGUMENT...: does one long thing in a subshell, its output in a log of its own. The lock stays out
# of it, lest a service that a package starts keeps it.
doing='' log=''
step() {
  doing=$1 log="$CACHE/log/$2.log"
  shift
  say "$doing"
  clean_scratch
  mkdir -p "$SCRATCH" "$CACHE/log"
  ("$@") </dev/null >"$log" 2>&1 9>&-
  doing=''
}

clean_scratch() { rm -rf --one-file-system "$SCRATCH"; }

at_exit() {
  [ -n "$doing" ] || return 0
  tail -n 20 "$log" >&2 || true
  say "failed: $doing. The whole log: $log"
  clean_scratch
}

# recently NAME: whether `remember NAME` was said within a day, so that a run does not ask the network the same again.
recently() { [ -n "$(find "$CACHE/remembered/$1" -mmin -1440 2>/dev/null)" ]; }
remember() { mkdir -p "$CACHE/remembered" && touch "$CACHE/remembered/$1"; }

# --- Debian packages -------------------------------------------------------------------------------------------------

need_debian_root() {
  grep -qsx 'ID=debian' /etc/os-release || die "$1; this script can mend that on Debian only"
  [ "$(id -u)" = 0 ] || die "$1; this script can mend that for root only"
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
    -o Dpkg::Options::=--force-confold "$@"
}

# Debian's main archive, as this machine's own sources name it, whatever their format.
debian_archive() {
  # shellcheck disable=SC2016  # apt's own placeholder
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p
}

# Bookworm has neither buildx nor Python 3.13; the release after it has both, and brings its C library along. The source
# stays on the machine, with a priority at which nothing comes from it unasked. (What release this is, os-release does
# not tell afterwards: that file comes along too.)
install_from_trixie() {
  apt-get update
  if [ ! -e "$TRIXIE_SOURCE" ]; then
    if apt_install --simulate "$@"; then
      apt_install "$@"
      return
    fi
    printf '%s\n' 'Package: *' 'Pin: release n=trixie' 'Pin-Priority: 100' >/etc/apt/preferences.d/programbench-ground
    printf '%s\n' 'Types: deb' "URIs: $(debian_archive)" 'Suites: trixie' 'Components: main' \
      'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' >"$TRIXIE_SOURCE"
    apt-get update
  fi
  apt_install -t trixie "$@"
}

install_from_own_release() {
  apt-get update
  apt_install "$@"
}

ensure_git_and_ssh() {
  if command -v git >/dev/null && command -v ssh >/dev/null && command -v ssh-keygen >/dev/null; then return; fi
  need_debian_root "git or OpenSSH's client is missing"
  step "installing git and OpenSSH's client (missing)" install_from_own_release git ca-certificates openssh-client
}

# --- Docker ----------------------------------------------------------------------------------------------------------

engine_answers() { timeout 20 docker version >/dev/null 2>&1; }

# Any engine that answers is used as it is, a remote one too.
ensure_engine() {
  if engine_answers; then return; fi
  [ -z "${DOCKER_HOST:-}" ] || die "DOCKER_HOST=$DOCKER_HOST does not answer, or there is no docker client"
  need_debian_root "no Docker engine answers"
  keep_rlimits_possible
  if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
    step "installing the Docker engine, client and buildx (no engine answers)" \
      install_from_trixie docker.io docker-cli docker-buildx
  fi
  if ! engine_answers; then
    step "starting the Docker engine (none answers)" start_engine
  fi
}

ensure_buildx() {
  if docker buildx version >/dev/null 2>&1; then return; fi
  need_debian_root "docker has no buildx"
  step "installing buildx (docker has none)" install_from_trixie docker-buildx
  docker buildx version >/dev/null 2>&1 || die "$(command -v docker) does not find the buildx that Debian installed"
}

# The engine goes on running when COMMAND is done, as an installed service would.
start_engine() {
  if [ -d /run/systemd/system ]; then
    systemctl enable --now docker
  else
    become_dockerd &
  fi
  for _ in $(seq 120); do
    if engine_answers; then return; fi
    sleep 0.5
  done
  tail -n 20 /var/log/dockerd.log
  return 1
}

# Holds nothing of its caller's open: neither the lock, nor a pipe that someone reads to its end.
become_dockerd() {
  local fd
  exec </dev/null >>/var/log/dockerd.log 2>&1
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    if ((fd > 2)); then exec {fd}>&-; fi
  done
  cd /
  exec setsid dockerd
}

# Where root may not raise the number of open files, no container of the SDK starts and nothing can be run in it: runc
# is asked for more than it can set. There, a wrapper asks it for what it can.
keep_rlimits_possible() {
  if (ulimit -n "$NOFILE") 2>/dev/null || grep -qs "$RUNC_WITHIN_LIMITS" /etc/docker/daemon.json; then return; fi
  if [ -e /etc/docker/daemon.json ]; then
    say "/etc/docker/daemon.json is kept, though with $(ulimit -Hn) open files the SDK's containers may not start"
    return
  fi
  say "wrapping runc (open files are limited to $(ulimit -Hn) here, the SDK asks for $NOFILE)"
  # Perl, because every Debian has it and this is on the path of each `docker exec`, where it costs 2 ms.
  cat >"$RUNC_WITHIN_LIMITS" <<'EOF'
#!/usr/bin/perl
# runc, asked for no more open files than this machine's hard limit. What to run is in the file named by
# `create --bundle DIRECTORY` or `exec --process FILE`; every other call goes through as it is.
sub read_file { open my $file, '<', $_[0] or die "$_[0]: $!\n"; local $/; <$file> }

my ($most) = read_file('/proc/self/limits') =~ /^Max open files\s+\d+\s+(\d+)/m;
for my $i (0 .. $#ARGV - 1) {
    my $path = $ARGV[$i] eq '--bundle'  ? "$ARGV[$i + 1]/config.json"
             : $ARGV[$i] eq '--process' ? $ARGV[$i + 1]
             :                            next;
    my $json = read_file($path);
    # Quotes inside of a JSON string are escaped, so this cannot match in one.
    my $clamped = $json =~ s/("RLIMIT_NOFILE","hard":)(\d+)(,"soft":)(\d+)/
        $1 . ($2 < $most ? $2 : $most) . $3 . ($4 < $most ? $4 : $most)/gex;
    next unless $clamped;
    open my $file, '>', $path or die "$path: $!\n";
    print {$file} $json;
    close $file or die "$path: $!\n";
}
exec 'runc', @ARGV or die "runc: $!\n";
EOF
  chmod 755 "$RUNC_WITHIN_LIMITS"
  mkdir -p /etc/docker
  cat >/etc/docker/daemon.json <<EOF
{
  "default-runtime": "runc-within-limits",
  "runtimes": {"runc-within-limits": {"path": "$RUNC_WITHIN_LIMITS"}}
}
EOF
}

# --- uv and Python ---------------------------------------------------------------------------------------------------

# A pyenv shim does not count: whether it works depends on the folder and on the version chosen there.
ensure_uv() {
  case $(command -v uv || true) in
    '' | */shims/*) ;;
    *) if uv --version >/dev/null 2>&1; then return; fi ;;
  esac
  if [ ! -x "$CACHE/uv/bin/uv" ]; then
    step "installing uv into the cache (none on the PATH that works in any folder)" install_uv
  fi
  export PATH="$CACHE/bin:$PATH" # holds uv alone: the environment's own python must not hide the user's
}

install_uv() {
  if ! make_venv "$SCRATCH/uv"; then
    need_debian_root "a Python with venv is missing"
    install_from_own_release python3-venv
    make_venv "$SCRATCH/uv"
  fi
  "$SCRATCH/uv/bin/python" -m pip install uv
  mkdir -p "$CACHE/bin"
  ln -sf ../uv/bin/uv ../uv/bin/uvx "$CACHE/bin/"
  rm -rf "$CACHE/uv"
  mv "$SCRATCH/uv" "$CACHE/uv"
}

# By the first Python that can: a shim may not run here, and Debian's own comes without what venv needs.
make_venv() {
  local python
  for python in $(type -ap python3); do
    if "$python" -m venv --clear "$1"; then return; fi
  done
  return 1
}

# UV_PYTHON names a real interpreter, because uv takes a pyenv shim for one and then stumbles over it.
ensure_python() {
  local python
  [ -z "${UV_PYTHON:-}" ] || return 0
  python=$(cat "$CACHE/python" 2>/dev/null || true)
  if ! new_enough "$python"; then
    python=$(find_python)
    if [ -z "$python" ]; then
      step "installing Python 3.13 (none of 3.12 or newer is here)" install_python
      python=$(find_python)
      [ -n "$python" ] || die "the Python that was installed is not found"
    fi
    echo "$python" >"$CACHE/python"
  fi
  export UV_PYTHON=$python
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; }

# Prints the best interpreter's path, or nothing.
find_python() {
  local version candidate
  for version in 3.13 3.12 3; do
    for candidate in $(type -ap "python$version") "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python \
      "$(uv python find --no-project --managed-python "$version" 2>/dev/null)"; do
      case $candidate in */shims/*) continue ;; esac
      if new_enough "$candidate"; then
        echo "$candidate"
        return
      fi
    done
  done
}

install_python() {
  if timeout 300 uv python install 3.13; then return; fi
  need_debian_root "uv cannot fetch a Python here"
  install_from_trixie python3.13
}

# --- The SDK's repository --------------------------------------------------------------------------------------------

# The version that the project pins.
sdk_version() {
  local version
  version=$(sed -nE 's/.*openhands-sdk==([0-9][0-9.]*).*/\1/p' "$ROOT/pyproject.toml" 2>/dev/null | sed -n 1p)
  [ -n "$version" ] || die "$ROOT/pyproject.toml does not pin openhands-sdk==X.Y.Z"
  echo "$version"
}

# Where its public address cannot be reached, git is told, by COMMAND's environment alone, that it is a repository here.
ensure_sdk_repository() {
  local version=$1 stand_in=$CACHE/sdk-$1 n=${GIT_CONFIG_COUNT:-0}
  if [ ! -d "$stand_in.git" ]; then
    if recently "sdk-$version"; then return; fi
    if GIT_TERMINAL_PROMPT=0 timeout 10 git ls-remote --exit-code "$SDK_URL.git" "v$version" >/dev/null 2>&1; then
      remember "sdk-$version"
      return
    fi
    step "making a stand-in for $SDK_URL at v$version (out of reach)" make_sdk_repository "$version" "$stand_in.git"
  fi
  stand_ins+=("the SDK's repository")
  export GIT_CONFIG_COUNT=$((n + 1))
  export "GIT_CONFIG_KEY_$n=url.file://$stand_in.insteadOf" "GIT_CONFIG_VALUE_$n=$SDK_URL"
}

# The four published source packages, laid out as the repository lays them out, with a lock of their requirements.
make_sdk_repository() {
  local version=$1 package packages=(openhands-sdk openhands-tools openhands-workspace openhands-agent-server)
  export TMPDIR=$SCRATCH # uv leaves a lock of its own there
  mkdir "$SCRATCH/sdk"
  cd "$SCRATCH/sdk"
  # pip asks each source package for its metadata; with setuptools at hand it need not install it each time.
  uvx --with setuptools pip download --no-deps --no-binary :all: --no-build-isolation --dest "$SCRATCH" \
    "${packages[@]/%/==$version}"
  {
    echo '[tool.uv]'
    grep -E '^exclude-newer *=' "$ROOT/pyproject.toml" || true # as the project itself is locked
    echo '[tool.uv.workspace]'
    printf 'members = ["%s", "%s", "%s", "%s"]\n' "${packages[@]}"
    echo '[tool.uv.sources]'
    printf '%s = { workspace = true }\n' "${packages[@]}"
  } >pyproject.toml
  # What the SDK's build takes from a checkout is its source distribution, so that must hold everything.
  echo 'include pyproject.toml uv.lock README.md LICENSE' >MANIFEST.in
  echo "A stand-in for $SDK_URL, made from its published source packages." | tee README.md >LICENSE
  for package in "${packages[@]}"; do
    mkdir "$package"
    tar -xzf "$SCRATCH/${package//-/_}-$version.tar.gz" --strip-components 1 -C "$package"
    echo "graft $package" >>MANIFEST.in
  done
  # The frontend that this line names would have to be pulled; the engine's own builds the file as well.
  sed -i '/^# *syntax *=/d' openhands-agent-server/openhands/agent_server/docker/Dockerfile
  uv lock
  git init --quiet
  git add --all --force
  git config user.name ground
  git config user.email ground@example.invalid
  git -c commit.gpgsign=false commit --quiet --message "v$version"
  git -c tag.gpgsign=false tag "v$version"
  git clone --quiet --bare . "$SCRATCH/sdk.git"
  mv "$SCRATCH/sdk.git" "$2"
}

# --- Images ----------------------------------------------------------------------------------------------------------

image_label() { docker image inspect --format "{{with .Config.Labels}}{{index . \"$2\"}}{{end}}" "$1" 2>/dev/null; }

# ensure_image NAME FUNCTION: NAME as it is here, or pulled, or else made by FUNCTION.
ensure_image() {
  local stand_in
  if ! stand_in=$(image_label "$1" "$STAND_IN_LABEL"); then
    # The engine itself gives up within seconds on a registry that it cannot reach.
    if timeout 900 docker pull --quiet --platform linux/amd64 "$1" >/dev/null 2>&1; then return; fi
    step "making a stand-in for $1 (cannot be pulled)" "$2" "$1"
    stand_in=yes
  fi
  if [ -n "$stand_in" ]; then stand_ins+=("$1"); fi
}

# A small Debian that trusts whom this machine trusts: builds in it go through the same proxies.
make_base_image() {
  local root=$SCRATCH/root
  need_debian_root "$1 is missing"
  command -v debootstrap >/dev/null || install_from_own_release debootstrap
  apt-get update # debian_archive needs the lists
  mkdir -p "$root/usr/local/share"
  cp -rL /usr/local/share/ca-certificates "$root/usr/local/share/" 2>/dev/null || true
  debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$(debian_archive)"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
  tar --numeric-owner -C "$root" -c . |
    docker import --change "LABEL $STAND_IN_LABEL=yes" --change 'CMD ["bash"]' - "$1"
}

make_uv_image() {
  uv pip install --quiet --no-deps --target "$SCRATCH/uv" "uv==${1#*:}"
  tar --owner=0 --group=0 -C "$SCRATCH/uv/bin" -c uv uvx | docker import --change "LABEL $STAND_IN_LABEL=yes" - "$1"
}

# Debian's Python, a copy of it included where `uv python install 3.13` looks first: that step then downloads nothing.
make_python_image() {
  mkdir "$SCRATCH/python"
  cat >"$SCRATCH/python/Dockerfile" <<EOF
FROM $BASE_IMAGE
RUN apt-get update \\
 && apt-get install -y --no-install-recommends \\
      ca-certificates gcc git libc6-dev python-is-python3 python3.13 python3.13-dev python3.13-venv python3 \\
 && rm -rf /var/lib/apt/lists/*
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
RUN version=\$(python3.13 -c 'import platform; print(platform.python_version())') \\
 && home=/agent-server/uv-managed-python/cpython-\$version-linux-x86_64-gnu \\
 && mkdir -p \$home/bin \$home/lib \\
 && cp /usr/bin/python3.13 \$home/bin/ \\
 && ln -s python3.13 \$home/bin/python3 \\
 && ln -s python3.13 \$home/bin/python \\
 && cp -r /usr/lib/python3.13 \$home/lib/
CMD ["python3"]
EOF
  docker build --progress plain --label "$STAND_IN_LABEL=yes" --tag "$1" "$SCRATCH/python"
}

# The uv that the SDK's Dockerfile takes, by the tag that it names.
ensure_uv_image() {
  local file=$CACHE/uv-image-$1
  [ -s "$file" ] || step "reading the SDK's Dockerfile (which uv does it take?)" read_uv_image "$1" "$file"
  ensure_image "$(cat "$file")" make_uv_image
}

read_uv_image() {
  uv pip install --quiet --no-deps --target "$SCRATCH/server" "openhands-agent-server==$1"
  grep -oE -m 1 "$UV_IMAGE:[^ ]+" "$SCRATCH/server/openhands/agent_server/docker/Dockerfile" >"$SCRATCH/uv-image"
  mv "$SCRATCH/uv-image" "$2"
}

# The default task's image, as it is here, or pulled, which takes a while (it is several GiB), or else a stand-in, which
# is made anew whenever its sources changed.
ensure_task_image() {
  local sources made_of
  sources=$(cd "$ROOT/tests/task" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
  sources=${sources%% *}
  if made_of=$(image_label "$TASK_IMAGE" "$SOURCE_LABEL"); then
    [ -n "$made_of" ] || return 0 # the real one
    stand_ins+=("$TASK_IMAGE")
    [ "$made_of" != "$sources" ] || return 0
  else
    say "pulling $TASK_IMAGE"
    if timeout 1800 docker pull --quiet --platform linux/amd64 "$TASK_IMAGE" >/dev/null 2>&1; then return; fi
    stand_ins+=("$TASK_IMAGE")
  fi
  step "making a stand-in for $TASK_IMAGE (cannot be pulled, or its sources changed)" make_task_image "$sources"
}

make_task_image() {
  local old
  old=$(docker image inspect --format '{{.Id}}' "$TASK_IMAGE" 2>/dev/null || true)
  docker build --progress plain --platform linux/amd64 --label "$SOURCE_LABEL=$1" --label "$STAND_IN_LABEL=yes" \
    --tag "$TASK_IMAGE" "$ROOT/tests/task"
  [ -z "$old" ] || docker image rm "$old" || true # still in use is no harm
}

# --- Main ------------------------------------------------------------------------------------------------------------

main() {
  local version list
  if [ $# = 0 ]; then
    echo "usage: bash tests/ground.sh COMMAND..." >&2
    exit 2
  fi
  version=$(sdk_version)
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"
  if ! flock -n 9; then
    say "waiting for another run to finish its preparations"
    flock 9
  fi
  trap at_exit EXIT

  ensure_git_and_ssh
  ensure_uv
  ensure_python
  ensure_engine
  ensure_buildx
  ensure_sdk_repository "$version"
  ensure_image "$BASE_IMAGE" make_base_image
  ensure_uv_image "$version"
  ensure_image "$PYTHON_IMAGE" make_python_image
  ensure_task_image
  if [ ${#stand_ins[@]} -gt 0 ]; then
    printf -v list ', %s' "${stand_ins[@]}"
    say "stand-ins in use: ${list#, }"
  fi

  trap - EXIT
  clean_scratch
  exec 9>&-
  exec "$@"
}

main "$@"
