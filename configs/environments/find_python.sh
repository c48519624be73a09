#!/bin/sh
# Prints the path of an interpreter that can hold one of the environments.
#   find_python.sh engine   MindSpore and MindSpore Serving 2.0: 3.9.2 or a newer 3.9, built with a shared libpython
#   find_python.sh server   gateway and supervisor: the newest of 3.13, 3.12, 3.11, 3.10; 3.9, with a warning, if all fails
#   find_python.sh server 3.10      that one
#   find_python.sh client   the client: the same, or whatever python3 is from 3.9 on
# PYTHON39 (for the first) and PYTHON (for the others) win where they are set. Else those that run, else pyenv's, else,
# as the only thing that is ever installed, one of uv's, which is kept under .runtime/.
set -u

has_venv='import ensurepip, sys, sysconfig, venv'
engine_ok="$has_venv
sys.exit(0 if (3, 9, 2) <= sys.version_info < (3, 10) and sysconfig.get_config_var('Py_ENABLE_SHARED') else 1)"
server_ok="$has_venv
sys.exit(0 if (3, 9, 2) <= sys.version_info < (3, 14) else 1)"
client_ok="$has_venv
sys.exit(0 if sys.version_info >= (3, 9) else 1)"
current='3.13 3.12 3.11 3.10'

runs() { # runs INTERPRETER CHECK: the interpreter starts and passes the check
    [ -n "$1" ] && "$1" -c "$2" >/dev/null 2>&1
}
real_path() { # pyenv's shims depend on the folder they are called from; the executable does not
    "$1" -c 'import sys; print(sys.executable)'
}

installed() { # installed VERSION CHECK: one that is there, by its name or pyenv's
    for candidate in "python$1" "/usr/local/bin/python$1" "/usr/bin/python$1" \
        "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/"python$1"; do
        runs "$candidate" "$2" && { real_path "$candidate"; return 0; }
    done
    return 1
}
of_uv() { # of_uv VERSION CHECK: uv's own builds, which are shared ones. uv itself comes from PyPI into its own folder
    for base in python3 python3.13 python3.12 python3.11 python3.10 python3.9; do
        runs "$base" "$client_ok" || continue
        [ -x .runtime/uv/bin/uv ] || { "$base" -m venv .runtime/uv && .runtime/uv/bin/pip install -q uv; } >&2 || return 1
        export UV_PYTHON_INSTALL_DIR="$PWD/.runtime/python"
        .runtime/uv/bin/uv python install -q "$1" >&2 || return 1
        candidate=$(.runtime/uv/bin/uv python find --managed-python "$1") || return 1
        runs "$candidate" "$2" && { real_path "$candidate"; return 0; }
        return 1
    done
    return 1
}
named() { # named VARIABLE VALUE CHECK WHAT: the one that a variable names, or the reason why not
    runs "$2" "$3" && { real_path "$2"; return 0; }
    echo "$1=$2 is not $4; point it at one, or unset it to let one be found" >&2
    return 2
}

find_engine() {
    if [ -n "${PYTHON39:-}" ]; then
        named PYTHON39 "$PYTHON39" "$engine_ok" "a Python 3.9 (from 3.9.2 on) with a shared libpython3.9.so and the venv module"
        return
    fi
    installed 3.9 "$engine_ok" && return
    of_uv 3.9 "$engine_ok" && return
    echo "no Python 3.9 (from 3.9.2 on) with a shared libpython was found: MindSpore Serving 2.0.2 exists for no newer." >&2
    echo "Install one, for example: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.9" \
         "(or a distribution's python3.9, python3.9-venv and libpython3.9 packages), or set PYTHON39=/path/to/python3.9" >&2
    return 2
}

find_server() { # find_server [VERSION]
    if [ -n "${1:-}" ]; then
        installed "$1" "$server_ok" || of_uv "$1" "$server_ok" && return
        echo "no Python $1 with the venv module was found: install it, for example with pyenv install $1" >&2
        return 2
    fi
    if [ -n "${PYTHON:-}" ]; then
        named PYTHON "$PYTHON" "$server_ok" "a Python from 3.9.2 to 3.13 with the venv module"
        return
    fi
    for version in $current; do installed "$version" "$server_ok" && return; done
    of_uv 3.13 "$server_ok" && return
    installed 3.9 "$server_ok" && {
        echo "WARNING: no Python from 3.10 to 3.13 was found, so the public port will run on 3.9, which gets no security" \
             "fixes any more: install python3.12 and python3.12-venv, or set PYTHON=/path/to/python3" >&2
        return
    }
    echo "no Python from 3.9.2 to 3.13 with the venv module was found: install python3.12 and python3.12-venv," \
         "or set PYTHON=/path/to/python3" >&2
    return 2
}

find_client() {
    if [ -n "${PYTHON:-}" ]; then
        named PYTHON "$PYTHON" "$client_ok" "a Python from 3.9 on with the venv module"
        return
    fi
    for version in $current; do installed "$version" "$client_ok" && return; done
    for candidate in python3 python3.9; do
        runs "$candidate" "$client_ok" && { real_path "$candidate"; return; }
    done
    echo "no Python 3.9 or newer with the venv module was found: install python3 and python3-venv," \
         "or set PYTHON=/path/to/python3" >&2
    return 2
}

case "${1:-}" in
    engine|client) "find_$1" ;;
    server) find_server "${2:-}" ;;
    *) echo "usage: find_python.sh engine|server [VERSION]|client" >&2; exit 2 ;;
esac
