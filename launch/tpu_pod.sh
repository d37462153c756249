#!/usr/bin/env bash
# Trains on a Cloud TPU slice, from creating it to the last checkpoint, through preemptions.
# launch/README.md shows what each command does; tpu_worker.sh is the part that runs on the slice.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh COMMAND --name=NAME [flags] [-- arguments of main.py]

commands:
  train     all that is needed: up, install, start on all workers, follow the log, and once more
            after a preemption; where training runs already, it only follows
  up        create the slice (a queued resource), or wait for the one that exists
  install   ship the working tree to all workers and install it there
  logs      follow the log of a worker, 0 or --worker=N
  status    of the slice, and of training on each worker
  stop      training saves a checkpoint and ends; the slice stays, and is paid for
  delete    delete the slice

flags:
  --name=NAME          of the slice
  --type=TYPE          accelerator type, as v4-32, v5litepod-16, v5p-64, v6e-8
  --runtime=VERSION    runtime version of the TPU machines; default: the one for --type
  --zone=ZONE, --project=PROJECT          default: those of `gcloud config`
  --spot               spot capacity: cheaper, and can be taken away at any time
  --create_flag=FLAG   one more flag for `gcloud ... queued-resources create`; can be repeated
  --config=FILE, --workdir=DIR            for main.py; workdir gs://BUCKET/... survives a preemption
  --delete_after       delete the slice when training is complete
  --dry_run            print every command, run none

environment: LIBTPU_INIT_ARGS (compiler flags after those of tpu_worker.sh), ELF_POLL_SECONDS (30)
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=common.sh
source "$root/launch/common.sh"

readonly poll=${ELF_POLL_SECONDS:-30}
readonly patience=20 # polls without an answer from the slice until we give up
readonly worker_script=elf-jax/launch/tpu_worker.sh
command="" name="" type="" runtime="" spot="" config="" workdir="" worker=0
delete_after="" dry_run="" scope=() create_flags=() arguments=()
state="" training="" dry_state=NONE dry_training=none

parse() {
  while (($#)); do
    case $1 in
      train | up | install | logs | status | stop | delete)
        [[ ! $command ]] || die "two commands, $command and $1: give one"
        command=$1
        ;;
      --name=*) name=$(value_of "$1") ;;
      --type=*) type=$(value_of "$1") ;;
      --runtime=*) runtime=$(value_of "$1") ;;
      --zone=* | --project=*) scope+=("${1%%=*}=$(value_of "$1")") ;;
      --create_flag=*) create_flags+=("$(value_of "$1")") ;;
      --config=*) config=$(value_of "$1") ;;
      --workdir=*) workdir=$(value_of "$1") ;;
      --worker=*) worker=$(value_of "$1") ;;
      --spot) spot=yes ;;
      --delete_after) delete_after=yes ;;
      --dry_run) dry_run=yes ;;
      --help | -h)
        usage
        exit 0
        ;;
      --)
        shift
        arguments=("$@")
        break
        ;;
      *) die "unknown argument '$1': launch/tpu_pod.sh --help lists all; main.py's go after --" ;;
    esac
    shift
  done
}

