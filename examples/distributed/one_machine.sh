#!/usr/bin/env bash
# Trains on all GPUs of this machine. The batch size is that of all together.
#
#   examples/distributed/one_machine.sh --flagfile=configs/utkface_resnet34.flags \
#       --workdir=DIR
#
# KERAS_BACKEND=jax before it does the same on the JAX backend. On a machine
# without GPUs, CUDA_VISIBLE_DEVICES and the like change nothing: TensorFlow trains
# on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-python}" train.py --strategy=mirrored "$@"
