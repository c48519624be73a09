#!/bin/sh
# install.sh NAME: makes .venv/NAME hold exactly what its lock files say; quick when it already does.
# Safe when two run at once (a lock per environment) and after an interrupted run (a stamp is written last).
set -eu
name=${1:?usage: install.sh engine|server|server-3.x|client|export|wires|bench|release}
# kind: what find_python.sh is asked for; locks: what is installed
editable=client
case "$name" in
    engine) kind=engine; locks=servable/engine/requirements.txt ;;
    server|server-3.*) kind=server; locks="servable/requirements.txt configs/deploy/requirements.txt" ;;
    client) kind=client; locks=client/requirements.txt ;;
    export) kind=engine; locks=export/requirements.txt ;;
    wires) kind=client; locks=tests/e2e/wires/requirements.txt ;;
    bench) kind=client; locks=tests/benchmarks/requirements.txt; editable= ;;
    release) kind=client; locks=client/release/requirements.txt; editable= ;;
    *) echo "install.sh: unknown environment '$name': engine, server, server-3.x, client, export, wires, bench or release" >&2; exit 2 ;;
esac
case "$name" in bench|wires|release) ;; *) locks="$locks tests/requirements.txt" ;; esac
case "$name" in server-*) kind="server ${name#server-}" ;; esac # that Python, to try the server on it

# What CANN's operator compiler imports, where there is one.
[ "$name" = engine ] && [ -d /usr/local/Ascend ] && locks="$locks servable/engine/requirements-ascend.txt"

mkdir -p .venv
exec 9>".venv/.$name.lock"
flock 9
# The environment is bound to its place: the stamp holds the folder, so a moved checkout is installed again.
wanted=$( (pwd; echo "$kind"; cat $locks ${editable:+client/pyproject.toml}) | sha256sum | cut -d' ' -f1)
venv=.venv/$name
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
    python=$(sh configs/environments/find_python.sh $kind)
    echo "environment $name: installing into $venv with $python" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    for lock in $locks; do
        # --no-deps: a lock is complete, and mindspore-serving 2.0.2 asks for a grpcio that its server never imports
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$lock"
    done
    if [ -n "$editable" ]; then
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$editable"
    fi
    echo "$wanted" > "$venv/.installed"
fi
if [ -n "$editable" ]; then
    "$venv/bin/python" "$editable/build_kernel.py" # again where its source is newer; quick when it is not
fi
if [ "$name" = engine ]; then
    "$venv/bin/python" -m servable.runtime.lite_runtime
fi
