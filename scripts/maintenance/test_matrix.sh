#!/usr/bin/env bash
# Runs the tests on the oldest, two middle and the newest TensorFlow, lets each restore the
# checkpoints that all of them wrote, and writes the table of docs/reliability.md.
#
#   bash scripts/maintenance/test_matrix.sh [FOLDER [PYTEST_ARGUMENT ...]]
#
# FOLDER keeps the environments for the next run; delete one to have it made anew. Without FOLDER they
# are temporary. With arguments for pytest, only the tests they select are run, and the table is left
# alone. JOBS (2) is the number of processes. Only what is committed is tested. Exits with 1 if a test
# fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
source scripts/maintenance/find_python.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1 TF_CPP_MIN_LOG_LEVEL=3
unset PYTHONPATH

# name, Python, what pip is to install
versions=(
  "tf1.15 3.7 tensorflow==1.15.5 protobuf<3.21"
  "tf2.12 3.11 tensorflow-cpu==2.12.* numpy<1.24"
  "tf2.16 3.11 tensorflow-cpu==2.16.*"
  "newest 3.11 tensorflow-cpu"
)

for needed in 3.7 3.11; do find_python "$needed" >/dev/null; done
python3 scripts/maintenance/matrix_table.py --document=docs/reliability.md --check
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
environments=$work/environments
if [ $# -gt 0 ]; then
  mkdir -p "$1"
  environments=$(cd "$1" && pwd)
  shift
fi
git clone -q . "$work/clone"
cd "$work/clone"

step() { printf '\n== %s\n' "$*"; }

make_environment() {  # NAME PYTHON REQUIREMENT...
  local folder=$environments/$1 python
  python=$(find_python "$2")
  shift 2
  [ -e "$folder/complete" ] && return
  rm -rf "$folder"
  "$python" -m venv "$folder"
  "$folder/bin/pip" install -q "$@" '.[test]'
  "$folder/bin/pip" uninstall -q -y tf_centers  # the tests are to find that of the clone
  touch "$folder/complete"
}

run_tests() {  # NAME REPORT PYTEST_ARGUMENT...
  local code=0 python=$environments/$1/bin/python report=$2
  shift 2
  PYTHONPATH=$work/clone PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -n "${JOBS:-2}" \
    -p no:cacheprovider --junitxml="$report" "$@" || code=$?
  if [ "$code" -gt 1 ]; then
    echo "pytest ended with $code: expected 0, or 1 where tests fail; nothing is written" >&2
    exit 1
  fi
  failed=$((failed + code))
}

failed=0
names=()
for version in "${versions[@]}"; do
  read -r -a words <<<"$version"
  name=${words[0]}
  names+=("$name")
  step "$name: the environment"
  make_environment "${words[@]}"
  mkdir -p "$work/results/$name"
  "$environments/$name/bin/python" -c "import platform, tensorflow
print(tensorflow.__version__, platform.python_version())" | tee "$work/results/$name/versions"
  step "$name: the tests"
  run_tests "$name" "$work/results/$name/tests.xml" "$@"
done
if [ $# -gt 0 ]; then
  exit $((failed > 0))
fi

step "a checkpoint of each"
rm -r tests/checkpoints/*
for name in "${names[@]}"; do
  read -r tensorflow _ <"$work/results/$name/versions"
  PYTHONPATH=. "$environments/$name/bin/python" tests/make_checkpoint.py \
    "tests/checkpoints/tensorflow-$tensorflow"
done
ls tests/checkpoints
for name in "${names[@]}"; do
  step "$name: the checkpoints of all"
  run_tests "$name" "$work/results/$name/checkpoints.xml" tests/core/test_sharding.py \
    -k test_a_checkpoint_moves_between_versions
done

step "the table"
python3 scripts/maintenance/matrix_table.py --document="$root/docs/reliability.md" "${names[@]/#/$work/results/}"
exit $((failed > 0))
