"""Small, realistic faults: every place of a module where one node of its syntax tree can be another.

A mutant's name holds no line number, so that it stays the same while other lines come and go.
"""

import ast
import copy
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def _either(*pairs: tuple[type, type]) -> dict[type, type]:
    return {a: b for pair in pairs for a, b in (pair, pair[::-1])}


_COMPARE = _either((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot))
_ARITHMETIC = _either((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr), (ast.LShift, ast.RShift))
_ARITHMETIC |= {ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult}
_NAMES = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "any": "all", "all": "any", "round": "int",
          "sorted": "list", "reversed": "iter", "amin": "amax", "amax": "amin", "argmax": "argmin", "mean": "sum",
          "fmean": "max", "sin": "cos", "cos": "sin", "zeros": "ones", "ones": "zeros", "minimum": "maximum",
          "maximum": "minimum", "zeros_": "ones_", "ones_": "zeros_", "start": "stop", "stop": "start"}  # fmt: skip
_ATTRIBUTES = {"round": "floor"}
_SYMMETRIC = {"isinstance", "min", "max", "minimum", "maximum"}  # or a crash
_DROPPED_CALLS = {"clone", "float", "double", "copy", "lower", "strip", "eval", "flip", "astype", "sqrt", "round"}
# What people read decides no number: messages, progress, types, addresses.
_SILENT_CALLS = {"note", "phase", "unit", "step", "cast", "simplefilter", "catch_warnings", "mkdir", "StepReport",
                 "Collection", "File", "stop_if_asked"}  # fmt: skip
# What neither a number nor an answer can show: checks of the code itself, how a file is deleted, how memory is freed,
# what a field is called for people.
_SILENT_KEYWORDS = {"strict", "missing_ok", "exist_ok", "set_to_none", "description"}
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-+]*")


@dataclass
class Mutant:
    """One node replaced by another.

    Attributes:
        file: of the module, below the repository.
        function: qualified name of the innermost function or class, "" at the top.
        lines: numbers of the lines that a test must run to meet it: the node's, then its statement's; none where
            it is met whenever the module is.
        what: the operator, before and after, for people.
        id: 8 hex digits of file name, function, operator, before, after and how many the same came before.
    """

    file: str
    function: str
    line: int
    lines: tuple[int, ...]
    what: str
    id: str
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST

    def apply(self) -> None:
        """Change the tree; for good, so only in a process of its own."""
        old = self._set(self.new)
        ast.copy_location(self.new, old)
        ast.fix_missing_locations(self.new)

    def _set(self, node: ast.AST) -> ast.AST:
        if self.index is None:
            old = getattr(self.parent, self.field)
            setattr(self.parent, self.field, node)
        else:
            values = getattr(self.parent, self.field)
            old, values[self.index] = values[self.index], node
        return old


def mutants(file: str, source: str) -> tuple[ast.Module, list[Mutant]]:
    """Return a module's tree and all its mutants, which change that tree."""
    tree = ast.parse(source)
    lines = source.splitlines()
    seen: Counter[tuple[str, ...]] = Counter()
    out = []
    for place in _places(tree):
        for operator, new in _replacements(place):
            if ast.unparse(new) == ast.unparse(place.node):
                continue  # two equal elements swapped
            before, after = _apart(ast.unparse(place.node), ast.unparse(new))
            key = (Path(file).name, place.function, operator, ast.unparse(place.node), ast.unparse(new))
            seen[key] += 1
            digest = hashlib.sha256("|".join((*key, str(seen[key]))).encode()).hexdigest()[:8]
            line = getattr(place.node, "lineno", place.lines[0] if place.lines else 1)
            own = (line,) if place.lines and lines[line - 1].strip() else ()
            met = tuple(dict.fromkeys((*own, *place.lines)))
            what = f"{operator}: {before} -> {after}"
            out.append(
                Mutant(file, place.function, line, met, what, digest, place.parent, place.field, place.index, new)
            )
    return tree, out


@dataclass
class _Place:
    node: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    function: str
    lines: tuple[int, ...]
    returns: str
    words: list[str]
    assigned: frozenset[str]


