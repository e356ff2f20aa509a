"""Delivery of events to sinks. The public names are exported by `codomyrmex.integrations`."""
