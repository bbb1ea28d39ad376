#!/usr/bin/env bash
#SBATCH --job-name=mslesseg-train
#SBATCH --output=mslesseg-train-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --mem=16G
#SBATCH --time=1-00:00:00
#SBATCH --requeue
# SLURM, one training in several processes, one a GPU (or one a few cores):
#
#   sbatch --gres=gpu:2 slurm-train.sh BIDS RUN_DIR --network unetr --set batch=2 --minutes 1400
#
# The arguments are those of `mslesseg train`; the number of processes must divide the batch.
# With --minutes a little under --time the training stops in time, leaves with 75, and is put
# into the queue again, until it is done. PROGRAM: how Python is started (default: python).
set -euo pipefail

read -r -a program <<<"${PROGRAM:-python}"
MASTER_ADDR=127.0.0.1
[ "$SLURM_JOB_NUM_NODES" -eq 1 ] ||
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

code=0
# shellcheck disable=SC2016 # each process fills in its own numbers
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))
    exec "$@"' _ "${program[@]}" -m mslesseg_app train "$@" || code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
