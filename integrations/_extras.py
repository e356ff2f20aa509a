"""Optional packages: lazy imports, and one clear sentence if a package is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


class MissingExtraError(ImportError):
    """A package that an integration needs is not installed; the message has the install command."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs {package}, which is not installed: pip install 'codomyrmex-streaming[{extra}]'",
            name=package,
        )


def lazy_exports(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are imported on first use.

    Args:
        package: the package's `__name__`.
        names: each public name with its module, relative to the package.
    """

    def getattr_(name: str) -> Any:
        module = names.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{module}", package), name)
        setattr(sys.modules[package], name, value)  # so that later uses do not get here
        return value

    return getattr_
