"""Calls in a GPU program that XLA's cost analysis knows nothing of: cuBLAS, cuDNN, Pallas kernels.

Their operations are worked out from their shapes. Those of Pallas kernels are in the estimates that
their authors gave. They are read from the traced program, because JAX drops them on the way to the
GPU's compiler. A call reads its operands and writes its results once.
"""

import math
import re
from typing import NamedTuple

from jax.extend import core

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
          "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\(([^)]*)\)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_CONTRACTED = re.compile(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]')
_PAIRS = re.compile(r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]')
_KERNEL = re.compile(r'op_name="[^"]*?([\w.\-]+)/pallas_call[^"]*"')
PALLAS = ("__gpu$xla.gpu.triton", "triton_kernel_call", "mosaic_gpu")
# Instructions that start nothing on the GPU.
_FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast while call conditional after-all "
    "opt-barrier partition-id replica-id".split()
)


class Call(NamedTuple):
    """One call.

    Attributes:
      kind: "cublas", "cudnn", "pallas", or "cub", which sorts.
      name: of a Pallas kernel, or the target of the call.
      flops: operations; None if they are not known.
      bytes: of its operands and results.
    """

    kind: str
    name: str
    flops: float | None
    bytes: float


class Instruction(NamedTuple):
    """A line of a program: its name, the text of its result's type, opcode, names of operands."""

    name: str
    type: str
    opcode: str
    operands: list[str]


def instruction(line):
    """The `Instruction` of a line, or None."""
    found = _INSTRUCTION.match(line)
    return found and Instruction(found[1], found[2], found[3], _NAME.findall(found[4]))


def starts_work(one):
    """Whether an instruction starts something on the GPU: a kernel, a library, a copy."""
    return one.opcode not in _FREE and not one.opcode.endswith("-done")


def shapes(text):
    """[(type, dimensions)] of the arrays in the text of a type."""
    return [
        (kind, tuple(int(dim) for dim in dims.split(",") if dim))
        for kind, dims in _SHAPE.findall(text)
    ]


def size(arrays):
    """Bytes of arrays, given as `shapes` gives them."""
    return sum(_BYTES.get(kind, 1) * math.prod(dims) for kind, dims in arrays)


def call_of(line, types, kernels):
    """The `Call` of a line of a program, or None if it is not one.

    Args:
      types: {name of an instruction: text of its type}, of the computation.
      kernels: what `kernel_costs` gives.
    """
    one = instruction(line) if " custom-call(" in line else None
    if one is None:
        return None
    target = _TARGET.search(line)[1]
    operands = [array for name in one.operands for array in shapes(types.get(name, ""))]
    results = shapes(one.type)
    if len(results) > 1 and results[-1][0] in ("s8", "u8") and len(results[-1][1]) == 1:
        results.pop()  # room for the library to work in
    moved = size(operands) + size(results)
    if target.startswith("__cublas$"):
        return Call("cublas", target, _product(line, operands, results), moved)
    if target.startswith("__cudnn$"):
        return Call("cudnn", target, _attention(line, target, operands), moved)
    if target.startswith("__cub$"):
        return Call("cub", target, 0.0, moved)
    if target.startswith(PALLAS):
        found = _KERNEL.search(line)
        name = found[1] if found else target
        known = kernels.get((_dims(operands), _dims(results)), {})
        default = next(iter(known.values())) if len(known) == 1 else None
        return Call("pallas", name, known.get(name, default), moved)
    return None


def _product(line, operands, results):
    found = _CONTRACTED.search(line)
    if not found or not operands or not results:
        return None
    contracted = [int(dim.strip(' "')) for dim in found[1].split(",") if dim.strip()]
    return 2.0 * math.prod(results[0][1]) * math.prod(operands[0][1][dim] for dim in contracted)


def _attention(line, target, operands):
    found = _PAIRS.search(line)
    if not found or not operands:
        return None
    *rest, queries, keys = (int(dim.strip(' "')) for dim in found[1].split(","))
    # Pairs of a position and a later one are left out by the kernel.
    pairs = queries * (keys + 1) / 2 if "CAUSAL" in line else queries * keys
    products = 5 if "Backward" in target else 2
    return 2.0 * products * math.prod(rest) * pairs * operands[0][1][-1]


def kernel_costs(jaxpr):
    """The operations of the Pallas kernels in a traced program.

    Args:
      jaxpr: a `Jaxpr` or `ClosedJaxpr`.

    Returns:
      {(dimensions of the operands, of the results): {name of the kernel: operations}}; kernels
      without an estimate are left out.
    """
    found = {}
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "pallas_call":
            estimate = equation.params.get("cost_estimate")
            if estimate is not None:
                key = tuple(
                    tuple(tuple(variable.aval.shape) for variable in variables)
                    for variables in (equation.invars, equation.outvars)
                )
                name = equation.params.get("name") or ""
                found.setdefault(key, {})[name] = float(estimate.flops)
            continue
        for inner in core.jaxprs_in_params(equation.params):
            for key, named in kernel_costs(inner).items():
                found.setdefault(key, {}).update(named)
    return found


def _dims(arrays):
    return tuple(dims for _, dims in arrays)
