"""The statements of `session`: which make no sense, and how they are shown without the secrets they may hold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pymar.exceptions import SourceError
from pymar.serialization.redaction import is_secret, redacted_values
from pymar.sources.sql.words import Word, words

#: Beginnings of statements that hold for one transaction only: a session is more than one.
_TRANSACTIONS = (
    ("set", "local"),
    ("set", "transaction"),
    ("begin",),
    ("start", "transaction"),
    ("commit",),
    ("end",),
    ("rollback",),
    ("abort",),
    ("savepoint",),
)
#: Words of a statement about a secret that are shown.
_SHOWN = 2
#: Characters, at least, of a value that is replaced in the database's own message.
_SHORTEST = 3


def check_session(source: str, statements: object, dialect: str) -> None:
    """Raise SourceError unless this is a list of statements that hold for as long as a connection does."""
    is_list = isinstance(statements, Sequence) and not isinstance(statements, str | bytes)
    if not is_list or not all(isinstance(one, str) for one in statements):  # type: ignore[attr-defined]
        # The value is not shown: it may hold a secret.
        raise SourceError(
            f"{source}.session is {type(statements).__name__}: it has to be a list of SQL statements, each a text"
        )
    for number, statement in enumerate(statements):  # type: ignore[arg-type, var-annotated]
        found = words(statement, dialect)
        begins = tuple(word.text for word in found[:2])
        if not found:
            raise SourceError(f"{source}.session[{number}] is empty: give an SQL statement, or leave it out")
        if any(begins[: len(one)] == one for one in _TRANSACTIONS):
            raise SourceError(
                f"{source}.session[{number}], {masked(statement, dialect)}, holds for one transaction only, and each "
                "part reads in a transaction of its own. Use SET, which holds for the connection"
            )


def masked(statement: str, dialect: str) -> str:
    """Return a statement for a message: without its literals, and of one about a secret the first words only."""
    found = words(statement, dialect)
    if is_secret(statement):
        return " ".join(word.text for word in found[:_SHOWN]) + " ***"
    shown = " ".join(
        "***" if word.kind == "text" else word.text.upper() if place == 0 else word.text
        for place, word in enumerate(found)
    )
    return redacted_values(re.sub(r" ?([.,;()=]) ?", r"\1", shown))


def without_values(text: str, statement: str, dialect: str) -> str:
    """Return the database's message about a statement without the literals in it."""
    found = words(statement, dialect)
    hidden = {value for word in found if word.kind == "text" for value in _values(word)}
    if is_secret(statement):
        hidden |= {word.text for word in found[_SHOWN:]}
    for value in sorted(hidden, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = re.sub(re.escape(value), "***", text, flags=re.IGNORECASE)
    return redacted_values(text)


def _values(word: Word) -> set[str]:
    inner = re.sub(r"\A[eE]?(['\"]|\$\w*\$)|(['\"]|\$\w*\$)\Z", "", word.text)
    return {inner, inner.replace("''", "'")}
