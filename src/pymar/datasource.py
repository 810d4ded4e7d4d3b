"""The seed's names for where the data is: sources that users write, and the factory that parts are made from."""

from __future__ import annotations

from pymar.factory import DataSourceFactory
from pymar.source import DataSource, DictDataSource, ListDataSource

__all__ = ["DataSource", "DataSourceFactory", "DictDataSource", "ListDataSource"]
