#!/usr/bin/env bash
# The Python package reads what safetensors_writer_test writes, and the test reads what the package writes. Where the
# package is not there, it says so and returns 77. ZEROSPAN_PYTHON names a Python that has it.
# Usage: safetensors_python.sh <safetensors_writer_test>
set -euo pipefail

export ZEROSPAN_PYTHON="${ZEROSPAN_PYTHON:-python3}"
if ! "$ZEROSPAN_PYTHON" -c 'import numpy; from safetensors import TensorSpec' 2>/dev/null; then
  echo "skipped: $ZEROSPAN_PYTHON has no numpy, or no safetensors of version 0.8 or later (PyPI)"
  exit 77
fi
exec "$1" --test-case="the Python package*"
