#!/usr/bin/env bash
# Everything worth knowing from one borrowed GPU in nine minutes: see --help.
#
# Each part is a process of its own with a time limit of its own, so that a part that fails, hangs
# or runs out of memory costs the others nothing but its time. What a part measures is kept at once.
set -euo pipefail

usage() {
  cat <<'END'
usage: benchmarks/gpu_session.sh [NAME=VALUE ...]

measures on one GPU, in this order:
  ceilings                 memory, one large bfloat16 product, one large copy: all floors follow
  goldens                  the published code's numbers, in float32 and bfloat16
  training-ATTENTION       ELF-B, 16 rows of 1024, with each attention
  sampling                 1,000 samples of 1,024 tokens, 32 SDE steps
  training-largest         ELF-B at the largest batch that fits, with the fastest attention
  elf-l                    ELF-L at the largest batch that fits
  quickstart               the whole quickstart
  text                     configs/text.py on real text for the time that is left, with samples

Each part prints its figures, with a floor or a goal beside them, and how it ended. The exit code is
the number of parts that failed or were too slow. Results: OUT/results.md, OUT/results.jsonl,
OUT/logs, and the workdirs OUT/quickstart and OUT/text.

settings, as arguments or in the environment:
  OUT=DIR        where everything goes; default: runs/gpu_session-DATE. It must have no results yet
  TEXT=FILE      text, or JSON lines with a field "text" (.jsonl, also compressed), for the part text
  WHEELS=DIR     wheels of packages that this machine lacks; they are installed into OUT/packages
  CACHE=DIR      of compiled programs; default: JAX_COMPILATION_CACHE_DIR, or OUT/cache
  TIME=SECONDS   of all parts together; default: 540
  PARTS="A B"    only these parts; a name may have * in it. Default: all
  LIMITS="A=N"   other time limits of parts, in seconds
  SIZE=tiny      tiny models and few samples, for any device
  PYTHON=FILE    default: python3
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../launch/common.sh
source "$root/launch/common.sh"

OUT=${OUT-} TEXT=${TEXT-} WHEELS=${WHEELS-} CACHE=${CACHE-} TIME=${TIME-540} PARTS=${PARTS-*}
LIMITS=${LIMITS-} SIZE=${SIZE-full} PYTHON=${PYTHON-python3}
failed=0 child="" stopped="" attentions=()

settings() {
  local argument
  for argument in "$@"; do
    case $argument in
      --help | -h)
        usage
        exit 0
        ;;
      OUT=* | TEXT=* | WHEELS=* | CACHE=* | TIME=* | PARTS=* | LIMITS=* | SIZE=* | PYTHON=*)
        printf -v "${argument%%=*}" '%s' "${argument#*=}"
        ;;
      *) die "unknown argument '$argument': benchmarks/gpu_session.sh --help lists all" ;;
    esac
  done
  [[ $TIME =~ ^[1-9][0-9]*$ ]] || die "TIME=$TIME: use a whole number of seconds"
  [[ $SIZE == full || $SIZE == tiny ]] || die "SIZE=$SIZE: use full or tiny"
  [[ ! $WHEELS || -d $WHEELS ]] || die "WHEELS=$WHEELS: no such directory"
  OUT=${OUT:-$root/runs/gpu_session-$(date +%Y%m%d-%H%M%S)}
  mkdir -p "$OUT/logs"
  OUT=$(cd "$OUT" && pwd)
  [[ ! -e $OUT/results.jsonl ]] || die "OUT=$OUT has results already: name another directory"
  CACHE=${CACHE:-${JAX_COMPILATION_CACHE_DIR:-$OUT/cache}}
  mkdir -p "$CACHE"
  CACHE=$(cd "$CACHE" && pwd)
  # A name from the shell may be relative to where the command was given.
  [[ ! $TEXT || $TEXT == /* ]] || TEXT=$PWD/$TEXT
  [[ $PYTHON != */* || $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
  [[ ! $WHEELS ]] || WHEELS=$(cd "$WHEELS" && pwd)
}

environment() {
  export PYTHONPATH="$root:$OUT/packages${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
  export TQDM_DISABLE=1 # no progress bars in the logs
  # All parts share what is compiled, and the tiles that were timed for it.
  export JAX_COMPILATION_CACHE_DIR=$CACHE JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5
  export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=0
  # Memory is taken when it is needed, so that the most that was taken is what the program needs.
  export XLA_PYTHON_CLIENT_PREALLOCATE=false
  export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}
  export ELF_SESSION=$OUT
}

