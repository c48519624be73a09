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
        client|tests) lock "$name" ;;
        servable) lock servable --override servable/requirements.override ;;
        ascend) input=requirements-ascend lock servable -c servable/requirements.txt ;;  # after servable
        export) lock export ;;
        bench) minimum=3.10 lock tests/benchmarks ;; # peers that have left 3.9 behind
        deploy) lock configs/deploy ;;  # after servable and tests, which constrain it
        release) lock client/release ;;
        all) exec sh "$0" client tests servable ascend export deploy release ;;
        *) echo "lock.sh: unknown lock '$name': client, tests, servable, ascend, export, deploy or release" >&2; exit 2 ;;
    esac
done
