#!/bin/sh
# lock.sh [NAME...]: compiles the lock files from their *.in files, with hashes and without any registry's address.
# One file per environment serves every Python that the environment may use, x86_64 and aarch64.
set -eu
[ -x .runtime/uv/bin/uv ] || { python3 -m venv .runtime/uv && .runtime/uv/bin/pip install -q uv; } >&2
lock() { # lock FOLDER [OPTION...]
    folder=$1; shift
    .runtime/uv/bin/uv pip compile -q --universal --python-version "${minimum:-3.9}" --generate-hashes --no-header \
        --no-emit-index-url "$@" "$folder/${input:-requirements}.in" -o "$folder/${input:-requirements}.txt"
}
for name in "${@:-all}"; do
    case "$name" in
        client|export) lock "$name" ;;
        tests) lock tests ;; # after server
        # 3.9.2: the oldest Python that servers run on
        server) minimum=3.9.2 lock servable ;;
        engine) minimum=3.9.2 lock servable/engine --excludes servable/engine/requirements.excludes ;;
        ascend) minimum=3.9.2 input=requirements-ascend lock servable/engine -c servable/engine/requirements.txt ;; # after engine
        bench) minimum=3.10 lock tests/benchmarks ;; # peers that have left 3.9 behind
        wires) minimum=3.10 lock tests/e2e/wires ;; # clients that have left 3.9 behind
        deploy) minimum=3.9.2 lock configs/deploy ;;  # after server and tests, which constrain it
        release) lock client/release ;;
        all) exec sh "$0" client server tests engine ascend export deploy release ;;
        *) echo "lock.sh: unknown lock '$name': client, tests, server, engine, ascend, export, bench, wires, deploy or release" >&2; exit 2 ;;
    esac
done
