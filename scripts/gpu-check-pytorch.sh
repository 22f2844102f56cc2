#!/usr/bin/env bash
# The PyTorch line on a machine with a GPU: what has to hold, then speed and memory beside others'.
#   scripts/gpu-check-pytorch.sh [--part sd15|sdxl] [-o REPORT.md]
# PYTHON names the Python that has torch, diffusers and peft (python3). The package is built and
# installed there, unless SARA_INSTALLED=1 says that it is. At most nine minutes; --part runs half.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
limit=525 # seconds, of which the rest is for ending

"$python" - <<'END'
import sys, torch
import diffusers, peft
if not torch.cuda.is_available():
    sys.exit(f"gpu-check: torch {torch.__version__} sees no GPU")
END
if [ "${SARA_INSTALLED:-0}" != 1 ]; then
    "$python" -m pip install -q --disable-pip-version-check --no-deps ./python ||
        "$python" -m pip install -q --no-deps --no-build-isolation ./python # without a network
fi
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # the same bits from every run
# A step that hangs must not take the report with it: what is measured is under its own limit.
exec timeout --kill-after=5 "$((limit - SECONDS + 10))" \
    "$python" bench/gpu_pytorch.py --limit "$((limit - SECONDS))" "$@"
