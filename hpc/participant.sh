#!/usr/bin/env bash
# One participant on this node:   bash participant.sh LABEL [options of the App]
#
# The templates for schedulers call it. It takes from the environment
#   BIDS, OUT   absolute paths that every node sees
#   IMAGE       Apptainer image; without it PROGRAM is started (default: mslesseg)
#   SCRATCH     folder of the node for the work (default: TMPDIR, else /tmp)
#   CPUS, MEM   cores and MiB of the task (default: 2, 4096)
#   GPU         1 for a GPU (default: none)
# and leaves with the exit code of the App; 75 means that trying again may work.
set -euo pipefail

label=${1:?usage: bash participant.sh LABEL [options of the App]}
label=${label#sub-}
shift
: "${BIDS:?is the BIDS dataset}" "${OUT:?is the output folder}"
cpus=${CPUS:-2}
memory=${MEM:-4096}
device=cpu
[ -z "${GPU:-}" ] || device=cuda

mkdir -p "$OUT"
work=$(mktemp -d "${SCRATCH:-${TMPDIR:-/tmp}}/mslesseg-$label-XXXXXX")
trap 'rm -rf -- "$work"' EXIT

if [ -n "${IMAGE:-}" ]; then
    runtime=$(command -v apptainer || command -v singularity) || {
        echo 'neither apptainer nor singularity is on PATH' >&2
        exit 69
    }
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then # which --cleanenv would lose
        export APPTAINERENV_CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES
        export SINGULARITYENV_CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES
    fi
    mkdir "$work/container"
    program=("$runtime" run --cleanenv --containall --pwd "$work" --workdir "$work/container"
        --bind "$BIDS:$BIDS:ro" --bind "$OUT" --bind "$work")
    [ -z "${GPU:-}" ] || program+=(--nv)
    program+=("$IMAGE")
else
    read -r -a program <<<"${PROGRAM:-mslesseg}"
fi

code=0
"${program[@]}" "$BIDS" "$OUT" participant --participant-label "$label" -w "$work" \
    --nprocs "$cpus" --mem "$((memory * 9 / 10))M" --device "$device" \
    --skip-bids-validation "$@" || code=$?
exit "$code"
