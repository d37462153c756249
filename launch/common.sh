# Shared by the scripts of this directory, which source it. Runs on bash 3.2 (macOS) and newer.
# shellcheck shell=bash

# One line to standard error and exit code 2: the user can put it right.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() {
  printf '%s\n' "$*"
}

# The arguments as words that any POSIX shell reads back unchanged, quoted only where it must be.
quote() {
  local LC_ALL=C word line="" mark="'" escaped="'\\''"
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'${word//$mark/$escaped}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command, or only prints it with --dry_run.
run() {
  if [[ ${dry_run-} ]]; then
    quote "$@"
  else
    "$@"
  fi
}

# The value of a flag given as --name=value.
value_of() {
  [[ $1 == *=?* ]] || die "${1%%=*} needs a value: ${1%%=*}=VALUE"
  printf '%s\n' "${1#*=}"
}

# The exit code of background process $1, whatever signals this script gets while it waits.
wait_out() {
  local code=0 last=0
  wait "$1" || code=$?
  while kill -0 "$1" 2>/dev/null; do # a trap came first, not the end of the process
    code=0
    wait "$1" || code=$?
  done
  # It may have ended while a trap ran: then its exit code has not been asked for yet.
  wait "$1" 2>/dev/null || last=$?
  if ((last != 127)); then code=$last; fi
  return "$code"
}

# Packs the current directory into archive $1: all that git would track, as it lies there now;
# nothing needs to be committed, and where git knows nothing, all but results and hidden files.
pack() {
  local list=(git ls-files -z --cached --others --exclude-standard)
  local tar=(tar -czf "$1" --null -T -)
  if [[ $dry_run ]]; then
    say "$(quote "${list[@]}") | $(quote "${tar[@]}")"
    return
  fi
  git rev-parse --git-dir >/dev/null 2>&1 ||
    list=(find . -type f -not -path '*/.*' -not -path './runs/*' -not -name '*.pyc' -print0)
  "${list[@]}" | while IFS= read -r -d '' file; do
    [[ ! -e $file ]] || printf '%s\0' "$file" # git lists files that were deleted, too
  done | COPYFILE_DISABLE=1 "${tar[@]}"
}

# A new virtual environment in $1, with a Python that ELF-JAX runs on (setup.py: 3.11 or newer).
# Where the machine has none, as Ubuntu 22.04, uv brings one.
make_venv() {
  local python
  for python in python3.12 python3.11 python3.13 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
      "$python" -m venv --clear "$1" >/dev/null 2>&1; then
      return
    fi
  done
  python3 -m pip install --quiet --user uv &&
    python3 -m uv venv --quiet --clear --seed --python=3.12 "$1"
}

# Installs the code in the current directory with extras $2 into the virtual environment $1.
# What is installed already, with the same requirements, is left alone.
install_into() {
  local target=$1 extras=$2 want
  want=$(cat requirements.txt setup.py && echo "$PWD $extras")
  if [[ -x $target/bin/python && $(cat "$target/installed" 2>/dev/null) == "$want" ]]; then
    say "$(hostname): installed already"
    return
  fi
  make_venv "$target" &&
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]" &&
    printf '%s\n' "$want" >"$target/installed" &&
    say "$(hostname): installed"
}
