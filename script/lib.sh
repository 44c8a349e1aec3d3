# What the commands in this folder share: find or name what the system must provide, and make .venv once.
#
# Sourced by bash with "set -euo pipefail". Everything that is made lives in .venv inside the clone. A stamp, written
# last, holds a hash of all that .venv was made from; so an interrupted set-up is taken up again by the next command,
# and a finished one costs a few milliseconds.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/.made-from

# An ordinary user's PATH may lack the folders where ip(8) lives.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "${0##*/}: $*"
    exit 1
}

# --- what the system must provide -----------------------------------------------------------------------------------

is_python() { # Is $1 a Python 3.11 or newer that runs?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' 2>/dev/null
}

# Prints the Python to use: the first that has all we need, else the first that is new enough. CLUSSVC_PYTHON names
# another one.
find_python() {
    local name found="" candidates=(python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3)
    [[ -z ${CLUSSVC_PYTHON:-} ]] || candidates=("$CLUSSVC_PYTHON")
    for name in "${candidates[@]}"; do
        name=$(command -v "$name") && is_python "$name" || continue
        if has_venv "$name" && has_headers "$name"; then
            printf '%s\n' "$name"
            return
        fi
        found=${found:-$name}
    done
    printf '%s\n' "$found"
}

has_compiler() {
    command -v "${CC:-gcc}" >/dev/null && printf '#include <stdio.h>\n' | "${CC:-gcc}" -E - >/dev/null 2>&1
}

# Each of the following prints missing Debian or Ubuntu packages, one a line: what running needs, what building needs.
missing_tools() {
    command -v ip >/dev/null || printf '%s\n' iproute2
    if ! { command -v unshare && command -v nsenter && command -v setpriv && command -v flock; } >/dev/null; then
        printf '%s\n' util-linux
    fi
}

# An iSCSI target, the library to reach it, a packet analyser, a firewall, a compiler for the kernel's packet filter;
# without them tests are skipped.
missing_for_all_tests() {
    command -v tgtd >/dev/null || printf '%s\n' tgt
    ldconfig -p 2>/dev/null | grep -q 'libiscsi\.so\.' || printf '%s\n' libiscsi-bin
    command -v tshark >/dev/null || printf '%s\n' tshark
    PATH=$PATH:/usr/sbin command -v nft >/dev/null || printf '%s\n' nftables
    command -v clang >/dev/null || printf '%s\n' clang
}

# What script/test-kernels needs: an emulator, the start of its machine, and what its tests build on disks and serve.
missing_for_kernels() {
    command -v qemu-system-x86_64 >/dev/null || printf '%s\n' qemu-system-x86
    # One that is linked to libraries does not run before there are any.
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then
        printf '%s\n' busybox-static
    fi
    command -v cpio >/dev/null || printf '%s\n' cpio
    command -v depmod >/dev/null || printf '%s\n' kmod
    command -v rpc.nfsd >/dev/null || printf '%s\n' nfs-kernel-server
    command -v dmsetup >/dev/null || printf '%s\n' dmsetup
}

missing_for_building() {
    local python version
    has_compiler || printf '%s\n' gcc libc6-dev
    python=$(find_python)
    if [[ -z $python ]]; then
        version=3
        # The last distribution whose own Python is too old and that offers a newer one beside it.
        grep -qs '^VERSION_ID="22.04"' /etc/os-release && version=3.11
        printf '%s\n' "python$version" "python$version-venv" "python$version-dev"
        return
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    has_venv "$python" || printf '%s\n' "python$version-venv"
    has_headers "$python" || printf '%s\n' "python$version-dev"
}

need_packages() { # Ends with a message when packages are given: that they are missing, and how to install them.
    local missing=("$@")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "${0##*/}: these packages of the system are missing: ${missing[*]}"
    say "Install them with"
    say "    sudo $root/script/setup-system"
    say "or by hand, on Debian and Ubuntu:"
    say "    sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
    exit 1
}

# --- the virtual environment ----------------------------------------------------------------------------------------

made_from() { # A hash of everything that .venv is made from.
    {
        printf '%s\n' "$root"
        "$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null || printf 'no python\n'
        (cd "$root" && sha256sum pyproject.toml clussvc/native/*.[ch] clussvc/nlb/filter/*.[ch] clussvc/nlb/filter/core/*.[ch])
    } | sha256sum | cut -d ' ' -f 1
}

is_set_up() {
    [[ -r $stamp && $(<"$stamp") == "$(made_from)" ]] && compgen -G "$root/clussvc/native/_native*.so" >/dev/null
}

set_up() { # Make .venv and the extension, or bring them up to date.
    local missing
    if [[ -n ${CLUSSVC_PYTHON:-} ]] && ! is_python "$CLUSSVC_PYTHON"; then
        fail "CLUSSVC_PYTHON=$CLUSSVC_PYTHON is not a Python 3.11 or newer that runs; unset it or name another"
    fi
    mapfile -t missing < <(missing_tools; is_set_up || missing_for_building)
    need_packages "${missing[@]}"
    is_set_up && return
    [[ -w $root ]] || fail "$root is not writable for $(id -un), so nothing can be set up there; clone it as this user"
    if [[ -e $venv && ! -w $venv ]]; then
        fail "$venv belongs to another user (made by sudo?); remove it with: sudo rm -rf $venv"
    fi
    # One set-up at a time; the lock is on the folder of the scripts, so it leaves nothing behind.
    exec 9<"$root/script"
    flock 9
    if ! is_set_up; then
        build_venv
    fi
    exec 9<&-
}

build_venv() {
    local python
    rm -f "$stamp"
    if ! { is_python "$venv/bin/python" && "$venv/bin/python" -m pip --version; } >/dev/null 2>&1; then
        python=$(find_python)
        say "Making .venv with $python ($("$python" -V 2>&1)) ..."
        "$python" -m venv --clear "$venv" || fail "cannot make $venv; the lines above say why"
    fi
    say "Installing the Python packages and building the extension (once; a minute or two) ..."
    (cd "$root" && "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable '.[dev]') ||
        fail "cannot install the Python packages; pip's lines above say why. Running the command again continues here"
    "$venv/bin/python" -c 'import clussvc.native' || fail "the extension was built but cannot be loaded"
    made_from >"$stamp.new"
    mv "$stamp.new" "$stamp"
}
