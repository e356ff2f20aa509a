"""How events leave a stream. The public names are those of `codomyrmex.integrations`."""
