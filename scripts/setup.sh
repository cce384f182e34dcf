#!/bin/sh
# Make a virtual environment with the core, every plugin (editable) and one dependency group.
# usage: setup.sh VENV GROUP PLUGIN...
set -eu

venv=$1
group=$2
shift 2

fail() {
    echo "setup: $*" >&2
    exit 1
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is missing: install Python 3.11 or later, or set PYTHON="
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old: Python 3.11 or later is needed; set PYTHON= to one"

if [ ! -x "$venv/bin/pip" ]; then
    echo "setup: making $venv"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        # Debian ships the venv module apart.
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get -qq update
            apt-get -qq install -y python3-venv >/dev/null
        else
            fail "Python has no venv module: install python3-venv (apt-get install python3-venv)"
        fi
    fi
    "$python" -m venv "$venv"
fi

echo "setup: installing into $venv (group: $group)"
pip="$venv/bin/python -m pip --disable-pip-version-check -q"
# --group needs pip 25.1; building without isolation spares a download for each distribution.
$pip install --upgrade "pip>=25.1" "hatchling>=1.26" editables
editables="-e .[cli,testing]"
for plugin in "$@"; do
    editables="$editables -e $plugin"
done
# shellcheck disable=SC2086 # a list of arguments
$pip install --no-build-isolation --group "$group" $editables