check() {
  [[ $command ]] || die "no command: launch/tpu_pod.sh --help lists all"
  [[ $name ]] || die "--name is missing: the name of the slice"
  [[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
    die "--name=$name: use lower-case letters, digits and hyphens, a letter first"
  [[ $worker =~ ^[0-9]+$ ]] || die "--worker=$worker: use the number of a worker"
  if [[ $command == train ]]; then
    [[ $config ]] || die "--config is missing: for example --config=configs/base.py"
    [[ -f ${config%%:*} ]] || die "--config=$config: no such file in $root"
    [[ $workdir ]] || die "--workdir is missing: for example --workdir=gs://BUCKET/RUN"
    [[ $workdir == gs://* ]] ||
      echo "warning: --workdir=$workdir is on the workers' own disks: a preemption loses it" >&2
  fi
  if [[ $command == train || $command == up ]]; then
    [[ $type ]] || die "--type is missing: the accelerator type, for example --type=v5litepod-16"
    [[ $runtime ]] || set_runtime
  fi
  [[ $dry_run ]] || command -v gcloud >/dev/null ||
    die "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"
}

# Sets `runtime` to the usual version for this type of TPU:
# https://cloud.google.com/tpu/docs/runtimes
set_runtime() {
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
    *) die "--type=$type: its runtime version is not known here, give --runtime=VERSION" ;;
  esac
}

tpu() {
  run gcloud compute tpus "$@" ${scope[@]+"${scope[@]}"} --quiet
}

# Runs a command line on all workers at once, or on the given one. Fails if it fails on any of them.
# The flag is for machines that were taken away: without it, ssh would wait for them forever.
on_workers() {
  tpu tpu-vm ssh "$name" --worker="$1" --ssh-flag=-oServerAliveInterval=30 --command="$2"
}

# Sets `state` to the state of the queued resource, or to NONE if there is none.
# https://cloud.google.com/tpu/docs/queued-resources lists the states.
get_state() {
  local describe=(queued-resources describe "$name" "--format=value(state.state)")
  if [[ $dry_run ]]; then
    tpu "${describe[@]}"
    state=$dry_state
  elif state=$(tpu "${describe[@]}" 2>"$scratch/errors"); then
    state=${state:-UNKNOWN}
  elif grep -qiE 'not.?found' "$scratch/errors"; then
    state=NONE
  else
    state=UNKNOWN
    return 1
  fi
}

# Returns when the slice is ACTIVE. Replaces a request that is dead, waits for one that is not.
up() {
  local last="" created="" misses=0
  while :; do
    if ! get_state; then
      ((++misses < 3)) || die "$(last_error)"
      sleep "$poll"
      continue
    fi
    [[ $dry_run || $state == "$last" ]] || say "slice $name: $state"
    last=$state misses=0
    case $state in
      ACTIVE) return ;;
      NONE)
        create
        created=yes
        ;;
      FAILED | SUSPENDED)
        [[ ! $created || $state == SUSPENDED ]] ||
          die "the request for $name failed: gcloud compute tpus queued-resources describe $name"
        remove
        ;;
      *) sleep "$poll" ;;
    esac
  done
}

create() {
  local flags=(--node-id="$name" --accelerator-type="$type" --runtime-version="$runtime")
  [[ ! $spot ]] || flags+=(--spot)
  flags+=(${create_flags[@]+"${create_flags[@]}"})
  if [[ $dry_run ]]; then
    tpu queued-resources create "$name" "${flags[@]}"
    dry_state=ACTIVE
  elif ! tpu queued-resources create "$name" "${flags[@]}" 2>"$scratch/errors"; then
    # Somebody else may have created it at the same moment. Then we wait for that one.
    grep -qiE 'already.?exists' "$scratch/errors" || die "$(last_error)"
    get_state && [[ $state != NONE ]] ||
      die "there is a TPU named $name that is no queued resource: choose another --name"
  fi
}

remove() {
  tpu queued-resources delete "$name" --force
}

delete() {
  get_state || die "$(last_error)"
  if [[ $state == NONE ]]; then
    say "slice $name: there is none"
  else
    remove
  fi
}

last_error() {
  local line
  line=$(grep -v '^ *$' "$scratch/errors" | tail -n 1)
  printf '%s\n' "${line#ERROR: }"
}

# Sends the code to the directory elf-jax/ of the workers and installs it. Files that were sent
# before and are gone here are removed there too. Results in elf-jax/runs stay.
install() {
  local archive=$scratch/elf-jax.tar.gz extras=tpu unpack
  [[ "$workdir ${arguments[*]-}" != *gs://* ]] || extras=tpu,gcs
  unpack="mkdir -p elf-jax && cd elf-jax && tar -tzf ../elf-jax.tar.gz >.new"
  unpack+=" && { test ! -f .shipped || grep -vxFf .new .shipped | xargs -d '\n' rm -f; }"
  unpack+=" && tar -xzf ../elf-jax.tar.gz --unlink-first && mv .new .shipped"
  pack "$archive" &&
    tpu tpu-vm scp "$archive" "$name:elf-jax.tar.gz" --worker=all &&
    on_workers all "$unpack && bash launch/tpu_worker.sh install $extras"
}

start() {
  local line
  line="bash $worker_script start "
  line+=$(quote --config="$config" --workdir="$workdir" ${arguments[@]+"${arguments[@]}"})
  [[ ! ${LIBTPU_INIT_ARGS-} ]] || line="LIBTPU_INIT_ARGS=$(quote "$LIBTPU_INIT_ARGS") $line"
  on_workers all "$line"
}

# Sets `training` to the state of training on all workers together. Fails if one cannot be reached.
get_training() {
  local line="test ! -f $worker_script && echo \$(hostname) none || bash $worker_script status"
  if [[ $dry_run ]]; then
    on_workers all "$line"
    training=$dry_training
    return
  fi
  on_workers all "$line" >"$scratch/workers" 2>"$scratch/errors" || return 1
  case $(awk '{ print $2 }' "$scratch/workers" | sort -u | tr '\n' ' ') in
    "") return 1 ;;
    *failed*) training=failed ;;
    *stopped*) training=stopped ;;
    "finished ") training=finished ;;
    "none ") training=none ;;
    *interrupted* | *lost* | *none*) training=down ;;
    *) training=running ;; # or some have finished, and the others are about to
  esac
}

