#!/usr/bin/env bash
# GPT-2 in Python, in numpy and where it is there in transformers, has the logits that hugging_face_gpt_test has of the
# same files. Where numpy or safetensors are not there, it says so and returns 77. ZEROSPAN_PYTHON names a Python that
# has them.
# Usage: gpt2_python.sh <hugging_face_gpt_test>
set -euo pipefail

export ZEROSPAN_PYTHON="${ZEROSPAN_PYTHON:-python3}"
if ! "$ZEROSPAN_PYTHON" -c 'import numpy, safetensors.numpy' 2>/dev/null; then
  echo "skipped: $ZEROSPAN_PYTHON has no numpy, or no safetensors (PyPI)"
  exit 77
fi
exec "$1" --test-case="Python*"
