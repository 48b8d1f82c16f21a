#!/usr/bin/env bash
# Runs the cases of a test that compare with Python packages: safetensors, numpy, and transformers where it is there.
# Where the first two are not, it says so and returns 77. ZEROSPAN_PYTHON names a Python that has them: tests/run.sh makes
# one.
# Usage: python_packages.sh <test> <cases>
set -euo pipefail

export ZEROSPAN_PYTHON="${ZEROSPAN_PYTHON:-python3}"
if ! "$ZEROSPAN_PYTHON" -c 'import numpy; from safetensors import TensorSpec' 2>/dev/null; then
  echo "skipped: $ZEROSPAN_PYTHON has no numpy, or no safetensors of version 0.8 or later (PyPI)"
  exit 77
fi
exec "$1" --test-case="$2"
