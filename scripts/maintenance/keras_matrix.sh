#!/usr/bin/env bash
# Runs the tests of the Keras layer under every minor version of Keras 3, and under tf_keras, with one
# TensorFlow, and prints the table of docs/reliability.md.
#
#   bash scripts/maintenance/keras_matrix.sh PYTHON [VERSION ...]
#
# PYTHON has TensorFlow and pytest; each Keras is installed into a temporary folder before it. Without
# VERSIONs: all in the list below. Exits with 1 if a test fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
shift
versions=("$@")
[ $# -gt 0 ] || versions=(3.{0..15} tf_keras)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TF_CPP_MIN_LOG_LEVEL=3 PYTHONDONTWRITEBYTECODE=1

failed=0
echo "| Keras | passed | skipped | failed |"
echo "| --- | --- | --- | --- |"
for version in "${versions[@]}"; do
  package="keras==$version.*" legacy=0
  [ "$version" != tf_keras ] || { package=tf_keras legacy=1; }
  "$python" -m pip install -q --no-deps --target "$work/$version" "$package" >"$work/log" 2>&1
  # What Keras 3.0 needs beside what every later one does.
  [ "$version" != 3.0 ] ||
    "$python" -m pip install -q --no-deps --target "$work/$version" dm-tree >"$work/log" 2>&1
  TF_USE_LEGACY_KERAS=$legacy PYTHONPATH="$work/$version:$PWD" "$python" -m pytest -q tests/keras \
    -p no:cacheprovider --junitxml="$work/tests.xml" >"$work/log" 2>&1 || failed=1
  "$python" - "$version" "$work/tests.xml" <<'END' || { cat "$work/log"; failed=1; }
import sys
from xml.etree import ElementTree

suite = ElementTree.parse(sys.argv[2]).getroot()[0]
tests, *others = (int(suite.get(name)) for name in ("tests", "skipped", "failures", "errors"))
print("|", sys.argv[1], "|", tests - sum(others), "|", others[0], "|", others[1] + others[2], "|")
END
done
exit "$failed"
