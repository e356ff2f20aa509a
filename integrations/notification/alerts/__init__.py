"""Alert routing with Alertmanager's semantics. The public names are those of `integrations.notification`."""
