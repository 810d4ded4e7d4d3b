"""Settings in a module of a package."""

SCALE = 1
