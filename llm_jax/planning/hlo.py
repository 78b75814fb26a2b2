"""A compiled program's text, read: computations, how often each runs, what crosses links and what crosses memory.

XLA's own cost analysis counts the body of a loop once; here it counts as often as its loop turns: `known_trip_count` of
the loop where it stands, else the constant that the loop's condition compares with.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "f8e4m3fn": 1, "f8e5m2": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLS = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CUBLAS = "__cublas$"  # in the names of products that GPUs leave to their library
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)[}\]]')
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}


@dataclass(frozen=True)
class Instruction:
    """One line. result: its type as text. rest: operands and attributes as text."""

    name: str
    result: str
    op: str
    rest: str
    root: bool

    @property
    def result_bytes(self) -> float:
        """Bytes of the result, of all parts of a tuple together."""
        return type_bytes(self.result)

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing(self.rest)])


@dataclass(frozen=True)
class Program:
    """computations: name -> its lines; entry: the one that runs first; devices: of the whole program."""

    computations: dict[str, list[Instruction]]
    entry: str

    def runs(self) -> Counter[str]:
        """How often each computation runs in one step; what is fused or a reducer's is left out."""
        counts: Counter[str] = Counter()
        stack = [(self.entry, 1)]
        while stack:
            name, times = stack.pop()
            counts[name] += times
            for line in self.computations.get(name, []):
                if line.op in ("while", "call", "conditional", "async-start"):
                    turns = self.trips(line) if line.op == "while" else 1
                    stack += [(inner, times * turns) for inner in called(line)]
        return counts

    def trips(self, loop: Instruction) -> int:
        """How often a loop turns; 1 where its text does not say."""
        known = re.search(r'known_trip_count[^0-9]*"?(\d+)', loop.rest)
        if known:
            return int(known[1])
        condition, body = (re.search(rf"\b{part}=%?([\w.\-]+)", loop.rest) for part in ("condition", "body"))
        lines = self.computations.get(condition[1] if condition else "", [])
        bound = max((n for line in lines if (n := _constant(line)) is not None), default=1)
        return math.ceil(bound / self._stride(lines, self.computations.get(body[1] if body else "", [])))

    @staticmethod
    def _stride(condition: list[Instruction], body: list[Instruction]) -> int:
        """What a turn adds to the counter: more than 1 in loops that the compiler has unrolled."""
        counter = next((i for line in condition if line.root for i in _elements(line, condition)), None)
        root = next((line for line in body if line.root), None)
        if counter is None or root is None or counter >= len(root.operands):
            return 1
        named = {line.name: line for line in body}
        update = named.get(root.operands[counter])
        if update is None or update.op != "add":
            return 1
        added = (n for o in update.operands if o in named and (n := _constant(named[o])) is not None)
        return next(added, 1) or 1

    def lines(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that runs, and how often."""
        for name, times in self.runs().items():
            for line in self.computations.get(name, []):
                yield line, times

    def memory_traffic(self) -> float:
        """Bytes read and written by all instructions in a step: at most what crosses HBM, as caches hold some."""
        total = 0.0
        for name, times in self.runs().items():
            sizes = {line.name: line.result_bytes for line in self.computations.get(name, [])}
            for line in self.computations.get(name, []):
                if line.op not in _FREE and not line.op.endswith("-done"):
                    total += times * self._touched(line, sizes)
        return total

    def _touched(self, line: Instruction, sizes: dict[str, float]) -> float:
        """Bytes of operands and result; of a slice in a larger array, those of the slice."""
        if line.op == "dynamic-slice":
            return 2 * line.result_bytes
        if line.op == "dynamic-update-slice":
            return 2 * sizes.get(line.operands[1], 0.0)
        inner = self.computations.get(next(iter(called(line)), ""), []) if line.op == "fusion" else []
        local = {i.name: i.result_bytes for i in inner}
        read = 0.0
        for number, operand in enumerate(line.operands):
            read += min(sizes.get(operand, 0.0), self._read_inside(inner, number))
        update = next((i for i in inner if i.op == "dynamic-update-slice"), None)
        small = update is not None and local.get(update.name) == line.result_bytes
        written = local.get(update.operands[1], 0.0) if update is not None and small else line.result_bytes
        return (read - line.result_bytes if small and read >= line.result_bytes else read) + written

    @staticmethod
    def _read_inside(inner: list[Instruction], number: int) -> float:
        own = [i.name for i in inner if i.op == "parameter" and i.rest.startswith(f"{number})")]
        uses = [i for i in inner if own and own[0] in i.operands]
        if uses and all(i.op in ("dynamic-slice", "gather") for i in uses):
            return sum(i.result_bytes for i in uses)
        return math.inf

    def product_flops(self) -> float:
        """FLOPs of all matrix products of a step of a GPU's program, where each is a `dot` or a call of its library."""
        return sum(times * self._products(name) for name, times in self.runs().items())

    def _products(self, name: str) -> float:
        lines = self.computations.get(name, [])
        shapes, total = {line.name: line.result for line in lines}, 0.0
        for line in lines:
            if line.op == "fusion":
                total += sum(map(self._products, called(line)))
            elif found := _CONTRACTED.search(line.rest) if line.op == "dot" or _CUBLAS in line.rest else None:
                left = dimensions(shapes.get(line.operands[0], ""))
                contracted = math.prod(left[int(n)] for n in re.findall(r"\d+", found[1]))
                total += 2.0 * math.prod(dimensions(line.result)) * contracted
        return total

    def largest(self, count: int = 10) -> list[tuple[str, float, str]]:
        """The largest single results: type, bytes, and the operation of the source that made it."""
        found: dict[tuple[str, str], float] = {}
        for line, _ in self.lines():
            if line.op in _FREE or line.result.startswith("("):
                continue
            found[re.sub(r"\{.*", "", line.result), source(line)] = line.result_bytes
        ranked = sorted(found.items(), key=lambda item: -item[1])[:count]
        return [(shape, size, where) for (shape, where), size in ranked]


def called(line: Instruction) -> list[str]:
    """The computations that an instruction runs."""
    branches = _BRANCHES.search(line.rest)
    names = re.findall(r"[\w.\-]+", branches[1]) if branches else []
    return names + _CALLS.findall(line.rest)


def source(line: Instruction) -> str:
    """The last parts of the name that jax gave the operation."""
    found = re.search(r'op_name="([^"]*)"', line.rest)
    return "/".join(found[1].split("/")[-2:]) if found else line.op


def type_bytes(text: str) -> float:
    """Bytes of a type such as "(bf16[2,8]{1,0}, f32[])"."""
    total = 0.0
    for dtype, dims in _SHAPE.findall(text):
        if dtype in BYTES:
            total += BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
    return total


def dimensions(text: str) -> list[int]:
    """Return the dimensions of a type."""
    found = _SHAPE.search(text)
    return [int(n) for n in found[2].split(",") if n] if found else []


def parts(text: str) -> list[str]:
    """Return the types that a tuple's consists of, those of tuples in it unopened; of another type, itself."""
    if not text.startswith("("):
        return [text]
    found, depth, begin = [], 0, 1
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            found.append(text[begin:place].strip())
            begin = place + 1
    return found


def parse(text: str) -> Program:
    """Read the text of a compiled program.

    Raises:
        ValueError: when it has no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for row in text.splitlines():
        header = _HEADER.match(row)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _LINE.match(row)):
            result = re.sub(r"/\*.*?\*/", "", found[3])
            if _CUBLAS in found[5]:
                result = parts(result)[0]  # what else it returns is the room that it worked in
            current.append(Instruction(found[2], result, found[4], found[5], bool(found[1])))
    if not entry:
        raise ValueError("the text has no ENTRY computation")
    return Program(computations, entry)


def _constant(line: Instruction) -> int | None:
    found = re.match(r"(\d+)\)", line.rest) if line.op == "constant" else None
    return int(found[1]) if found else None


def _elements(line: Instruction, lines: list[Instruction]) -> list[int]:
    """Which elements of the loop's tuple an instruction reads directly."""
    reads = [i for i in lines if i.op == "get-tuple-element" and i.name in line.operands]
    return [int(found[1]) for i in reads if (found := re.search(r"index=(\d+)", i.rest))]


def _closing(text: str) -> int:
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    return len(text)
