#!/usr/bin/env bash
# Trains on two machines or more. On each of them, with its own number:
#
#   WORKERS=alpha:2222,beta:2222 INDEX=0 \
#       examples/distributed/two_machines.sh \
#       --flagfile=configs/utkface_resnet34.flags --workdir=/shared/run
#
# WORKERS is the same everywhere; the first is the chief, INDEX=0. Each machine must
# reach the others at these addresses, and all of them the workdir and the data at
# the same path. Where a worker dies the others end with 75, and this script starts
# them again; start the dead one by hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${WORKERS:?host:port of every worker, with commas between}"
: "${INDEX:?which of WORKERS this machine is, from 0}"
export TF_CONFIG="{\"cluster\": {\"worker\": [\"${WORKERS//,/\", \"}\"]},
  \"task\": {\"type\": \"worker\", \"index\": $INDEX}}"

while true; do
  status=0
  "${PYTHON:-python}" train.py --strategy=multi_worker "$@" || status=$?
  [[ $status -eq 75 ]] || exit "$status"
  echo "worker $INDEX starts again" >&2
done
