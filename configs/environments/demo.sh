#!/bin/sh
# Exports version 1 for the demo unless some version is there: the published checkpoint where it is or can be had,
# else stand-in weights, said loudly.
set -eu
ls servable/metric_learn/*/manifest.json >/dev/null 2>&1 || {
    export="$PWD/.venv/export/bin/python -m export"
    if checkpoint=$($export fetch); then :; else
        checkpoint=.checkpoints/metric_learn_stand_in.ckpt
        $export stand-in --output "$checkpoint" >/dev/null
    fi
    $export convert --checkpoint "$checkpoint" --version 1
    $export verify --version 1
}
if grep -q '"weights": "stand-in"' servable/metric_learn/1/manifest.json 2>/dev/null; then
    echo "*** STAND-IN WEIGHTS: the published checkpoint is not here and could not be fetched." >&2
    echo "*** The pipeline is real; retrieval quality is NOT the model's." >&2
fi
exec .venv/client/bin/python client/examples/demo.py
