"""Operations and bytes of a compiled program, with loop bodies counted as often as they run.

XLA's own cost analysis counts the body of a loop once, so a network that is scanned over its layers
seems to have one layer. Here the analysis is run on every loop body separately, and the results are
added: T(c) = A(c) + sum over the loops of c of (trips T(body) - A(body)), where A is XLA's analysis
and trips is how often the loop runs. The input is the text of the optimised program, so it works
for any backend. The TPU compiler also writes beside every instruction how many clock cycles it
expects. They are added in the same way. What libraries and kernels do on GPUs is in `gpu_calls.py`.
"""

import collections
import dataclasses
import json
import re

import jax
from jaxlib import _hlo, _jax

from elf_jax.hardware import gpu_calls

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'known_trip_count":?=?\{"n":"(\d+)"')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\][^ ]* constant\((\d+)\)")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_FUSION = re.compile(r"%?([\w.\-]+) = .* fusion\(.*calls=%?([\w.\-]+)")
_CALLED = re.compile(r" call\(.*to_apply=%?([\w.\-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TPU_KERNEL = 'custom_call_target="tpu_custom_call"'
_ESTIMATE = re.compile(r'"cost_estimate":\s*(\{[^{}]*\})')


@dataclasses.dataclass
class Cost:
    """The cost of one run on one device.

    Attributes:
      flops: operations.
      hbm_bytes: operands read and results written by all instructions.
      collective_bytes: results of collective operations.
      sent_bytes: what a device sends for them in a ring: the results, and twice the results of an
        all-reduce.
      cycles: clock cycles that the compiler expects of all instructions except kernels and
        collectives, one after another; 0 if the compiler gives none.
      kernel_flops: the part of `flops` that is in kernels.
      unknown_kernels: how often a TPU's kernel runs that gives no estimate of what it does.
      launches: instructions that start something: on GPUs a kernel, a library, a copy.
      unknown_loops: loops that run an unknown number of times; their bodies count once.
      calls: {`gpu_calls.Call`: how often it is made}, of programs for GPUs.
    """

    flops: float = 0.0
    hbm_bytes: float = 0.0
    collective_bytes: float = 0.0
    sent_bytes: float = 0.0
    cycles: float = 0.0
    kernel_flops: float = 0.0
    unknown_kernels: float = 0.0
    launches: float = 0.0
    unknown_loops: int = 0
    calls: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def plus(self, other, times=1.0):
        """The sum with `other`, which counts `times` times."""
        sums = {
            field.name: getattr(self, field.name) + times * getattr(other, field.name)
            for field in dataclasses.fields(Cost)
            if field.type is float
        }
        unknown = self.unknown_loops + (other.unknown_loops if times > 0 else 0)
        calls = collections.Counter(self.calls)
        for call, count in other.calls.items():
            calls[call] += times * count
        return Cost(**sums, unknown_loops=unknown, calls=calls)


def program_cost(text, kernels=None):
    """`Cost` of an optimised HLO module given as text (`compiled.as_text()`).

    Args:
      kernels: what `gpu_calls.kernel_costs` gives, of the program before it was compiled. Without
        it the operations of Pallas kernels on GPUs are not known.
    """
    return _Program(text, kernels).total(None)


class _Program:
    def __init__(self, text, kernels=None):
        self.kernels = kernels or {}
        self.bodies = _computations(text)
        self.entry = next(name for name, (is_entry, _) in self.bodies.items() if is_entry)
        self.known = {}

    def total(self, name):
        """T(name), the cost of a computation with all runs of its loops; None: of the entry."""
        name = name or self.entry
        if name not in self.known:
            once = self.once(name)
            for condition, body, known in self.loops(name):
                trips = known or self.trips(condition)
                if trips is None:
                    once.unknown_loops += 1
                    continue
                once = once.plus(self.total(body), trips).plus(self.once(body), -1)
            self.known[name] = once
        return self.known[name]

    def loops(self, name):
        """Yields (condition, body, how often it runs or None) of every loop in a computation."""
        for line in self.bodies[name][1]:
            found = _WHILE.search(line)
            if found:
                known = _KNOWN_TRIPS.search(line)
                yield found[1], found[2], int(known[1]) if known else None

    def trips(self, condition):
        """How often a loop runs that counts up from 0: the constant in its condition, or None."""
        values = [int(m[2]) for line in self.bodies[condition][1] if (m := _CONSTANT.search(line))]
        return values[0] if len(values) == 1 else None

    def once(self, name):
        """A(name): XLA's analysis, plus kernels and collectives, which it leaves out."""
        module = _hlo.hlo_module_from_text(self.module(name))
        found = _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
        cost = Cost(found.get("flops", 0.0), found["bytes accessed"])
        return cost.plus(self.unseen(name))

    def unseen(self, name):
        """What XLA's analysis leaves out, of a computation and its loops: the estimates of kernels,
        cycles, and the bytes of collectives.
        """
        cost = self.calls(name)
        for line in self.bodies[name][1]:
            estimate = _ESTIMATE.search(line) if " custom-call(" in line else None
            if estimate:
                values = {key: float(value) for key, value in json.loads(estimate[1]).items()}
                cost.flops += values.get("flops", 0.0)
                cost.kernel_flops += values.get("flops", 0.0)
                cost.hbm_bytes += values.get("bytes_accessed", 0.0)
            elif _TPU_KERNEL in line:
                cost.unknown_kernels += 1
            for collective, scattered in self.collectives(line):
                results, sent = _collective_bytes(collective, scattered)
                cost.collective_bytes += results
                cost.sent_bytes += sent
            cycles = _CYCLES.search(line)
            cost.cycles += float(cycles[1]) if cycles else 0.0
        for _, body, _ in self.loops(name):
            cost = cost.plus(self.unseen(body))
        return cost

    def calls(self, name):
        """`gpu_calls` and launches of a computation, without those of its loops."""
        cost, lines = Cost(), self.bodies[name][1]
        found = [one for one in map(gpu_calls.instruction, lines) if one]
        types = {one.name: one.type for one in found}
        cost.launches = float(sum(map(gpu_calls.starts_work, found)))
        for line in lines:
            call = gpu_calls.call_of(line, types, self.kernels)
            if call:
                cost.calls[call] += 1
                cost.flops += call.flops or 0.0
                cost.kernel_flops += call.flops or 0.0
                cost.hbm_bytes += call.bytes
            inner = _CALLED.search(line)
            if inner:
                cost = cost.plus(self.unseen(inner[1]))
        return cost

    def collectives(self, line):
        """Yields (match of _COLLECTIVE, whether its results are scattered) of an instruction.

        A collective that runs beside other work is in several fusions: in the one that starts it,
        in those that continue it, and in the one that ends it. Only the first is counted.
        """
        found, fusion = _COLLECTIVE.search(line), _FUSION.search(line)
        if found:
            yield found, False
        if fusion and not fusion[1].startswith("async-collective-done"):
            if not fusion[2].startswith("async_collective_fusion"):
                inside = map(_COLLECTIVE.search, self.bodies[fusion[2]][1])
                yield from ((one, "all-reduce-scatter" in fusion[2]) for one in inside if one)

    def module(self, entry):
        """The text of the module with the computation `entry` as its entry."""
        out = ["HloModule part", ""]
        for name, (_, lines) in self.bodies.items():
            head = re.sub(r"^ENTRY ", "", lines[0])
            out += [f"ENTRY {head}" if name == entry else head, *lines[1:], ""]
        return "\n".join(out)


def _computations(text):
    """{name: (whether it is the entry, its lines)} of the computations in a module's text."""
    found, lines, name = {}, None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and lines is None:
            name, lines = header[2], []
            is_entry = bool(header[1])
        if lines is not None:
            lines.append(line)
            if line == "}":
                found[name], lines = (is_entry, lines), None
    return found


def _collective_bytes(found, scattered):
    """(bytes of the results, bytes sent in a ring) of a collective.

    Args:
      found: match of _COLLECTIVE. One that is only started lists its operands first, unless it is
        an all-reduce.
      scattered: whether an all-reduce keeps only a part of its results.
    """
    types, kind, started = found.groups()
    sizes = [gpu_calls.size([array]) for array in gpu_calls.shapes(types)]
    if types.startswith("(("):  # ((operands), (results))
        operands, results = sum(sizes[: len(sizes) // 2]), sum(sizes[len(sizes) // 2 :])
    elif started and kind != "all-reduce":  # (operand, result, ...)
        operands, results = None, max(sizes, default=0)
    else:
        operands, results = None, sum(sizes)
    if kind == "all-reduce" and not scattered:
        return results, 2 * results  # the sums go around the ring, then the results
    if kind == "reduce-scatter" and operands:
        return results, operands  # the sums go around the ring
    return results, results
