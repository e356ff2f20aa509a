"""Events as notifications."""

from codomyrmex.integrations.notification.apprise_channel import AppriseChannel, ChannelError

__all__ = ["AppriseChannel", "ChannelError"]
