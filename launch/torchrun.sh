#!/bin/bash
# One training run without a scheduler, one process for each GPU: launch/torchrun.sh OVERRIDES...
# On several nodes start it on each, NODES and HEAD (the address of one of them) the same everywhere:
#   NODES=2 HEAD=10.0.0.1 launch/torchrun.sh OVERRIDES...
# GPUS: processes on each node; without GPUs: GPUS=2 launch/torchrun.sh trainer=ddp_cpu OVERRIDES...
# RESTARTS: how often torchrun starts all ranks again, from the last checkpoint, after one of them has died.
set -euo pipefail
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
if [ "${NODES:-1}" = 1 ]; then
    MEET=(--standalone)
else
    MEET=(--nnodes="$NODES" --rdzv-backend=c10d --rdzv-endpoint="$HEAD:${PORT:-29400}" --rdzv-id="${ID:-intvit}")
fi
# What NCCL meets that ends a call is then in the log, not only that it ended.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
exec torchrun "${MEET[@]}" --nproc-per-node="${GPUS:-gpu}" --max-restarts="${RESTARTS:-0}" train.py trainer=ddp "$@"
