#!/usr/bin/env bash
#
# Prints where this machine's own sources say that Debian is; nothing if they are another's.
# apt's lists must be there.

# shellcheck disable=SC2016  # apt's own placeholder
apt-get indextargets --format '$(REPO_URI)' \
  'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p
