"""The reference: a page for every public module, written from its names before the site is built.

Public is what ``jaxnet.__all__`` and the ``__all__`` of its modules name. A name that stands in
several of them is documented in the first. A name without a docstring is a warning, which ends the build.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

LOG = logging.getLogger(__name__)
ROOT = "jaxnet"
HOMES: dict[int, str] = {}
"""Full name by the identity of a class or function: where it is documented."""


def public(module: types.ModuleType) -> list[str]:
    """The public names of a module: ``__all__``, or what it defines without an underscore."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    found = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
    return [name for name in found if not name.startswith("_")]


def foreign(value: Any) -> str | None:
    """The library that a name comes from, if that is another one."""
    where = getattr(value, "__name__" if isinstance(value, types.ModuleType) else "__module__", None)
    library = str(where).split(".")[0]
    known = isinstance(value, type | types.FunctionType | types.ModuleType)
    return library if known and library != ROOT else None


def modules(name: str = ROOT) -> Iterator[types.ModuleType]:
    """The public modules, each before those that it names."""
    module = importlib.import_module(name)
    yield module
    for one in public(module):
        value = getattr(module, one)
        if isinstance(value, types.ModuleType) and foreign(value) is None:
            yield from modules(value.__name__)


def comments() -> dict[str, dict[str, list[str]]]:
    """By module and name, what the docstrings below assignments say."""
    found = {}
    for name in sorted(sys.modules):
        if name.split(".")[0] == ROOT and getattr(sys.modules[name], "__file__", "").endswith(".py"):
            analyzer = ModuleAnalyzer.for_module(name)
            analyzer.analyze()
            found[name] = {key: doc for (where, key), doc in analyzer.attr_docs.items() if not where}
    return found


def said(value: Any, name: str, module: str, comment: dict[str, dict[str, list[str]]]) -> list[str]:
    """The docstring of a constant: beside it, or where the module has it from."""
    if name in comment.get(module, {}):
        return comment[module][name]
    for other, docs in comment.items():
        if name in docs and getattr(sys.modules[other], name, None) is value:
            return docs[name]
    return []


def own_docstring(value: Any) -> str:
    """The docstring that a class or function has itself; dataclasses are given one."""
    doc = value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
    return "" if not doc or doc.startswith(f"{value.__name__}(") else doc


def check(value: Any, full: str) -> None:
    """Warns of a class, function or method without a docstring."""
    if not own_docstring(value):
        LOG.warning("%s is public and has no docstring", full)
    fields = getattr(value, "__dataclass_fields__", {})
    for name, member in vars(value).items() if isinstance(value, type) else ():
        method = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or name in fields or not isinstance(method, types.FunctionType | property):
            continue
        made = isinstance(method, types.FunctionType) and method.__module__ != value.__module__
        if not made and not inspect.getdoc(getattr(value, name)):
            LOG.warning("%s.%s is public and has no docstring", full, name)


def page(module: types.ModuleType, comment: dict[str, dict[str, list[str]]]) -> str:
    """The page of a module, in Markdown."""
    name, parts, elsewhere, below = module.__name__, [], [], []
    for one in public(module):
        value, full = getattr(module, one), f"{name}.{one}"
        if isinstance(value, TypeVar):
            continue
        if foreign(value) is not None:
            elsewhere.append(f"``{one}`` of {foreign(value)}")
        elif isinstance(value, types.ModuleType):
            below.append(value.__name__)
        elif isinstance(inspect.unwrap(value) if callable(value) else value, type | types.FunctionType):
            home = HOMES.setdefault(id(value), full)
            if home != full:
                elsewhere.append(f":py:obj:`{home}`")
                continue
            check(value, full)
            kind = "class" if isinstance(value, type) else "function"
            options = ["   :members:"] if kind == "class" else []
            # the default of such a field looks like a method
            functions = [
                f for f in getattr(value, "__dataclass_fields__", ()) if callable(vars(value).get(f))
            ]
            if functions:
                options.append(f"   :exclude-members: {', '.join(functions)}")
            parts += [f".. auto{kind}:: {full}", *options, ""]
        else:
            doc = said(value, one, name, comment)
            if not doc:
                LOG.warning("%s is public and has no docstring", full)
            shown = repr(value)
            # a value with an address or of a screenful says nothing
            value_line = [f"   :value: {shown}"] if len(shown) < 80 and "<" not in shown else []
            parts += [f".. py:data:: {one}", *value_line, "", *(f"   {line}" for line in doc), ""]
    also = "" if not elsewhere else f"Also: {', '.join(elsewhere)}."
    lines = [f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}", "", *parts, also, "", "```", ""]
    if below:
        lines += ["```{toctree}", ":maxdepth: 1", *below, "```", ""]
    return "\n".join(lines)


def write_pages(app: Any) -> None:
    """Writes the pages into ``_api``; unchanged ones keep their time."""
    folder = Path(app.srcdir) / "_api"
    folder.mkdir(exist_ok=True)
    every = list(modules())
    comment = comments()
    for module in every:
        text, path = page(module, comment), folder / f"{module.__name__}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def named(path: str) -> Any:
    """The object with a dotted path, or None."""
    head, rest = path.split("."), list[str]()
    while head:
        try:
            value: Any = importlib.import_module(".".join(head))
        except ImportError:
            rest.insert(0, head.pop())
            continue
        for name in rest:
            value = getattr(value, name, None)
        return value
    return None


def resolve(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Leads a name of jaxnet to where it is documented; others stay text.

    A name that is nowhere is left, and Sphinx warns of it.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.split(".")[0] == ROOT:
        value = named(target)
        if value is None:
            return None
    else:
        inside = [m for n, m in sys.modules.items() if n.split(".")[0] == ROOT]
        values = [vars(m)[target] for m in inside if target in vars(m)]
        value = next((v for v in values if id(v) in HOMES), None)
    home = HOMES.get(id(value))
    if home is None:
        return text
    found = env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", home, node, nodes.literal(text=text.astext())
    )
    return text if found is None else found


def readable(app: Any, what: str, name: str, value: Any, options: Any, signature: Any, returns: Any) -> Any:
    """A signature without the addresses of functions that are defaults, which are no Python."""
    return (re.sub(r"<[^<>]*>", "...", signature), returns) if signature else None


def setup(app: Any) -> dict[str, bool]:
    """Registers all this with Sphinx."""
    app.connect("autodoc-process-signature", readable)
    app.connect("builder-inited", write_pages)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