# Starts training on all workers. If it runs already with the same arguments, it leaves it alone.
bring_up() {
  get_training || training=none
  case $training in
    running) start ;;
    none | finished | stopped) install && start ;;
    *) stop 60 && install && start ;; # all must start together to find each other
  esac
}

# Trains to the end, through preemptions of the slice and restarts of its machines.
train() {
  while :; do
    up
    if bring_up; then
      dry_training=finished
      watch && break
    else
      sleep "$poll" # the reason may be a preemption, which takes a moment to show
      get_state || true
      [[ $state != ACTIVE ]] || die "a command failed on a worker: see above"
    fi
  done
  [[ ! $delete_after || $training != finished ]] || remove
}

# Follows the log. Returns 0 when training is over, 1 when it must be started again.
watch() {
  local misses=0 last="" seen=0 lines=20
  trap 'say "training goes on: train follows it again, stop and delete end it"; exit 130' INT
  while :; do
    # A few minutes at a time: worker 0 may be waiting for another worker that has failed.
    on_workers 0 "bash $worker_script log $lines ${ELF_FOLLOW_SECONDS:-300}" || true
    lines=3
    get_state || true
    case $state in
      ACTIVE | UNKNOWN) ;;
      *)
        say "slice $name: $state"
        return 1
        ;;
    esac
    if ! get_training; then
      ((++misses < patience)) || die "no answer from the workers: $(last_error)"
      sleep "$poll"
      continue
    fi
    misses=0
    if [[ $training == "$last" ]]; then seen=$((seen + 1)); else seen=1; fi
    last=$training
    case $training in
      finished)
        [[ $dry_run ]] || say "training is complete"
        return 0
        ;;
      stopped)
        say "training was stopped; the same command goes on from there"
        return 0
        ;;
      failed | down)
        # Seen twice: when a slice is taken away, its workers show it before the slice does.
        ((seen < 2)) || break
        ;;
    esac
    sleep "$poll"
  done
  if [[ $training == failed ]]; then
    sort "$scratch/workers" >&2
    stop 60 >/dev/null 2>&1 || true # the workers that wait for the failed one
    echo "error: training failed: see logs --worker=N" >&2
    exit 1
  fi
  say "training is down on a worker: it starts again on all"
  return 1
}

# Lets training save and end, within $1 seconds if that is given. On a new machine there is nothing
# to stop.
stop() {
  on_workers all "test ! -f $worker_script || bash $worker_script stop${1+ $1}"
}

status() {
  get_state || die "$(last_error)"
  [[ $dry_run ]] || say "slice $name: $state"
  [[ $state == ACTIVE || $dry_run ]] || return 0
  get_training || die "$(last_error)"
  [[ $dry_run ]] || sort "$scratch/workers"
}

main() {
  parse "$@"
  cd "$root"
  check
  if [[ $dry_run ]]; then
    scratch=/tmp
    [[ $command == train || $command == up ]] || dry_state=ACTIVE
  else
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064 # the name as it is now
    trap "rm -rf '$scratch'" EXIT
  fi
  case $command in
    train | up | status | stop | delete) "$command" ;;
    install) install || die "a command failed on a worker: see above" ;;
    logs) on_workers "$worker" "bash $worker_script log" ;;
  esac
}

main "$@"
