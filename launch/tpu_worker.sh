#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each worker of a slice.
#
#   tpu_worker.sh install EXTRAS     into a virtual environment of its own
#   tpu_worker.sh start ARGUMENTS    of main.py; in the background, once however often it is called
#   tpu_worker.sh log [LINES] [SECONDS]     follow the log until training ends, or so long
#   tpu_worker.sh status             HOST and one of none, running, finished, stopped, failed,
#                                    interrupted (by the system), lost (no trace of how it ended)
#   tpu_worker.sh stop [SECONDS]     ask training to save and end, wait for that, at last kill it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=common.sh
source launch/common.sh

readonly here=${ELF_HOME:-$HOME/elf-jax-run} # log, lock and result of training
readonly venv=${ELF_HOME:-$HOME/elf-jax-run}/venv
readonly poll=${ELF_WORKER_POLL_SECONDS:-1}

# Compiler flags that hide communication behind computation: documented ones only, none of them
# measured on a slice so far. `main.py --mode=compile` heeds LIBTPU_INIT_ARGS too, to compare. libtpu
# ends a program at once when it does not know a flag; 0.0.42, that of jax 0.10, knows these.
libtpu_flags() {
  local flags=(
    # All-reduces run beside other operations and not between them: with mesh.data > 1 every
    # gradient is all-reduced. "These 2 flags should be used in conjunction to activate
    # asynchronous all-reduce operations on v5e"; the second is off by default:
    # https://openxla.org/xla/flags_guidance. For all-gathers the same is on by default.
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true
  )
  echo "${flags[*]}"
}

# True while training runs: its wrapper holds the lock, whatever happened to files and ids.
running() {
  [[ -f $here/lock ]] && ! flock --nonblock "$here/lock" true
}

start() {
  mkdir -p "$here"
  exec 9>>"$here/lock"
  if ! flock --nonblock 9; then
    [[ $(quote "$@") == "$(cat "$here/arguments")" ]] ||
      die "$(hostname) trains with other arguments ($(cat "$here/arguments")): stop that first"
    say "$(hostname): runs already"
    return
  fi
  rm -f "$here/result" "$here/stop" "$here/child"
  quote "$@" >"$here/arguments"
  # JAX warns where huge pages are off: start-up on v5e and newer takes much longer without.
  sudo -n sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled' 2>/dev/null || true
  setsid nohup bash launch/tpu_worker.sh run "$@" </dev/null >>"$here/log" 2>&1 &
  echo "$!" >"$here/wrapper"
  say "$(hostname): started"
}

# Training in the foreground, with file descriptor 9 holding the lock; writes how it ended.
run_training() {
  local code=0 interrupted=""
  # A machine that shuts down sends SIGTERM to everything. main.py then saves and exits with 0, as
  # it does at the end: this is how the two are told apart. It is not passed on to main.py, which
  # has its own and takes a second one as an order to die.
  trap 'interrupted=yes' TERM
  printf '\n%s: main.py %s\n' "$(date '+%F %T')" "$(quote "$@")"
  LIBTPU_INIT_ARGS="$(libtpu_flags) ${LIBTPU_INIT_ARGS-}" "$venv/bin/python" -u main.py "$@" 9>&- &
  echo "$!" >"$here/child"
  wait_out "$!" || code=$?
  if [[ -f $here/stop ]]; then
    result stopped
  elif [[ $interrupted ]]; then
    result interrupted
  elif ((code)); then
    result "failed (exit code $code)"
  else
    result finished
  fi
}

result() {
  echo "$1" >"$here/result.new"
  mv "$here/result.new" "$here/result"
}

follow() {
  if running; then
    timeout "${2-0}" tail -n "${1-20}" -F --sleep-interval="$poll" \
      --pid="$(cat "$here/wrapper")" "$here/log" 2>/dev/null
  elif [[ -f $here/log ]]; then
    tail -n "${1-20}" "$here/log"
  else
    say "$(hostname): no training so far"
  fi
}

status() {
  local state=none
  if running; then
    state=running
  elif [[ -f $here/result ]]; then
    state=$(cat "$here/result")
  elif [[ -f $here/lock ]]; then
    state=lost
  fi
  say "$(hostname) $state"
}

stop() {
  local try asked=""
  if ! running; then
    say "$(hostname): not running"
    return
  fi
  touch "$here/stop"
  for ((try = 0; try < ${1-600}; try++)); do
    if ! running; then
      say "$(hostname): stopped"
      return
    fi
    # Once only, and main.py alone: to the whole group it would look like a machine that ends.
    if [[ ! $asked && -s $here/child ]]; then
      kill -TERM "$(cat "$here/child")" 2>/dev/null || true
      asked=yes
    fi
    sleep "$poll"
  done
  kill -KILL -- "-$(cat "$here/wrapper")" # the group that setsid made
  result stopped
  say "$(hostname): did not stop in time, killed"
}

main() {
  local command=${1-}
  shift || true
  case $command in
    install) mkdir -p "$here" && install_into "$venv" "$@" ;;
    start) start "$@" ;;
    run) run_training "$@" ;;
    log) follow "$@" ;;
    status) status ;;
    stop) stop "$@" ;;
    *) die "unknown command '$command' of tpu_worker.sh" ;;
  esac
}

main "$@"
exit # bash reads no further, should this file be replaced while it runs
