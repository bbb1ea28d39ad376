#!/usr/bin/env bash
#$ -N mslesseg
#$ -cwd
#$ -V
#$ -j y
#$ -o mslesseg.$JOB_ID.$TASK_ID.log
#$ -pe smp 2
#$ -l h_vmem=3G,h_rt=00:30:00
#$ -r y
# Grid Engine, one participant a task; 99 is its exit code for "start again". h_vmem is the memory
# of one core. From this folder, with one label a line in participants.txt:
#
#   export BIDS=/data/bids OUT=/data/out IMAGE=/data/mslesseg.sif
#   qsub -t 1-"$(wc -l <participants.txt)" -tc 100 sge-array.sh
#   qsub -hold_jid mslesseg -cwd -V -b y -l h_vmem=4G \
#       apptainer run -B "$BIDS" -B "$OUT" "$IMAGE" "$BIDS" "$OUT" group -w /tmp/group
#
# For a GPU: -l gpu=1, or what the site calls it, and export GPU=1.
set -euo pipefail

label=$(sed -n "${SGE_TASK_ID:?submit this with -t 1-N}p" "${LIST:-participants.txt}")
export CPUS=${NSLOTS:-2} MEM=${MEM:-4096}
code=0
bash ./participant.sh "$label" "$@" || code=$?
[ "$code" -ne 75 ] || code=99
exit "$code"