# Installs the wheels of packages that cannot be found, and no others: the machine's own JAX stays.
install_wheels() {
  local names=()
  [[ $WHEELS ]] || return 0
  mapfile -t names < <("$PYTHON" - "$WHEELS" <<'END'
import importlib.metadata, pathlib, sys
for name in sorted({path.name.split("-")[0] for path in pathlib.Path(sys.argv[1]).glob("*.whl")}):
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)
END
  )
  if ((${#names[@]})); then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
      --find-links="$WHEELS" --target="$OUT/packages" "${names[@]}" ||
      die "the wheels in $WHEELS do not install: see above"
    say "installed from $WHEELS: ${names[*]}"
  fi
}

# Finds out what the device is. Without a GPU, models of full size would take hours.
device() {
  local log=$OUT/logs/device.log platform
  if ! ELF_SESSION_PART=device timeout 90 "$PYTHON" -m benchmarks.session.device >"$log" 2>&1; then
    tail -n 3 "$log" >&2
    die "ELF-JAX or the device does not start: see $log"
  fi
  read -ra attentions <<<"$(tail -n 1 "$log")"
  platform=${attentions[0]} attentions=("${attentions[@]:1}")
  [[ $SIZE == tiny || $platform != cpu ]] || die "no GPU here: SIZE=tiny runs on any device"
  say "$(tail -n 2 "$log" | head -n 1); results in $OUT"
}

# Prints the part of a setting that belongs to the part $1: its limit in LIMITS, or else $2.
limit_of() {
  local word
  for word in $LIMITS; do
    [[ $word != "$1="* ]] || set -- "$1" "${word#*=}"
  done
  printf '%s\n' "$2"
}

# Whether the part $1 is one of PARTS.
wanted() {
  local pattern patterns
  read -ra patterns <<<"$PARTS"
  for pattern in "${patterns[@]}"; do
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $1 != $pattern ]] || return 0
  done
  return 1
}

# Adds how the part $1 ended ($2, after $3 seconds) to the results, and prints its lines.
finish() {
  "$PYTHON" -m benchmarks.session.results "$OUT" --part="$1" --status="$2" --seconds="$3" ||
    say "$1: $2, $3 s"
}

# The line of a log that says what went wrong: the last error, or else the last line.
fault() {
  { grep -aE '^[A-Za-z_.]*([Ee]rror|Exception)' "$1" || tail -n 1 "$1"; } | tail -n 1 | cut -c 1-200
}

# Runs a part: part NAME LIMIT LEAST MODULE ARGUMENTS. The limits are seconds: it may take LIMIT, and
# with less than LEAST left for it, it is not begun.
part() {
  local name=$1 limit=$2 least=$3 log=$OUT/logs/$1.log left=$((TIME - SECONDS)) code=0 began status
  shift 3
  wanted "$name" || return 0
  if ((left < least)); then
    finish "$name" "skipped: it needs $least s, and $left s are left" 0
    return
  fi
  limit=$(limit_of "$name" "$limit")
  ((limit <= left)) || limit=$left
  began=$SECONDS
  ELF_SESSION_PART=$name ELF_SESSION_SECONDS=$limit timeout --kill-after=15 "$limit" \
    "$PYTHON" -m "benchmarks.session.$1" "${@:2}" >"$log" 2>&1 &
  child=$!
  { wait_out "$child" || code=$?; } 2>/dev/null # without the shell's own line about a kill
  child=""
  case $code in
    0) status=ok ;;
    124 | 137) status="stopped after its $limit s" ;;
    *) status="failed with exit code $code: $(fault "$log")" ;;
  esac
  [[ ! $stopped ]] || status="stopped by $stopped"
  [[ $code == 0 ]] || failed=$((failed + 1))
  finish "$name" "$status" $((SECONDS - began))
  [[ ! $stopped ]] || summary 130
}

