# Sourced by the scripts that make environments.

# The first interpreter of that version: on the path, or among pyenv's.
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null
    then
      echo "$candidate"
      return
    fi
  done
  echo "no Python $1 found, and the tests must run on it" >&2
  return 1
}
