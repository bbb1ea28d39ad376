#!/usr/bin/env bash
# SLURM, some participants at once and watched:   bash srun.sh LABEL [LABEL ...]
#
#   export BIDS=/data/bids OUT=/data/out IMAGE=/data/mslesseg.sif
#   bash srun.sh 01 02
#
# Each participant is a job of its own; SRUN holds further options of srun, such as
# '--partition=short', OPTIONS those of the App. Leaves with the largest exit code.
set -euo pipefail

[ "$#" -gt 0 ] || { echo 'usage: bash srun.sh LABEL [LABEL ...]' >&2; exit 64; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
read -r -a more <<<"${SRUN:-}"
read -r -a options <<<"${OPTIONS:-}"
export CPUS=${CPUS:-2} MEM=${MEM:-4096}
[ -z "${GPU:-}" ] || more+=(--gres=gpu:1)

jobs=()
for label in "$@"; do
    srun --job-name="mslesseg-${label#sub-}" --ntasks=1 --cpus-per-task="$CPUS" --mem="${MEM}M" \
        --time=0-00:30:00 --label ${more[@]+"${more[@]}"} \
        bash "$here/participant.sh" "$label" ${options[@]+"${options[@]}"} </dev/null &
    jobs+=("$!")
done
worst=0
for job in "${jobs[@]}"; do
    code=0
    wait "$job" || code=$?
    [ "$code" -le "$worst" ] || worst=$code
done
exit "$worst"
