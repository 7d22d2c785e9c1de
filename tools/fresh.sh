#!/usr/bin/env bash
# Proof of the README's first lines: a minimal system of this machine's own release with nothing but git, a clone, ./run demo, ./run test.
# usage: tools/fresh.sh [--keep] [COMMAND_OF_RUN...]        as root; the commands are demo and test unless given
#
# The work is done in mount and process namespaces of its own: whatever happens, nothing stays mounted and nothing keeps running, and the
# directory can be removed afterwards from outside. What is cloned is the last commit. apt's sources and proxies are those of this machine; its other settings and any passwords stay here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "fresh: $*"; }
die() { say "$*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die "debootstrap and chroot need root"
command -v debootstrap >/dev/null || die "debootstrap is not installed: ./run fresh installs it"

# ---- outside: makes the directory, waits, removes it ----

outside() {
    local base keep=0 child status=0
    if [ "${1:-}" = --keep ]; then keep=1; shift; fi
    base=$(mktemp -d "${TMPDIR:-/var/tmp}/grace-fresh.XXXXXX")
    unshare --mount --pid --fork --kill-child --propagation private "tools/$(basename "$0")" --inside "$base" "$@" &
    child=$!
    trap 'kill -KILL $child 2>/dev/null' INT TERM        # unshare ignores the others; its death ends all that is inside
    wait $child || status=$?
    while kill -0 $child 2>/dev/null; do sleep 0.2; done
    if [ $keep -eq 1 ]; then say "kept: chroot $base/root, then cd /root/grace (log: $base/log)"; else rm -rf --one-file-system "$base" || { sleep 1; rm -rf --one-file-system "$base"; }; fi
    return $status
}

if [ "${1:-}" != --inside ]; then
    outside "$@"
    exit
fi

# ---- inside ----

base=$2
root=$base/root
log=$base/log
shift 2
commands=("$@")
[ $# -gt 0 ] || commands=(demo test)

# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")

# ---- this machine's way to packages ----

sources() {  # "URI RELEASE COMPONENT" of the distribution itself, not of other repositories
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sed -nE 's/^(Debian|Ubuntu) //p' |
        awk -v suite="$suite" '$2 == suite || index($2, suite "-") == 1' | sort -u
}

copy_apt_settings() {
    sources | sed 's/^/deb /' >"$root/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(http|https|ftp|Retries|ForceIPv)' >"$root/etc/apt/apt.conf.d/99fresh" || true
    cp -f /etc/resolv.conf /etc/hosts "$root/etc/"
}

use_apt_proxy() {  # debootstrap downloads by itself, through http_proxy
    local proxy=""
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || export http_proxy=$proxy
}

# ---- steps ----

show_failures() { grep -E -A 30 '^ *[0-9]+/[0-9]+ Test .*\*\*\*(Failed|Timeout|Exception)' "$log" | head -n 300 || true; }   # of tests, which stand further up

timed() {  # LABEL COMMAND...: output to the log, one line with the seconds
    local label=$1 start=$SECONDS
    shift
    "$@" >>"$log" 2>&1 || { tail -n 30 "$log"; show_failures; die "$label failed after $((SECONDS - start)) s"; }
    say "$(printf '%-28s %5d s %7d MB' "$label" $((SECONDS - start)) "$(du -sxm "$root" 2>/dev/null | cut -f1)")"
}

bootstrap() {
    local mirror
    mirror=$(sources | awk -v suite="$suite" '$2 == suite && $3 == "main" { print $1; exit }')
    [ -n "$mirror" ] || die "apt knows no source for $suite main: is this Debian or Ubuntu, and has apt-get update been run?"
    use_apt_proxy
    debootstrap --variant=minbase --include=git "$suite" "$root" "$mirror" || return
    copy_apt_settings
}

mount_system() {  # gone with the namespace
    mount --bind "$root" "$root"                # ip netns wants / to be a mount point
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --bind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/dev/shm"
}

in_root() { chroot "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "$@"; }
in_clone() { in_root bash -c 'cd /root/grace && exec "$@"' clone "$@"; }

clone() {
    git clone --quiet --bare --no-hardlinks . "$root/root/grace.git"
    in_root git clone --quiet /root/grace.git /root/grace
}

[ -z "$(git status --porcelain --untracked-files=no)" ] || say "there are uncommitted changes: the last commit is what is tried"
say "$suite, $(nproc) cores, commit $(git rev-parse --short HEAD)"
timed "minimal system with git" bootstrap
mount_system
timed "clone" clone
for command in "${commands[@]}"; do
    timed "./run $command" in_clone ./run "$command"
    tail -n 1 "$log"
done
timed "./run build again" in_clone ./run build
say "all of it worked"