def _places(tree: ast.Module) -> Iterator[_Place]:
    module_words = _words(tree)

    def visit(parent: ast.AST, at: _Place) -> Iterator[_Place]:
        for field, index, node in _children(parent):
            if _silent(node, parent, field):
                continue
            here = _Place(node, parent, field, index, at.function, at.lines, at.returns, at.words, at.assigned)
            if isinstance(node, ast.stmt) and at.returns != "":
                here.lines = (node.lineno,)
            yield here
            inner = here
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                name = f"{at.function}.{node.name}".lstrip(".")
                inner = _Place(node, parent, field, index, name, (), "", module_words, frozenset())
                if isinstance(node, ast.FunctionDef):
                    own = _words(node)
                    inner.words = own if len(own) > 1 else module_words
                    inner.returns = ast.unparse(node.returns) if node.returns else "Any"
                    # Defaults and decorators run at import; whoever runs the body meets them.
                    inner.lines = tuple(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
            yield from visit(node, inner)
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
                at.assigned |= names

    yield from visit(tree, _Place(tree, tree, "", None, "", (), "", module_words, frozenset()))


def _children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            yield field, None, value
        elif isinstance(value, list):
            yield from ((field, i, v) for i, v in enumerate(value) if isinstance(v, ast.AST))


def _silent(node: ast.AST, parent: ast.AST, field: str) -> bool:
    """Tell whether nothing below a node decides a number: docstrings, annotations, messages, decorators."""
    if field in ("annotation", "returns", "decorator_list", "bases", "type_params", "ctx", "cause", "format_spec"):
        return True
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.Global | ast.Nonlocal):
        return True
    if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(parent, ast.Raise) or (isinstance(node, ast.Constant) and isinstance(parent, ast.JoinedStr)):
        return True
    if isinstance(parent, ast.If | ast.ExceptHandler) and field == "body" and isinstance(parent.body[-1], ast.Raise):
        return node is not parent.body[-1]  # what stands before a raise words it
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _name(node.value.func) in _SILENT_CALLS:
        return True
    if isinstance(node, ast.Subscript) and _name(node.value) in ("Literal", "Callable", "dict", "list", "tuple"):
        return True
    if isinstance(node, ast.Call) and _name(node.func) in _SILENT_CALLS:
        return _name(node.func) != "cast"
    if isinstance(parent, ast.Call) and _name(parent.func) == "cast":
        return node is parent.args[0] or field == "func"
    if isinstance(node, ast.keyword) and node.arg in _SILENT_KEYWORDS:
        return True
    return isinstance(parent, ast.Call) and _name(parent.func) == "isinstance" and field == "args"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _words(node: ast.AST) -> list[str]:
    """Return the words among a node's strings: keys and choices, not sentences."""
    found: set[str] = set()

    def visit(at: ast.AST) -> None:
        for field, _, child in _children(at):
            if _silent(child, at, field):
                continue
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and _WORD.fullmatch(child.value):
                found.add(child.value)
            visit(child)

    visit(node)
    return sorted(found)


