#!/usr/bin/env bash
# Trains on a GPU cluster under SLURM. launch/README.md shows what each command does.
#
# There is one process for each GPU. jax.distributed finds the address, the number of processes and
# the rank in variables that srun sets. Then it lets each process see only the GPU of its
# SLURM_LOCALID (jax/_src/clusters/slurm_cluster.py and cluster.py). With one process for each node,
# seven of eight GPUs would be idle, unless JAX_LOCAL_DEVICE_IDS names them. With --gpus-per-task
# SLURM binds a GPU to each task and gives it the number 0, so all processes but the first would
# look for a GPU that they cannot see. So there are as many tasks as GPUs, and each node gets its
# GPUs as a whole.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/slurm.sh [COMMAND] [flags] [-- arguments of main.py]

commands:
  train     the default: install (once), submit; a job of this name that is queued already is left
            alone. At the time limit and when preempted it saves and queues again by itself
  logs      follow the log
  status    the job in the queue
  stop      training saves a checkpoint and ends; train goes on from there

flags:
  --name=NAME           of the job; default: elf-jax
  --nodes=N, --gpus_per_node=N            default: 1, 8
  --cpus_per_gpu=N      cores for each process, its data pipeline included; default: 4
  --partition=NAME, --account=NAME, --time=LIMIT     default: the cluster's
  --sbatch_flag=FLAG    one more flag for sbatch, as --sbatch_flag=--qos=long; can be repeated
  --save_seconds=N      that long before the time limit training saves and ends; default: 120
  --venv=DIR            virtual environment, made where there is none; default: .venv
  --config=FILE, --workdir=DIR            for main.py; workdir on a disk of all nodes, or gs://
  --dry_run             print every command, run none

environment: XLA_FLAGS (compiler flags, after those of this script)
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=common.sh
source "$root/launch/common.sh"

command="" name=elf-jax nodes=1 gpus=8 cpus=4 save_seconds=120 venv=.venv config="" workdir=""
dry_run="" sbatch_flags=() arguments=()

parse() {
  while (($#)); do
    case $1 in
      train | logs | status | stop | job)
        [[ ! $command ]] || die "two commands, $command and $1: give one"
        command=$1
        ;;
      --name=*) name=$(value_of "$1") ;;
      --nodes=*) nodes=$(number_of "$1") ;;
      --gpus_per_node=*) gpus=$(number_of "$1") ;;
      --cpus_per_gpu=*) cpus=$(number_of "$1") ;;
      --save_seconds=*) save_seconds=$(number_of "$1") ;;
      --partition=* | --account=* | --time=*) sbatch_flags+=("${1%%=*}=$(value_of "$1")") ;;
      --sbatch_flag=*) sbatch_flags+=("$(value_of "$1")") ;;
      --venv=*) venv=$(value_of "$1") ;;
      --config=*) config=$(value_of "$1") ;;
      --workdir=*) workdir=$(value_of "$1") ;;
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
      *) die "unknown argument '$1': launch/slurm.sh --help lists all; main.py's go after --" ;;
    esac
    shift
  done
}

number_of() {
  [[ $1 =~ ^--[a-z_]+=[1-9][0-9]*$ ]] || die "$1: use a whole number, 1 or more"
  value_of "$1"
}

check() {
  command=${command:-train}
  [[ $name =~ ^[A-Za-z0-9._-]+$ ]] || die "--name=$name: use letters, digits, dots and hyphens"
  readonly log=runs/slurm/$name.log stop_file=runs/slurm/$name.stop
  if [[ $command == train || $command == job ]]; then
    [[ $config ]] || die "--config is missing: for example --config=configs/base.py"
    [[ -f ${config%%:*} ]] || die "--config=$config: no such file in $root"
    [[ $workdir ]] || die "--workdir is missing: for example --workdir=runs/base"
  fi
  [[ $dry_run ]] || command -v srun >/dev/null ||
    die "srun is not on this machine: run this on a login node of a SLURM cluster"
}

