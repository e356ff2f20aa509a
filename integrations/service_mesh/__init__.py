"""Feeds that publish circuit breakers, retries and meshes as events of one shape."""

from typing import TYPE_CHECKING

from codomyrmex.integrations._extras import lazy_exports

if TYPE_CHECKING:
    from codomyrmex.integrations.service_mesh.aiobreaker_feed import AiobreakerFeed, attach_aiobreaker
    from codomyrmex.integrations.service_mesh.board import CircuitBoard
    from codomyrmex.integrations.service_mesh.breaker_event import (
        BreakerEventKind,
        BreakerState,
        CircuitBreakerEvent,
    )
    from codomyrmex.integrations.service_mesh.breaker_table import BreakerStatus
    from codomyrmex.integrations.service_mesh.circuitbreaker_feed import (
        CircuitbreakerFeed,
        attach_circuitbreaker,
    )
    from codomyrmex.integrations.service_mesh.envoy_admin import EnvoyAdmin
    from codomyrmex.integrations.service_mesh.envoy_outlier_log import EnvoyOutlierLog
    from codomyrmex.integrations.service_mesh.purgatory_feed import PurgatoryFeed, attach_purgatory
    from codomyrmex.integrations.service_mesh.pybreaker_feed import PybreakerFeed, attach_pybreaker
    from codomyrmex.integrations.service_mesh.pyresilience_feed import PyresilienceFeed, attach_pyresilience
    from codomyrmex.integrations.service_mesh.sse_feed import SSEFeed
    from codomyrmex.integrations.service_mesh.stamina_feed import StaminaFeed, attach_stamina
    from codomyrmex.integrations.service_mesh.tenacity_feed import TenacityFeed, attach_tenacity
    from codomyrmex.integrations.service_mesh.watching import WatchFeed, watch

__all__ = [
    "AiobreakerFeed",
    "BreakerEventKind",
    "BreakerState",
    "BreakerStatus",
    "CircuitBoard",
    "CircuitBreakerEvent",
    "CircuitbreakerFeed",
    "EnvoyAdmin",
    "EnvoyOutlierLog",
    "PurgatoryFeed",
    "PybreakerFeed",
    "PyresilienceFeed",
    "SSEFeed",
    "StaminaFeed",
    "TenacityFeed",
    "WatchFeed",
    "attach_aiobreaker",
    "attach_circuitbreaker",
    "attach_purgatory",
    "attach_pybreaker",
    "attach_pyresilience",
    "attach_stamina",
    "attach_tenacity",
    "watch",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "AiobreakerFeed": "aiobreaker_feed",
        "BreakerEventKind": "breaker_event",
        "BreakerState": "breaker_event",
        "BreakerStatus": "breaker_table",
        "CircuitBoard": "board",
        "CircuitBreakerEvent": "breaker_event",
        "CircuitbreakerFeed": "circuitbreaker_feed",
        "EnvoyAdmin": "envoy_admin",
        "EnvoyOutlierLog": "envoy_outlier_log",
        "PurgatoryFeed": "purgatory_feed",
        "PybreakerFeed": "pybreaker_feed",
        "PyresilienceFeed": "pyresilience_feed",
        "SSEFeed": "sse_feed",
        "StaminaFeed": "stamina_feed",
        "TenacityFeed": "tenacity_feed",
        "WatchFeed": "watching",
        "attach_aiobreaker": "aiobreaker_feed",
        "attach_circuitbreaker": "circuitbreaker_feed",
        "attach_purgatory": "purgatory_feed",
        "attach_pybreaker": "pybreaker_feed",
        "attach_pyresilience": "pyresilience_feed",
        "attach_stamina": "stamina_feed",
        "attach_tenacity": "tenacity_feed",
        "watch": "watching",
    },
)
