"""Find out from the syntax tree of a file if its code reads an attribute of a class."""

from __future__ import annotations

import ast


def reads(source: bytes, cls: type, name: str) -> bool:
    """True if the code reads this attribute of the class by its name, through self or cls, or of an unknown object.

    A read of the same attribute of another class in the file does not count.
    """
    return _Reads(ast.parse(source), cls, name).found


class _Reads:
    """One search of a file; `found` is the result. One thread."""

    def __init__(self, tree: ast.AST, cls: type, name: str) -> None:
        self._name = name
        self._classes: dict[str, list[ast.expr]] = {}
        self._list(tree, ())
        own = [base.__qualname__ for base in cls.__mro__]
        definer = next((base.__qualname__ for base in cls.__mro__ if name in vars(base)), cls.__qualname__)
        self._derived = {definer, own[0]}
        while len(more := {one for one in self._classes if self._derives(one)} | self._derived) > len(self._derived):
            self._derived = more
        self._related = {*own, *self._derived}
        self.found = self._look(tree, (), None, None)

    def _list(self, node: ast.AST, path: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                self._classes[".".join((*path, child.name))] = child.bases
            self._list(child, _path_in(child, path))

    def _derives(self, qualname: str) -> bool:
        path = tuple(qualname.split(".")[:-1])
        bases = [base for base in self._classes[qualname] if isinstance(base, ast.Name)]
        return any(self._resolved(base.id, path) in self._derived for base in bases)

    def _resolved(self, name: str, path: tuple[str, ...]) -> str | None:
        """Return the class of the file to which a name refers at a path, by its qualified name; None if it is none."""
        places = (".".join((*path[:end], name)) for end in range(len(path), -1, -1))
        return next((place for place in places if place in self._classes), None)

    def _look(self, node: ast.AST, path: tuple[str, ...], within: str | None, body: str | None) -> bool:
        """True if a node reads it. `within`: the enclosing class; `body`: the same, unless a function is in between."""
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.ClassDef():
                    deeper = _path_in(child, path)
                    if self._look(child, deeper, ".".join(deeper), ".".join(deeper)):
                        return True
                    continue
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    if self._look(child, _path_in(child, path), within, None):
                        return True
                    continue
                case ast.Attribute(value=of, attr=self._name, ctx=ast.Load()):
                    if self._is_ours(of, path, within):
                        return True
                case ast.Name(id=self._name, ctx=ast.Load()) if body in self._related:
                    return True
                case ast.Call(func=ast.Name(id="getattr" | "hasattr") | ast.Attribute(attr="attrgetter"), args=given):
                    if any(isinstance(one, ast.Constant) and one.value == self._name for one in given):
                        return True
            if self._look(child, path, within, body):
                return True
        return False

    def _is_ours(self, of: ast.expr, path: tuple[str, ...], within: str | None) -> bool:
        if not isinstance(of, ast.Name):
            return True
        if of.id in ("self", "cls"):
            return within is None or within in self._related
        resolved = self._resolved(of.id, path)
        return resolved is None or resolved in self._related


def _path_in(node: ast.AST, path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the qualified name, in pieces, of what is defined directly in a node."""
    if isinstance(node, ast.ClassDef):
        return (*path, node.name)
    return (*path, node.name, "<locals>") if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else path
