#!/usr/bin/env bash
#SBATCH --job-name=mslesseg
#SBATCH --output=mslesseg-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4096M
#SBATCH --time=0-00:30:00
#SBATCH --requeue
# SLURM, one participant a task. From this folder, with one label a line in participants.txt:
#
#   export BIDS=/data/bids OUT=/data/out IMAGE=/data/mslesseg.sif
#   sbatch --array=1-"$(wc -l <participants.txt)" slurm-array.sh
#
# For a GPU add --gres=gpu:1 and export GPU=1. Arguments after slurm-array.sh go to the App.
# `mslesseg hpc sbatch` writes a script of this kind for one dataset, and a submit.sh with it.
set -euo pipefail

label=$(sed -n "${SLURM_ARRAY_TASK_ID:?submit this with --array}p" "${LIST:-participants.txt}")
export CPUS=${SLURM_CPUS_PER_TASK:-2} MEM=${SLURM_MEM_PER_NODE:-4096}
export SCRATCH=${SCRATCH:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}
code=0
bash ./participant.sh "$label" "$@" || code=$?
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
