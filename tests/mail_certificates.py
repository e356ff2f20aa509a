"""The certificate of a stand-in for a mail server."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def server_context(folder: Path) -> ssl.SSLContext:
    """Return the context of a server whose certificate nobody has signed; its files are in the folder."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", *options, "-keyout", key, "-out", cert, "-subj", "/CN=mail.example"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