def _with(node: ast.AST, **changes: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in changes.items():
        setattr(new, name, value)
    return new


def _replacements(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    for kind in (_of_expression, _of_constant, _of_call, _of_parts, _of_statement):
        yield from kind(place)


def _of_expression(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    node, parent = place.node, place.parent
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                if type(op) in _COMPARE:
                    yield "comparison", _with(node, ops=[*node.ops[:i], _COMPARE[type(op)](), *node.ops[i + 1 :]])
        case ast.BinOp() | ast.AugAssign():
            sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
            text = any(isinstance(s, ast.JoinedStr) or _is_text(s) for s in sides)
            if type(node.op) in _ARITHMETIC and not text:
                yield "arithmetic", _with(node, op=_ARITHMETIC[type(node.op)]())
        case ast.BoolOp():
            yield "and/or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for i in range(len(node.values)):
                rest = [v for j, v in enumerate(node.values) if j != i]
                yield "dropped operand", rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "dropped sign", node.operand
        case ast.If() | ast.IfExp():
            yield "always", _with(node, test=ast.Constant(True))
            yield "never", _with(node, test=ast.Constant(False))
        case ast.comprehension():
            for i in range(len(node.ifs)):
                yield "dropped condition", _with(node, ifs=[c for j, c in enumerate(node.ifs) if j != i])
        case ast.Slice():
            for bound in ("lower", "upper", "step"):
                if getattr(node, bound) is not None:
                    yield "slice", _with(node, **{bound: None})
        case ast.Attribute() if isinstance(node.ctx, ast.Load) and not isinstance(parent, ast.Call):
            if node.attr in ("start", "stop"):
                yield "name", _with(node, attr=_NAMES[node.attr])


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _of_constant(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    node = place.node
    if not isinstance(node, ast.Constant):
        return
    match node.value:
        case bool():
            yield "constant", ast.Constant(not node.value)
        case int() | float():
            yield "constant", ast.Constant(node.value + 1)
            yield "constant", ast.Constant(node.value * 2 if node.value else -1)
        case str() if node.value in place.words and len(place.words) > 1:
            yield "word", ast.Constant(place.words[(place.words.index(node.value) + 1) % len(place.words)])


def _of_call(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    node = place.node
    if not isinstance(node, ast.Call):
        return
    func = node.func
    if isinstance(func, ast.Name) and func.id in _NAMES:
        yield "name", _with(node, func=ast.Name(_NAMES[func.id], ast.Load()))
    if isinstance(func, ast.Attribute):
        other = _ATTRIBUTES.get(func.attr, _NAMES.get(func.attr))
        if other:
            yield "name", _with(node, func=_with(func, attr=other))
        if func.attr in _DROPPED_CALLS:
            yield "dropped call", func.value
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in _SILENT_KEYWORDS:
            yield "dropped argument", _with(node, keywords=[k for j, k in enumerate(node.keywords) if j != i])
    if (
        len(node.args) == 2
        and _name(func) not in _SYMMETRIC
        and all(isinstance(a, ast.Name | ast.Attribute) for a in node.args)
    ):
        yield "swapped arguments", _with(node, args=node.args[::-1])


def _of_parts(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    node = place.node
    match node:
        case ast.Tuple() | ast.List() | ast.Set() if len(node.elts) > 1:
            loads = isinstance(node, ast.Set) or isinstance(node.ctx, ast.Load)
            # A tuple that is unpacked at once would only crash; the order of exceptions says nothing.
            crash = ast.Subscript | ast.Assign | ast.Return | ast.Yield | ast.ExceptHandler | ast.NamedExpr
            if loads and not (isinstance(place.parent, crash) and isinstance(node, ast.Tuple)):
                unordered = isinstance(place.parent, ast.Compare) or (
                    isinstance(place.parent, ast.Call) and _name(place.parent.func) in ("startswith", "endswith")
                )
                for i in range(len(node.elts)):
                    yield "dropped element", _with(node, elts=[e for j, e in enumerate(node.elts) if j != i])
                if all(_is_text(e) or isinstance(e, ast.Name | ast.Constant) for e in node.elts[:2]):
                    swapped = [node.elts[1], node.elts[0], *node.elts[2:]]
                    if not isinstance(node, ast.Set) and not unordered:
                        yield "swapped elements", _with(node, elts=swapped)
        case ast.Dict() if len(node.keys) > 1:
            for i in range(len(node.keys)):
                keep = [j for j in range(len(node.keys)) if j != i]
                yield (
                    "dropped element",
                    _with(node, keys=[node.keys[j] for j in keep], values=[node.values[j] for j in keep]),
                )


_EMPTY = {"int": "0", "float": "0.0", "str": "''", "bool": "False"}


def _of_statement(place: _Place) -> Iterator[tuple[str, ast.AST]]:
    node = place.node
    match node:
        case ast.Return() if node.value is not None and not isinstance(node.value, ast.Constant):
            head = place.returns.split("[")[0]
            if head == "bool":
                yield "returned", ast.Return(ast.Constant(True))
            text = _EMPTY.get(head) or {"list": "[]", "dict": "{}", "tuple": "()", "set": "set()"}.get(head)
            if text:
                yield "returned", ast.Return(ast.parse(text, mode="eval").body)
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield "removed", ast.Pass()
        case ast.Assign(targets=[target]):
            again = isinstance(target, ast.Name) and target.id in place.assigned
            if again or isinstance(target, ast.Attribute | ast.Subscript):
                yield "removed", ast.Pass()
        case ast.Continue() | ast.Break():
            yield "removed", ast.Pass()


def _apart(before: str, after: str, keep: int = 40) -> tuple[str, str]:
    """Shorten two texts to where they differ."""
    before, after = before.split("\n")[0], after.split("\n")[0]
    if max(len(before), len(after)) <= 2 * keep:
        return before, after
    start = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(map(len, (before, after)))
    )
    start = max(0, start - keep // 2)
    lead = "..." if start else ""
    one, other = (lead + t[start : start + 2 * keep] + "..." * (len(t) > start + 2 * keep) for t in (before, after))
    return one, other
