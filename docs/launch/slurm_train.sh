#!/bin/bash
# Train refineseg on several machines of a SLURM cluster:  sbatch slurm_train.sh folder:/shared/my_pictures /shared/runs/first
# A requeued job has the same number, by which its processes know their run and go on with it.
#SBATCH --job-name=refineseg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

data=${1:?expected the data set as NAME:ROOT, on storage that every machine sees}
out=${2:?expected the folder of the run, on storage that every machine sees}

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# one torchrun on each machine, which starts a process for each of its GPUs
srun torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --max-restarts 3 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
  -m refineseg train --data "$data" --out "$out" --batch-size 64
