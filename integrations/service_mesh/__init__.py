"""Circuit breakers become events."""

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.service_mesh.pybreaker_feed import PybreakerFeed, attach_pybreaker

__all__ = ["PybreakerFeed", "attach_pybreaker"]

__getattr__ = lazy_exports(
    __name__, {"PybreakerFeed": "pybreaker_feed", "attach_pybreaker": "pybreaker_feed"}
)
