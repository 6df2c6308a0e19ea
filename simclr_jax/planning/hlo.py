"""What a compiled program does, read from XLA's text of it (`compiled.as_text()`): collectives, kernels, traffic.

Nothing here runs or compiles anything; text goes in, numbers come out.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
# They name or rename memory and move nothing; the end of an asynchronous pair belongs to its start.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
} | {*("opt-barrier", "add-dependency", "async-update", "async-done", "domain")}
_BODIES = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\]")
_BITS = re.compile(r"^[a-z]+(\d+)")


class Instruction(NamedTuple):
    """One line of a computation.

    name, opcode: as printed. shapes: of the results, ("bf16", (8, 128)) each. operands: names of the arguments.
    text: what follows the operands.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    operands: tuple[str, ...]
    text: str


class Collective(NamedTuple):
    """One communication of the program: its kind, the shape of its largest part, and all its bytes on a device.

    times: how often it runs in one run of the program (inside a loop more than once). op_name: where it comes from.
    """

    kind: str
    dtype: str
    dims: tuple[int, ...]
    num_bytes: int
    times: int
    op_name: str


class Summary(NamedTuple):
    """Of one device and one run of the program.

    num_kernels: instructions that launch work, without collectives. num_fusions: those of them that are fusions.
    program_bytes: sum of the bytes of their operands and results: what they would move with no cache.
    collectives: every communication.
    """

    num_kernels: int
    num_fusions: int
    program_bytes: int
    collectives: tuple[Collective, ...]


class Kernel(NamedTuple):
    """An instruction that launches work.

    times: how often it runs in one run of the program. num_bytes: of its operands and results, all times together.
    shapes: of the results. source: "models/layers.py:120" where the text has it, and JAX's name of the operation.
    """

    name: str
    opcode: str
    times: int
    num_bytes: int
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    source: str


def kernels(text: str) -> list[Kernel]:
    """All kernels of an optimised module, collectives left out; loops of known length count as often as they run."""
    computations, entry = parse(text)
    lines, found = _source_lines(text), []
    for instruction, times, sizes, is_kernel in _walk(computations, entry, 1, kernel_level=True):
        if is_kernel and not _collective_kind(instruction):
            read = sum(sizes.get(name, 0) for name in instruction.operands)
            moved = times * (read + sizes[instruction.name])
            source = _source(instruction.text, lines)
            found.append(Kernel(instruction.name, instruction.opcode, times, moved, instruction.shapes, source))
    return found


def summarise(text: str) -> Summary:
    """The summary of an optimised module; loops of known length count as often as they run."""
    computations, entry = parse(text)
    found: list[Collective] = []
    for instruction, times, sizes, _ in _walk(computations, entry, 1, kernel_level=True):
        kind = _collective_kind(instruction)
        if kind:
            found.append(_collective(instruction, kind, times, sizes))
    launched = kernels(text)
    return Summary(
        num_kernels=sum(kernel.times for kernel in launched),
        num_fusions=sum(kernel.times for kernel in launched if kernel.opcode == "fusion"),
        program_bytes=sum(kernel.num_bytes for kernel in launched),
        collectives=tuple(found),
    )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(name of a computation -> its instructions, name of the entry computation)."""
    computations: dict[str, list[Instruction]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        head = re.match(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{", line)
        if head and "=" not in line.split("(")[0]:
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and " = " in line:
            instruction = _instruction(line)
            if instruction:
                computations[current].append(instruction)
    return computations, entry


def num_bytes(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> int:
    """Memory of arrays of these types and shapes, tightly packed."""
    return sum(math.ceil(_bits(dtype) * math.prod(dims) / 8) for dtype, dims in shapes)


def is_image_shaped(collective: Collective) -> bool:
    """Whether it moves images or activations: four axes or more with more than one pixel, outside convolution kernels.

    A kernel's gradient has four axes too but is reduced, never gathered; so ask it of gathers and exchanges only.
    """
    wide = [size for size in collective.dims if size > 1]
    return collective.dtype == "u8" or len(wide) >= 4


def _bits(dtype: str) -> int:
    found = _BITS.match(dtype)
    return {"pred": 8, "token": 0, "opaque": 0}.get(dtype, int(found[1]) if found else 0)


def _balanced(text: str, start: int) -> int:
    """Index after the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    return len(text)


