"""SQL as a list of words, so that a name within quotes or a comment is not taken for what it is not."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

#: SQLAlchemy's names of databases that take MySQL's SQL.
MYSQL = ("mysql", "mariadb")
_NESTED = re.compile(r"/\*|\*/")
#: Databases whose comments may have comments in them, and whose texts may stand within $tag$ ... $tag$.
_LIKE_POSTGRES = ("postgresql", "duckdb")


class Word(NamedTuple):
    """A piece of a statement."""

    kind: str
    """"word" (a name without quotes, in lower case), "text" (a literal), "name" (within quotes), "number" or "sign"."""
    text: str
    """As it was written; words in lower case."""


@lru_cache
def _pattern(dialect: str) -> re.Pattern[str]:
    is_mysql = dialect in MYSQL
    escaped = r"'(?:[^'\\]|\\.|'')*'"
    kinds = {
        "gap": r"\s+|" + (r"--(?=\s|\Z)[^\n]*|\#[^\n]*|/\*M?!\d*|\*/" if is_mysql else r"--[^\n]*"),
        "comment": r"/\*",
        "text": escaped
        if is_mysql
        else rf"[eE]{escaped}|'(?:[^']|'')*'"
        if dialect == "postgresql"
        else r"'(?:[^']|'')*'",
        "dollar": r"\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$" if dialect in _LIKE_POSTGRES else r"(?!)",
        "name": r'"(?:[^"]|"")*"' if not is_mysql else r"`(?:[^`]|``)*`",
        "other": r'"(?:[^"\\]|\\.|"")*"'
        if is_mysql
        else r"`(?:[^`]|``)*`|\[[^\]]*\]"
        if dialect == "sqlite"
        else r"(?!)",
        "word": r"[^\W\d][\w$]*",
        "number": r"\d[\w.]*",
        "sign": r"::|:=|.",
    }
    return re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in kinds.items()), re.DOTALL)


def words(sql: str, dialect: str) -> list[Word]:
    """Return the words of a statement, without spaces and comments; `dialect` is SQLAlchemy's name of the database."""
    found = []
    pattern = _pattern(dialect)
    place = 0
    while match := pattern.match(sql, place):
        kind, place = str(match.lastgroup), match.end()
        if kind == "tag":
            kind = "dollar"
        if kind == "comment":
            place = _end_of_comment(sql, place, dialect in _LIKE_POSTGRES)
        elif kind == "other":
            found.append(Word("text" if dialect in MYSQL else "name", match[0]))
        elif kind == "dollar":
            found.append(Word("text", match[0]))
        elif kind != "gap":
            found.append(Word(kind, match[0].lower() if kind == "word" else match[0]))
    return found


def _end_of_comment(sql: str, place: int, is_nested: bool) -> int:
    depth = 1
    while depth:
        match = _NESTED.search(sql, place)
        if match is None:
            return len(sql)
        depth += 1 if match[0] == "/*" and is_nested else -1 if match[0] == "*/" else 0
        place = match.end()
    return place