# What the parts run with: keys of the config, the same for both sizes, with other values.
sizes() {
  if [[ $SIZE == full ]]; then
    ceilings=() goldens=() owt=(--config.train.batch_size=16) largest=512,384,256,192,128,96,64,48,32,16
    sampling=(--config.sample.steps=32 --config.sample.batch_size=125 --samples=1000)
    quickstart=() text=(--reserve=50 --config.train.samples=8
      --config.train.duration.epochs=1000)
    return
  fi
  local model=(--config.model.depth=1 --config.model.width=16 --config.model.heads=2
    --config.model.bottleneck=8 --config.model.unroll=1 --config.data.length=16
    --config.encoder.width=8)
  local trained=("${model[@]}" --config.data.vocab_size=300 --config.train.batch_size=8
    --config.train.duration.epochs=0 --config.train.duration.steps=4 --config.train.samples=2
    --config.train.log_every=1 --config.optimizer.name=adamw --config.sample.steps=2
    --config.sample.batch_size=4)
  model+=(--config.encoder.kind=gaussian --config.data.vocab_size=50)
  ceilings=(--product=256 --copy=1) goldens=("--checks=forward,encoder")
  owt=("${model[@]}" --config.train.batch_size=2 --seconds=0.1) largest=4,2
  sampling=("${model[@]}" --config.sample.steps=2 --config.sample.batch_size=2 --samples=4)
  quickstart=("${trained[@]}" --config.evaluate.num_samples=8) text=("${trained[@]}" --reserve=5)
}

parts() {
  local attention kind=text
  sizes
  case $TEXT in *.jsonl | *.jsonl.* | *.json | *.json.*) kind=jsonl ;; esac
  part ceilings 45 10 ceilings "${ceilings[@]}"
  part goldens 90 20 goldens "${goldens[@]}" --attentions="$(IFS=, && echo "${attentions[*]}")"
  for attention in "${attentions[@]}"; do
    part "training-$attention" 90 45 training --config=configs/owt.py "${owt[@]}" \
      --config.model.attention="$attention"
  done
  part sampling 90 40 sampling --config=configs/owt.py "${sampling[@]}"
  part training-largest 100 40 training --config=configs/owt.py "${owt[@]}" --attention=fastest \
    --largest="$largest"
  part elf-l 110 50 training --config=configs/owt.py:elf_l "${owt[@]}" --attention=fastest \
    --largest="$largest"
  part quickstart 75 30 whole_training --config=configs/quickstart.py --workdir="$OUT/quickstart" \
    "${quickstart[@]}"
  if [[ $TEXT ]]; then
    # The number of steps is not known before, so no schedule can end with them.
    part text "$TIME" 90 whole_training --config=configs/text.py --workdir="$OUT/text" \
      --config.data.kind="$kind" --config.data.path="$TEXT" --config.optimizer.schedule=constant \
      "${text[@]}"
  elif wanted text; then
    finish text "skipped: no text, set TEXT=FILE" 0
  fi
}

# Prints where the results are, and exits with the code $1.
summary() {
  local few="$failed parts"
  [[ $failed != 1 ]] || few="1 part"
  say "$few failed, $SECONDS s in all: $OUT/results.md"
  exit "$1"
}

main() {
  settings "$@"
  cd "$root"
  environment
  # The part that runs ends, its figures are kept, and no other one begins.
  trap 'stopped="a signal"; [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true' INT TERM
  install_wheels
  device
  parts
  summary "$failed"
}

main "$@"