def _instruction(line: str) -> Instruction | None:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _balanced(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode = re.match(r"([\w\-]+)\(", rest)
    if not opcode:
        return None
    close = _balanced(rest, opcode.end() - 1)
    shapes = tuple((d, tuple(int(n) for n in dims.split(",") if n)) for d, dims in _SHAPE.findall(shape))
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[opcode.end() : close]))
    return Instruction(name.lstrip("%"), opcode[1], shapes, operands, rest[close:])


def _walk(
    computations: dict[str, list[Instruction]], name: str, times: int, *, kernel_level: bool
) -> Iterator[tuple[Instruction, int, dict[str, int], bool]]:
    """(instruction, how often it runs, bytes by name, whether it is a kernel) below the computation `name`."""
    instructions = computations.get(name, [])
    sizes = {i.name: num_bytes(i.shapes) for i in instructions}
    for instruction in instructions:
        opcode, is_collective = instruction.opcode, _collective_kind(instruction)
        inside = opcode in ("while", "conditional", "call", "async-start")
        free = opcode in _FREE or opcode.endswith("-done") or inside
        yield instruction, times, sizes, kernel_level and not free
        if is_collective or opcode in ("reduce", "reduce-window", "scatter", "sort", "select-and-scatter", "map"):
            continue
        trips = _TRIPS.search(instruction.text)
        count = times * (int(trips[1]) if opcode == "while" and trips else 1)
        bodies = _BODIES.findall(instruction.text)
        for listed in _BRANCHES.findall(instruction.text):
            bodies += re.findall(r"%?([\w.\-]+)", listed)
        for body in bodies:
            yield from _walk(computations, body, count, kernel_level=kernel_level and inside)


def _collective_kind(instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in COLLECTIVES else None


def _collective(instruction: Instruction, kind: str, times: int, sizes: dict[str, int]) -> Collective:
    # The larger of what goes in and what comes out: a gather's result, a scatter's operand, either of an all-reduce.
    given = sum(sizes.get(name, 0) for name in instruction.operands)
    made = num_bytes(instruction.shapes)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        made -= given  # the start of a pair returns its operands too
    dtype, dims = max(instruction.shapes, key=lambda shape: num_bytes((shape,)))
    op_name = re.search(r'op_name="([^"]*)"', instruction.text)
    return Collective(kind, dtype, dims, max(given, made), times, op_name[1] if op_name else "")


def _source_lines(text: str) -> dict[str, str]:
    """Id of a stack frame -> "folder/file.py:line", from the tables at the head of a module."""
    tables: dict[str, dict[str, str]] = {"FileNames": {}, "FileLocations": {}, "StackFrames": {}}
    current: dict[str, str] = {}
    for line in text.splitlines():
        if line.isalpha():
            current = tables.get(line, {})
        elif entry := re.match(r"^(\d+) (.+)$", line):
            current[entry[1]] = entry[2]
        elif line.startswith(("%", "ENTRY")):
            break
    found = {}
    for frame, value in tables["StackFrames"].items():
        place = tables["FileLocations"].get(_field(value, "file_location_id"), "")
        path = tables["FileNames"].get(_field(place, "file_name_id"), "").strip('"')
        found[frame] = f"{'/'.join(path.split('/')[-2:])}:{_field(place, 'line')}"
    return found


def _field(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\d+)", text)
    return found[1] if found else ""


def _source(text: str, lines: dict[str, str]) -> str:
    op_name = re.search(r'op_name="([^"]*)"', text)
    return f"{lines.get(_field(text, 'stack_frame_id'), '')} {op_name[1] if op_name else ''}".strip()
