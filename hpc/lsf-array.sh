#!/usr/bin/env bash
#BSUB -o mslesseg-%J_%I.log
#BSUB -n 2
#BSUB -R "span[hosts=1] rusage[mem=4096]"
#BSUB -M 4096
#BSUB -W 0:30
#BSUB -r
#BSUB -Q "75"
# IBM Spectrum LSF, one participant a task; -Q starts a task again that left with 75, -r one whose
# node failed. From this folder, with one label a line in participants.txt:
#
#   export BIDS=/data/bids OUT=/data/out IMAGE=/data/mslesseg.sif
#   bsub -J "mslesseg[1-$(wc -l <participants.txt)]%100" <lsf-array.sh
#   bsub -w 'ended("mslesseg")' -n 2 -M 4096 -W 1:00 \
#       apptainer run -B "$BIDS" -B "$OUT" "$IMAGE" "$BIDS" "$OUT" group -w /tmp/group
#
# For a GPU add -gpu "num=1" and export GPU=1. Some sites have -M and mem in other units than MB.
set -euo pipefail

label=$(sed -n "${LSB_JOBINDEX:?submit this with -J name[1-N]}p" "${LIST:-participants.txt}")
export CPUS=${LSB_DJOB_NUMPROC:-2} MEM=${MEM:-4096}
exec bash ./participant.sh "$label"
