#!/bin/sh
# Batch prediction as a SLURM array without Ray: sbatch docs/launch/slurm_predict.sh s3://bucket/images s3://bucket/masks
# Each task takes its part of the images; all write into one manifest. A task that was killed or requeued goes on.
#SBATCH --job-name=refineseg-predict
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=24:00:00
#SBATCH --requeue
# for GPUs add: #SBATCH --gpus-per-task=1

set -eu
images=$1
results=$2
shift 2 # further options of `refineseg predict`, for instance --model runs/first/best.safetensors --save mask
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# exec: SLURM's SIGTERM reaches refineseg, which records what is done and ends
exec refineseg predict "$images" --out "$results" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --threads "$OMP_NUM_THREADS" "$@"
