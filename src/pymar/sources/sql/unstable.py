"""Which SQL gives other rows to each part: known by the functions that it calls, and by what it leaves unordered.

Each part runs a query anew. That a query uses random() or now() the database does not tell (for PostgreSQL, now() is
stable, and every function of a user's is volatile unless it says otherwise), so here are the names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pymar.sources.sql.words import MYSQL, Word, words

_RANDOM = re.compile(
    r"gen_random_bytes|gen_random_uuid|newid|nextval|lastval|setval|rand|random|random_bytes|random_normal|"
    r"randomblob|setseed|sys_guid|uuid_generate_v1|uuid_generate_v1mc|uuid_generate_v4|uuid_short|uuid_v4|"
    r"uuid_v7|uuidv4|uuidv7"
)
_PROCESS = re.compile(r"connection_id|last_insert_id|last_insert_rowid|pg_backend_pid|txid_current")
_MOMENT = re.compile(
    r"clock_timestamp|curdate|current_date|current_time|current_timestamp|curtime|get_current_time|"
    r"get_current_timestamp|getdate|localtime|localtimestamp|now|statement_timestamp|sysdate|timeofday|"
    r"transaction_timestamp|utc_date|utc_time|utc_timestamp"
)
#: Functions that depend on the moment, or are random, if they are called without arguments.
_WITHOUT_ARGUMENTS = {"uuid": "random", "today": "moment", "unix_timestamp": "moment"}
#: The same of SQLite; the number is where the argument stands that may be 'now', and is so if it is left out.
_OF_SQLITE = {"date": 0, "time": 0, "datetime": 0, "julianday": 0, "unixepoch": 0, "strftime": 1}
#: Names of the moment that are no calls.
_BARE = frozenset({"current_date", "current_time", "current_timestamp"})
_MORE_BARE = {
    **dict.fromkeys(("postgresql", "duckdb"), frozenset({"localtime", "localtimestamp"})),
    **dict.fromkeys(MYSQL, frozenset({"localtime", "localtimestamp", "utc_date", "utc_time", "utc_timestamp"})),
}
#: Texts that PostgreSQL and DuckDB take for a moment, where a type of time stands before or behind them.
_TEXTS = frozenset({"'now'", "'today'", "'tomorrow'", "'yesterday'"})
_TIMES = frozenset({"date", "time", "timetz", "timestamp", "timestamptz"})
_REMEDIES = {
    "random": "whose value differs each time: write the rows to a table first (CREATE TABLE ... AS SELECT ...), or "
    "choose rows by their key, such as a hash of it",
    "moment": "and each part asks at another time: write the time itself, such as '2026-01-31 00:00:00'",
    "process": "whose value differs from connection to connection: leave it out",
    "order": "and which rows that gives may differ from part to part: order them by what is unique",
}


@dataclass
class _Group:
    """What is within a pair of parentheses, or the whole."""

    is_ordered: bool = False
    #: What gives arbitrary rows unless there is an ORDER BY; "" if nothing does.
    needs_order: str = ""
    #: True for EXISTS (...), for which it does not matter which rows there are.
    is_exists: bool = False


def unstable(sql: str, dialect: str) -> str:
    """Return what makes a SELECT, or a condition, give other rows each time, and the remedy; "" if nothing is known."""
    found = words(sql, dialect)
    for place, word in enumerate(found):
        if kind := _call(found, place, dialect):
            return f"{word.text}(), {_REMEDIES[kind]}"
        if kind := _name(found, place, dialect):
            return f"{word.text.upper()}, {_REMEDIES[kind]}"
    what = _unordered(found)
    return f"{what} without ORDER BY, {_REMEDIES['order']}" if what else ""


def is_random_choice(sql: str, dialect: str) -> bool:
    """True if a condition chooses each row by chance, and asks nothing but the row itself."""
    found = words(sql, dialect)
    kinds = {_call(found, place, dialect) or _name(found, place, dialect) for place in range(len(found))} - {""}
    return kinds == {"random"} and not any(word == Word("word", "select") for word in found)


def _call(found: list[Word], place: int, dialect: str) -> str:
    """Return the kind of the function that is called at this place; "" if it is none of ours."""
    word = found[place]
    if word.kind != "word" or _text(found, place + 1) != "(":
        return ""
    for kind, names in (("random", _RANDOM), ("process", _PROCESS), ("moment", _MOMENT)):
        if names.fullmatch(word.text):
            return kind
    arguments = _arguments(found, place + 2)
    if word.text in _WITHOUT_ARGUMENTS and not arguments:
        return _WITHOUT_ARGUMENTS[word.text]
    if dialect == "sqlite" and word.text in _OF_SQLITE:
        at = _OF_SQLITE[word.text]
        return "moment" if len(arguments) <= at or arguments[at][0].text.lower() == "'now'" else ""
    is_age = word.text == "age" and dialect in ("postgresql", "duckdb")  # of one time: until today
    return "moment" if is_age and len(arguments) == 1 else ""


def _arguments(found: list[Word], place: int) -> list[list[Word]]:
    """Return the words of each argument of a call whose first argument begins at this place."""
    arguments: list[list[Word]] = [[]]
    depth = 0
    for word in found[place:]:
        if word.text == ")" and depth == 0:
            break
        depth += {"(": 1, ")": -1}.get(word.text, 0) if word.kind == "sign" else 0
        if word.text == "," and depth == 0:
            arguments.append([])
        else:
            arguments[-1].append(word)
    return [one for one in arguments if one]


def _name(found: list[Word], place: int, dialect: str) -> str:
    """Return the kind of what is no call: a keyword, a text that means a moment, a sample, a variable."""
    word, before, behind = found[place], _text(found, place - 1), _text(found, place + 1)
    if word.kind == "word" and before not in (".", "as") and behind != ".":
        if word.text in _BARE | _MORE_BARE.get(dialect, frozenset()):
            return "moment"
        is_sample = word.text == "tablesample" or (word.text == "sample" and before == "using")
        if is_sample and Word("word", "repeatable") not in found[place:]:
            return "random"
        if word.text == "next" and behind == "value" and _text(found, place + 2) == "for":
            return "random"
    if word.kind == "sign" and word.text == ":=" and dialect in MYSQL:
        return "process"
    if word.kind == "text" and word.text.lower() in _TEXTS and dialect in ("postgresql", "duckdb"):
        is_cast = behind == "::" or (behind == "as" and (_text(found, place - 2), before) == ("cast", "("))
        is_cast = is_cast and _text(found, place + 2) in _TIMES
        return "moment" if is_cast or before in _TIMES else ""
    return ""


def _unordered(found: list[Word]) -> str:
    """Return what gives arbitrary rows, as it has no ORDER BY of its own; "" if nothing does."""
    groups = [_Group()]
    for place, word in enumerate(found):
        if word.kind == "sign" and word.text == "(":
            is_exists = _text(found, place - 1) == "exists"
            is_numbered = [_text(found, place - back) for back in (4, 3, 2, 1)] == ["row_number", "(", ")", "over"]
            groups.append(_Group(needs_order="row_number() OVER" if is_numbered else "", is_exists=is_exists))
        elif word.kind == "sign" and word.text == ")" and len(groups) > 1:
            if what := _open(groups.pop()):
                return what
        elif word.kind == "word" and _text(found, place - 1) != ".":
            following = _text(found, place + 1)
            if word.text == "order" and following == "by":
                groups[-1].is_ordered = True
            elif word.text == "limit" and following not in ("0", "all", "null", "", ".", ",", ")"):
                groups[-1].needs_order = "LIMIT"
            elif word.text == "offset" and following[:1].isdigit() and following != "0":  # else it is a column
                groups[-1].needs_order = "OFFSET"
            elif word.text == "fetch" and following in ("first", "next"):
                groups[-1].needs_order = "FETCH"
            elif word.text == "distinct" and following == "on" and _text(found, place + 2) == "(":
                groups[-1].needs_order = "DISTINCT ON"
    return _open(groups[0])


def _open(group: _Group) -> str:
    return "" if group.is_ordered or group.is_exists else group.needs_order


def _text(found: list[Word], place: int) -> str:
    """Return the word at this place, or "" if there is none or it is within quotes."""
    return found[place].text if 0 <= place < len(found) and found[place].kind not in ("text", "name") else ""
