"""`pymar clean`: removes what jobs that were killed have left at the target of a sink."""

from __future__ import annotations

import os

from pymar.sinks import sql, targets

#: What addresses of databases begin with, in SQLAlchemy's form: the database, and perhaps a driver.
_DATABASES = ("postgresql", "postgres", "mysql", "mariadb", "sqlite")


def cleaned(target: str) -> list[str]:
    """Remove what is left at a folder, an address or a database; return the names of what was removed.

    Raises:
        SinkError: a job writes to it now, or it cannot be reached.
    """
    if target.partition("://")[0].partition("+")[0] in _DATABASES:
        return sql.cleaned(target)
    if "://" not in target:
        target = os.path.abspath(os.path.expanduser(target))
    return targets.cleaned(target, {})
