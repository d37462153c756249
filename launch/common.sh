# What the scripts of this directory share; they source it. It runs on bash 3.2 (macOS) and newer.
# shellcheck shell=bash

# Prints one line to standard error and exits with code 2: an error that the user can correct.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() {
  printf '%s\n' "$*"
}

# Prints the arguments as words that any POSIX shell reads back unchanged, with quotes only where
# they are needed.
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

# Runs a command; with --dry_run prints it instead.
run() {
  if [[ ${dry_run-} ]]; then
    quote "$@"
  else
    "$@"
  fi
}

# Prints the value of a flag that is given as --name=value.
value_of() {
  [[ $1 == *=?* ]] || die "${1%%=*} needs a value: ${1%%=*}=VALUE"
  printf '%s\n' "${1#*=}"
}

# Returns the exit code of the background process $1, even if this script gets signals while it
# waits.
wait_out() {
  local code=0 last=0
  wait "$1" || code=$?
  while kill -0 "$1" 2>/dev/null; do # a trap ended the wait, not the process
    code=0
    wait "$1" || code=$?
  done
  # The process may have ended while a trap ran. Then nobody has asked for its exit code yet.
  wait "$1" 2>/dev/null || last=$?
  if ((last != 127)); then code=$last; fi
  return "$code"
}

# Packs the current directory into the archive $1: all files that git would track, as they are now.
# Nothing needs to be committed. Outside of a git repository it packs all files but results and
# hidden files.
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
    [[ ! -e $file ]] || printf '%s\0' "$file" # git also lists deleted files
  done | COPYFILE_DISABLE=1 "${tar[@]}"
}

# Makes a new virtual environment in $1, with a Python that ELF-JAX runs on (setup.py: 3.11 or
# newer). If the machine has no such Python, as on Ubuntu 22.04, uv installs one.
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
# If it is installed there with the same requirements, nothing is done.
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
