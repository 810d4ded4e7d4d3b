"""Settings of the interpreter that a script may change and answers depend on: precision, limits, locale, logging."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

#: Name of the logging handler in worker processes, whose records go where prints of a part go.
_HANDLER = "pymar"
#: Categories of locales, by their names in `locale`.
_CATEGORIES = ("LC_COLLATE", "LC_MONETARY", "LC_NUMERIC", "LC_TIME")
#: The settings of a new interpreter.
_FIELD_SIZE = 131_072
_TRAPS = ("DivisionByZero", "InvalidOperation", "Overflow")
_DECIMAL = (28, "ROUND_HALF_EVEN", -999_999, 999_999, 1, 0, _TRAPS)
_LOCALE = dict.fromkeys(_CATEGORIES, "C")
_PRINTS = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
}
_PRINTS |= {"nanstr": "nan", "infstr": "inf", "sign": "-", "legacy": False}
_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_LOGGING = {"level": 30, "disabled": 0, "levels": {}, "shows": False, "from": 0, "format": None, "dates": None}


class Interpreter(NamedTuple):
    """Settings as plain data. None for the settings of a new interpreter: worker processes need no import for those."""

    recursion: int
    digits: int | None
    """Digits of the longest int that is converted to text or back."""
    decimal: tuple[Any, ...] | None
    field_size: int | None
    """Field size limit of csv."""
    timeout: float | None
    """Default timeout of sockets."""
    locale: dict[str, str] | None
    numpy: tuple[dict[str, str], dict[str, Any]] | None
    """How floating-point errors are handled; how arrays are printed."""
    warnings: list[tuple[Any, ...]] | None
    logging: dict[str, Any] | None


def interpreter() -> Interpreter:
    """Return the settings of this process and thread, as they are now."""
    modules = sys.modules
    return Interpreter(
        sys.getrecursionlimit(),
        sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else None,
        _unusual(_decimal(modules["decimal"]), _DECIMAL) if "decimal" in modules else None,
        _unusual(modules["_csv"].field_size_limit(), _FIELD_SIZE) if "_csv" in modules else None,
        modules["socket"].getdefaulttimeout() if "socket" in modules else None,
        _unusual(_locale(modules["locale"]), _LOCALE) if "locale" in modules else None,
        _unusual(_numpy(modules["numpy"]), (_ERRORS, _PRINTS)) if "numpy" in modules else None,
        _warnings(modules["warnings"]) if "warnings" in modules else None,
        _unusual(_logging(modules["logging"]), _LOGGING) if "logging" in modules else None,
    )


def _unusual(settings: Any, usual: Any) -> Any:
    return None if settings == usual else settings


def of_answers() -> dict[str, str]:
    """Return, by name, the settings that differ from those of a new interpreter and silently change results."""
    modules, found = sys.modules, {}
    if "decimal" in modules and (now := _decimal(modules["decimal"])) != _DECIMAL:
        found["the decimal context"] = repr(now)
    if "locale" in modules:
        names = _locale(modules["locale"])
        found |= {f"the locale {category}": name for category, name in names.items() if name != "C"}
    return found


def apply(settings: Interpreter) -> None:
    """Apply settings to this process and thread; where one is None, the setting of a new interpreter."""
    if sys.getrecursionlimit() != settings.recursion:
        sys.setrecursionlimit(settings.recursion)
    if settings.digits is not None and sys.get_int_max_str_digits() != settings.digits:
        sys.set_int_max_str_digits(settings.digits)
    loaded = sys.modules
    if settings.decimal is not None or "decimal" in loaded:
        _set_decimal(settings.decimal)
    if settings.field_size is not None or "_csv" in loaded:
        import csv

        csv.field_size_limit(settings.field_size or _FIELD_SIZE)
    if settings.timeout is not None or "socket" in loaded:
        import socket

        socket.setdefaulttimeout(settings.timeout)
    if settings.locale is not None or "locale" in loaded:
        _set_locale(settings.locale or _LOCALE)
    if settings.numpy is not None or hasattr(loaded.get("numpy"), "set_printoptions"):
        _set_numpy(*settings.numpy or (_ERRORS, _PRINTS))
    if settings.warnings is not None:
        _set_warnings(settings.warnings)
    if settings.logging is not None or "logging" in loaded:
        _set_logging(settings.logging or _LOGGING)


def _decimal(module: Any) -> tuple[Any, ...]:
    now = module.getcontext()
    traps = tuple(sorted(signal.__name__ for signal, is_on in now.traps.items() if is_on))
    return now.prec, now.rounding, now.Emin, now.Emax, now.capitals, now.clamp, traps


def _set_decimal(settings: tuple[Any, ...] | None) -> None:
    import decimal

    if settings is None:
        decimal.setcontext(decimal.DefaultContext.copy())
        return
    prec, rounding, low, high, capitals, clamp, names = settings
    traps = [getattr(decimal, name) for name in names]
    decimal.setcontext(decimal.Context(prec, rounding, low, high, capitals, clamp, [], traps))


def _locale(module: Any) -> dict[str, str]:
    return {name: module.setlocale(getattr(module, name)) for name in _CATEGORIES if hasattr(module, name)}


def _set_locale(names: dict[str, str]) -> None:
    import locale

    for category, name in names.items():
        number = getattr(locale, category)
        if locale.setlocale(number) != name:
            try:
                locale.setlocale(number, name)
            except locale.Error as error:
                from pymar.exceptions import UsageError

                raise UsageError(
                    f"the locale {name!r} ({category}) that the script has set is not available here ({error}): "
                    "install it on this host"
                ) from None


def _numpy(module: Any) -> tuple[dict[str, str], dict[str, Any]] | None:
    if not hasattr(module, "get_printoptions"):
        return None  # numpy is being imported
    shown = {
        name: value
        for name, value in module.get_printoptions().items()
        if isinstance(value, int | float | str | bool) and name != "override_repr"
    }
    return {name: value for name, value in module.geterr().items() if value != "call"}, shown


def _set_numpy(errors: dict[str, str], shown: dict[str, Any]) -> None:
    import numpy

    numpy.seterr(**errors)  # type: ignore[arg-type]
    numpy.set_printoptions(**shown)


def _warnings(module: Any) -> list[tuple[Any, ...]]:
    """Return the filters whose categories are builtins; for others the worker process would have to import modules."""
    return [
        (
            action,
            None if message is None else getattr(message, "pattern", message),
            category.__name__,
            None if name is None else getattr(name, "pattern", name),
            line,
        )
        for action, message, category, name, line in module.filters
        if category.__module__ == "builtins"
    ]


def _set_warnings(rows: list[tuple[Any, ...]]) -> None:
    import builtins
    import re
    import warnings

    if _warnings(warnings) == rows:
        return
    others = [one for one in warnings.filters if one[2].__module__ != "builtins"]
    warnings.resetwarnings()
    for action, message, category, name, line in rows:
        patterns = [
            None if pattern is None else re.compile(pattern, flags) for pattern, flags in ((message, re.I), (name, 0))
        ]
        warnings.filters.append((action, patterns[0], getattr(builtins, category), patterns[1], line))  # type: ignore[attr-defined]
    warnings.filters.extend(others)  # type: ignore[attr-defined]
    warnings._filters_mutated() if hasattr(warnings, "_filters_mutated") else None


def _logging(module: Any) -> dict[str, Any]:
    """Return the levels of loggers, and the level and format of the first handler of the root logger."""
    root = module.root
    handler = next(iter(root.handlers), None)
    shape = getattr(handler, "formatter", None)
    levels = {
        name: logger.level
        for name, logger in list(root.manager.loggerDict.items())
        if isinstance(logger, module.Logger) and logger.level and not name.startswith("pymar")
    }
    return {
        "level": root.level,
        "disabled": root.manager.disable,
        "levels": levels,
        "shows": handler is not None,
        "from": handler.level if handler is not None else 0,
        "format": getattr(shape, "_fmt", None),
        "dates": getattr(shape, "datefmt", None),
    }


def _set_logging(settings: dict[str, Any]) -> None:
    import logging

    root = logging.root
    root.setLevel(settings["level"])
    logging.disable(settings["disabled"])
    for name, level in settings["levels"].items():
        logging.getLogger(name).setLevel(level)
    for handler in [handler for handler in root.handlers if handler.name == _HANDLER]:
        root.removeHandler(handler)
    if settings["shows"] and not root.handlers:
        handler = logging._StderrHandler(settings["from"])  # type: ignore[attr-defined] # looks sys.stderr up for each record
        handler.set_name(_HANDLER)
        try:
            handler.setFormatter(logging.Formatter(settings["format"], settings["dates"]))
        except ValueError:  # the format has another style: show the message alone
            handler.setFormatter(logging.Formatter())
        root.addHandler(handler)