# Compiler flags that let communication run while the GPUs compute. `flags_guidance` is
# https://openxla.org/xla/flags_guidance, `jax` https://docs.jax.dev/en/latest/gpu_performance_tips.html
# and `nvidia` https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
gpu_flags() {
  local flags=(
    # Orders operations so that communication overlaps with computation (jax, flags_guidance). It
    # is the only flag that NVIDIA's JAX images set.
    --xla_gpu_enable_latency_hiding_scheduler=true
    # The layers are one loop (nn.scan). With mesh.fsdp > 1 each iteration gathers its parameters
    # and scatters its gradients. These flags let one iteration communicate while another computes
    # (nvidia, "Enable optimizations for FSDP communication").
    --xla_gpu_enable_pipelined_all_gather=true
    --xla_gpu_enable_pipelined_reduce_scatter=true
    --xla_gpu_enable_while_loop_double_buffering=true
  )
  echo "${flags[*]}"
}

# Prints ids and states of the jobs of this name that are in the queue.
queue() {
  run squeue --me --noheader --name="$name" --format='%i %T'
}

train() {
  local queued="" line
  if [[ $dry_run ]]; then
    queue
  else
    queued=$(queue)
  fi
  if [[ $queued ]]; then
    say "in the queue already: $queued; logs follows it, stop ends it"
    return
  fi
  prepare
  # The job runs this very file with the command `job`. Given the file itself, sbatch would run a
  # copy of it in another place.
  line=$(quote exec bash launch/slurm.sh job --name="$name" --cpus_per_gpu="$cpus" \
    --venv="$venv" --config="$config" --workdir="$workdir" -- ${arguments[@]+"${arguments[@]}"})
  # B: sends the signal to this script, which passes it on and notes that the job must queue again.
  # The log is opened to append: otherwise a job that queued again would empty its own log.
  run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" --gres=gpu:"$gpus" \
    --cpus-per-task="$cpus" --requeue --signal=B:USR1@"$save_seconds" --chdir="$root" \
    --output="$root/$log" --open-mode=append ${sbatch_flags[@]+"${sbatch_flags[@]}"} --wrap="$line"
  [[ $dry_run ]] || say "log: $root/$log"
}

prepare() {
  local extras=gpu
  [[ "$workdir ${arguments[*]-}" != *gs://* ]] || extras=gpu,gcs
  run mkdir -p "$(dirname "$log")"
  run rm -f "$stop_file"
  if [[ $dry_run ]]; then
    say "$(quote python3 -m venv "$venv") && $(quote "$venv/bin/python" -m pip install -e ".[$extras]")"
  else
    install_into "$venv" "$extras" || die "the installation failed: see above"
  fi
}

# SLURM runs this on the first node of the job. It trains on all nodes and decides what comes next.
job() {
  local code=0 again="" before=0
  XLA_FLAGS="$(gpu_flags) ${XLA_FLAGS-}"
  # By default JAX takes 0.75 of the memory of a GPU. Nothing else runs there, so it may have more;
  # NVIDIA's libraries need the rest ("nvidia" above: typically 0.9).
  XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
  export XLA_FLAGS XLA_PYTHON_CLIENT_MEM_FRACTION
  # The signal goes to the tasks. srun itself would end them at once.
  trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
  [[ ! -f $log ]] || before=$(wc -c <"$log")
  # Without --kill-on-bad-exit the other processes would wait until the time limit for one that
  # failed. Since version 22.05 srun does not take the number of cores from sbatch.
  srun --kill-on-bad-exit=1 --cpus-per-task="$cpus" "$venv/bin/python" -u main.py \
    --config="$config" --workdir="$workdir" ${arguments[@]+"${arguments[@]}"} &
  wait_out "$!" || code=$?
  # A preemption with a grace period signals the tasks only. Then main.py says that it stopped.
  if tail -c "+$((before + 1))" "$log" 2>/dev/null | grep -aq 'stopped at step'; then
    again=yes
  fi
  if [[ $again && ! -f $stop_file ]]; then
    echo "job $SLURM_JOB_ID queues again and goes on from its checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}

stop() {
  local id state
  if [[ $dry_run ]]; then
    queue
    run touch "$stop_file"
    run scancel --signal=TERM JOB
    return
  fi
  queue | while read -r id state; do
    if [[ $state == RUNNING ]]; then
      touch "$stop_file" # or it would queue again
      scancel --signal=TERM "$id"
    else
      scancel "$id"
    fi
    say "job $id ($state): stopping"
  done
}

main() {
  parse "$@"
  cd "$root"
  check
  case $command in
    train | job | stop) "$command" ;;
    logs) run tail -n 50 -F "$log" ;;
    status) queue ;;
  esac
}

main "$@"
