#!/usr/bin/env bash
# Installs what the test suite needs beyond Rust, or says what is missing. Never lets a test be skipped for want of it.
set -euo pipefail

declare -A package_of=(
    [git]=git [git-lfs]=git-lfs [cc]=gcc [cmake]=cmake [ip]=iproute2 [nsenter]=util-linux
    [dockerd]=docker.io [busybox]=busybox-static [debootstrap]=debootstrap [iptables]=iptables
    [mkfs.btrfs]=btrfs-progs [mkfs.xfs]=xfsprogs [mkfs.ext4]=e2fsprogs [chattr]=e2fsprogs [chromedriver]=chromium-driver [chromium]=chromium
)
missing=()
for program in git git-lfs cc ip nsenter dockerd busybox debootstrap iptables mkfs.btrfs mkfs.xfs mkfs.ext4 chattr chromedriver chromium; do
    command -v "$program" >/dev/null 2>&1 || missing+=("${package_of[$program]}")
done
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null 2>&1 || missing+=(postgresql)

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Debian's postgresql starts a server of its own on installation; the suite starts its own and leaves that one alone.
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    exit 0
fi
echo "the test suite needs these packages, and only root on Debian can install them here: ${missing[*]}" >&2
echo "install them, then run make test again" >&2
exit 1
