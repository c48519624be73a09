#!/bin/sh
# Prints the path of an interpreter that can hold one of the environments.
#   find_python.sh 3.9      MindSpore and MindSpore Serving 2.0: exactly 3.9, built with a shared libpython
#   find_python.sh client   the client: the newest of 3.12, 3.11, 3.10, 3.9
# PYTHON39 and PYTHON (for the client) win where they are set. Nothing is installed except, as the last
# resort for 3.9, an interpreter that uv keeps under .runtime/.
set -u

shared_39='
import sys, sysconfig
import ensurepip, venv
sys.exit(0 if sys.version_info[:2] == (3, 9) and sysconfig.get_config_var("Py_ENABLE_SHARED") else 1)'
client_ok='
import sys
import ensurepip, venv
sys.exit(0 if sys.version_info >= (3, 9) else 1)'

runs() { # runs INTERPRETER CHECK: the interpreter starts and passes the check
    [ -n "$1" ] && "$1" -c "$2" >/dev/null 2>&1
}
real_path() { # pyenv's shims depend on the folder they are called from; the executable does not
    "$1" -c 'import sys; print(sys.executable)'
}

find_39() {
    if [ -n "${PYTHON39:-}" ]; then
        runs "$PYTHON39" "$shared_39" && { real_path "$PYTHON39"; return 0; }
        echo "PYTHON39=$PYTHON39 is not a Python 3.9 with a shared libpython3.9.so and the venv module;" \
             "point it at one, or unset it to let one be found" >&2
        return 2
    fi
    for candidate in python3.9 /usr/local/bin/python3.9 /usr/bin/python3.9 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9.*/bin/python3.9; do
        runs "$candidate" "$shared_39" && { real_path "$candidate"; return 0; }
    done
    # uv's own builds of Python are shared ones. uv itself comes from PyPI into a folder of its own.
    for base in python3 python3.12 python3.11 python3.10; do
        runs "$base" "$client_ok" || continue
        [ -x .runtime/uv/bin/uv ] || { "$base" -m venv .runtime/uv && .runtime/uv/bin/pip install -q uv; } >&2 || break
        UV_PYTHON_INSTALL_DIR=$PWD/.runtime/python .runtime/uv/bin/uv python install -q 3.9 >&2 || break
        candidate=$(UV_PYTHON_INSTALL_DIR=$PWD/.runtime/python .runtime/uv/bin/uv python find --managed-python 3.9) || break
        runs "$candidate" "$shared_39" && { real_path "$candidate"; return 0; }
    done
    echo "no Python 3.9 with a shared libpython was found: MindSpore Serving 2.0.2 exists for no newer Python." >&2
    echo "Install one, for example: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.9" \
         "(or a distribution's python3.9, python3.9-venv and libpython3.9 packages), or set PYTHON39=/path/to/python3.9" >&2
    return 2
}

find_client() {
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3.10 python3 python3.9 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[012].*/bin/python3; do
        runs "$candidate" "$client_ok" && { real_path "$candidate"; return 0; }
    done
    echo "no Python 3.9 or newer with the venv module was found for the client: install python3 and python3-venv," \
         "or set PYTHON=/path/to/python3" >&2
    return 2
}

case "${1:-}" in
    3.9) find_39 ;;
    client) find_client ;;
    *) echo "usage: find_python.sh 3.9|client" >&2; exit 2 ;;
esac
