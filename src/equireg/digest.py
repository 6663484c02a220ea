"""A digest of the code that a job runs, as a parameter of its rule.

Snakemake reruns a job whose parameters changed. A digest of syntax trees changes with the code and
not with comments, docstrings or layout, nor with what a job says: the arguments of ``raise X(...)``
and of ``say(...)`` are left out, so nothing that a result needs may be computed there. It is the
same in every version of Python that reads the code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent.parent

# Modules whose code cannot change a result: a change in them must not train anew. They count only
# for a job that names them itself.
NEUTRAL = frozenset(
    {
        "equireg",  # the version
        "equireg.binding",  # what a result says of itself
        "equireg.built",  # a network of the user's own has a digest of its own
        "equireg.files",  # how files are made whole, not what is in them
        "equireg.gpus",  # which GPU, not what is computed on it
        "equireg.processes",  # who may write a result, and when one must stop
        "equireg.provenance",  # what is said about a result
        "equireg.settings",  # values, which are parameters of the rules, and what is refused
    }
)

# What else counts for a job than its own module and what that imports: how its process is set up.
BESIDES = dict.fromkeys(("train", "evaluate", "predict", "theory"), ("equireg.runtime",))


def job_digest(job: str) -> str:
    """The digest of the code that a job runs, by the job's name: ``train`` or another verb."""
    return source_digest(f"equireg.jobs.{job}", *BESIDES.get(job, ()))


def network_digest(file: Path) -> str:
    """The digest of a network of the user's own: of its file, and of what finds its spaces.

    Raises ValueError for a file that is not there, or is not Python.
    """
    try:
        own = spell(tree_of(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); accepted: a file") from None
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is not Python ({error}); accepted: a module") from None
    return hashlib.sha256(f"{own}\n{source_digest('equireg.built')}".encode()).hexdigest()


def source_digest(*modules: str, sources: Path = SOURCES) -> str:
    """SHA-256 over the syntax trees of ``modules`` and of all that they import from this package.

    modules: dotted names, such as ``"equireg.jobs.train"``; a ``NEUTRAL`` one counts only where
    it is named here. Found by reading the files below ``sources``, not by importing. Raises
    ValueError for a module that is not there.
    """
    digest = hashlib.sha256()
    for name, code in sorted(closure(*modules, sources=sources).items()):
        digest.update(f"{name}\n{spell(code)}\n".encode())
        digest.update(companion(name, sources).encode())
    return digest.hexdigest()


def companion(module: str, sources: Path) -> str:
    """The C++ that a module compiles, ``<module>.cpp`` beside it, without comments and layout."""
    file = sources.joinpath(*module.split(".")).with_suffix(".cpp")
    if not file.is_file():
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    code = (" ".join(line.partition("//")[0].split()) for line in lines)
    return "\n".join(line for line in code if line)


def closure(*modules: str, sources: Path = SOURCES) -> dict[str, ast.Module]:
    """``modules`` and the modules that they import, at any depth; of neutral ones those named."""
    found: dict[str, ast.Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or (name in NEUTRAL and name not in modules):
            continue
        file = locate(name, sources)
        if file is None:
            raise ValueError(f"module is {name!r}; accepted: a module below {sources}")
        found[name] = parse(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [
            module
            for imported in imports(found[name], package)
            for module in ancestry(imported)
            if module.split(".")[0] == name.split(".")[0] and locate(module, sources)
        ]
    return found


def locate(module: str, sources: Path) -> Path | None:
    """The file of a module or package; None for a name that is neither."""
    base = sources.joinpath(*module.split("."))
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


def tree_of(file: Path) -> ast.Module:
    """The syntax tree without docstrings and other texts that are statements of their own."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    for node in ast.walk(tree):
        for body in ("body", "orelse", "finalbody"):
            statements = getattr(node, body, None)
            if isinstance(statements, list) and any(map(_is_text, statements)):
                kept = [statement for statement in statements if not _is_text(statement)]
                setattr(node, body, kept or [ast.Pass()])
    return tree


parse = functools.cache(tree_of)


def spell(node: object) -> str:
    """A syntax tree as text, with nothing in it that depends on the version of Python.

    ``ast.unparse`` and ``ast.dump`` differ between versions. Here empty fields are left out, since
    versions add and drop some, and so are positions, ``ctx`` and notes on how a text was written.
    """
    if isinstance(node, list):
        return f"[{','.join(map(spell, node))}]"
    if isinstance(node, ast.Constant):  # ascii: which characters are printable differs as well
        return f"{type(node.value).__name__}:{node.value!a}"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):
        fields["values"] = _joined(node.values)
    elif isinstance(node, ast.Call) and _is_say(node.func):
        fields = {"func": node.func}
    elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        fields["exc"] = node.exc.func
    told = (
        f"{name}={spell(value)}"
        for name, value in fields.items()
        if value is not None and value != [] and name not in _NOT_CODE
    )
    return f"{type(node).__name__}({','.join(told)})"


_NOT_CODE = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, its adjacent texts as one: versions cut them differently."""
    joined: list[ast.expr] = []
    for is_text, parts in itertools.groupby(values, lambda part: isinstance(part, ast.Constant)):
        if is_text:
            text = "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
            joined += [ast.Constant(text)] if text else []
        else:
            joined += parts
    return joined


def _is_say(function: ast.expr) -> bool:
    """Whether it is ``runtime.say``, which writes a line of the log."""
    return getattr(function, "id", getattr(function, "attr", "")) == "say"


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Every name that is imported, also within functions: of modules, and of what is in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*parents, node.module or ""] if node.level else [node.module or ""])
            yield from (f"{base.rstrip('.')}.{alias.name}" for alias in node.names)


def ancestry(name: str) -> list[str]:
    """``"a.b.c"`` -> ``["a", "a.b", "a.b.c"]``: importing the last runs them all."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
