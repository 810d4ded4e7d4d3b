"""A package as users have one."""
