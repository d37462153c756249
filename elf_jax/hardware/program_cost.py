"""Operations and bytes of a compiled program, with loop bodies counted as often as they run.

XLA's own cost analysis counts the body of a loop once, so a network that is scanned over its layers
seems to have one layer. Here the analysis is run on every loop body separately, and the results are
added: T(c) = A(c) + sum over the loops of c of (trips T(body) - A(body)), where A is XLA's analysis
and trips is how often the loop runs. The input is the text of the optimised program, so it works
for any backend. The TPU compiler also writes beside every instruction how many clock cycles it
expects. They are added in the same way.
"""

import dataclasses
import json
import re

import jax
from jaxlib import _hlo, _jax

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
          "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'known_trip_count":?=?\{"n":"(\d+)"')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\][^ ]* constant\((\d+)\)")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_FUSION = re.compile(r"%?([\w.\-]+) = .* fusion\(.*calls=%?([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
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
      unknown_loops: loops that run an unknown number of times; their bodies count once.
    """

    flops: float = 0.0
    hbm_bytes: float = 0.0
    collective_bytes: float = 0.0
    sent_bytes: float = 0.0
    cycles: float = 0.0
    kernel_flops: float = 0.0
    unknown_loops: int = 0

    def plus(self, other, times=1.0):
        """The sum with `other`, which counts `times` times."""
        unknown = self.unknown_loops + (other.unknown_loops if times > 0 else 0)
        names = [field.name for field in dataclasses.fields(Cost)]
        sums = {name: getattr(self, name) + times * getattr(other, name) for name in names}
        return Cost(**{**sums, "unknown_loops": unknown})


def program_cost(text):
    """`Cost` of an optimised HLO module given as text (`compiled.as_text()`)."""
    return _Program(text).total(None)


class _Program:
    def __init__(self, text):
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
        cost = Cost()
        for line in self.bodies[name][1]:
            estimate = _ESTIMATE.search(line) if " custom-call(" in line else None
            if estimate:
                # The bytes of a kernel's operands and results are in XLA's analysis already.
                values = {key: float(value) for key, value in json.loads(estimate[1]).items()}
                cost.flops += values.get("flops", 0.0)
                cost.kernel_flops += values.get("flops", 0.0)
            for collective, scattered in self.collectives(line):
                size = _result_bytes(collective[1], started=bool(collective[3]))
                cost.collective_bytes += size
                # An all-reduce sends the sums around the ring, then the results, unless they are
                # scattered: then each device keeps its part only.
                cost.sent_bytes += size * (
                    2 if collective[2] == "all-reduce" and not scattered else 1
                )
            cycles = _CYCLES.search(line)
            cost.cycles += float(cycles[1]) if cycles else 0.0
        for _, body, _ in self.loops(name):
            cost = cost.plus(self.unseen(body))
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


def _result_bytes(shapes, started):
    """Bytes of a collective's results. One that is only started lists its operands first."""
    sizes = []
    for kind, dims in _SHAPE.findall(shapes):
        size = _BYTES.get(kind, 1)
        for dim in filter(None, dims.split(",")):
            size *= int(dim)
        sizes.append(size)
    if shapes.startswith("(("):  # ((operands), (results))
        return sum(sizes[len(sizes) // 2 :])
    return max(sizes, default=0) if started else sum(sizes)  # (operand, result, ...)
