"""The engines: one module for each kind of store, with what belongs to it beside it."""
