#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each worker of a slice.
#
#   tpu_worker.sh install EXTRAS     install into a virtual environment of its own
#   tpu_worker.sh start ARGUMENTS    start main.py in the background; if it runs already, do nothing
#   tpu_worker.sh log [LINES] [SECONDS]     follow the log until training ends, or for SECONDS
#   tpu_worker.sh status             print HOST and one of none, running, finished, stopped, failed,
#                                    interrupted (by the system), lost (nobody knows how it ended)
#   tpu_worker.sh stop [SECONDS]     ask training to save and end; kill it if it takes longer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=common.sh
source launch/common.sh

readonly here=${ELF_HOME:-$HOME/elf-jax-run} # the log, the lock and the result of training
readonly venv=${ELF_HOME:-$HOME/elf-jax-run}/venv
readonly poll=${ELF_WORKER_POLL_SECONDS:-1}

# Compiler flags that let communication run while the chips compute. All of them are documented.
# None has been measured on a slice so far. To compare them, set LIBTPU_INIT_ARGS for
# `main.py --mode=compile`. libtpu ends a program at once if it does not know a flag. Version
# 0.0.42, which belongs to jax 0.10, knows these.
libtpu_flags() {
  local flags=(
    # All-reduces run at the same time as other operations. With mesh.data > 1 every gradient is
    # all-reduced. "These 2 flags should be used in conjunction to activate
    # asynchronous all-reduce operations on v5e"; the second is off by default:
    # https://openxla.org/xla/flags_guidance. For all-gathers the same is the default.
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true
  )
  echo "${flags[*]}"
}

# True while training runs. Its wrapper holds the lock, so files and process ids do not matter.
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
  # JAX warns if huge pages are off: without them, starting on v5e and newer takes much longer.
  sudo -n sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled' 2>/dev/null || true
  setsid nohup bash launch/tpu_worker.sh run "$@" </dev/null >>"$here/log" 2>&1 &
  echo "$!" >"$here/wrapper"
  say "$(hostname): started"
}

# Trains in the foreground and writes how it ended. File descriptor 9 holds the lock.
run_training() {
  local code=0 interrupted=""
  # A machine that shuts down sends SIGTERM to all processes. Then main.py saves and exits with 0,
  # as it does at its end; this trap tells the two apart. It does not pass the signal on: main.py
  # gets its own, and a second one would end it at once.
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
    # Only once, and only to main.py: if the whole group got it, it would look like a shutdown.
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
