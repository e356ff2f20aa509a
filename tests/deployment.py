"""The files of examples/deployment, the commands of docs/deployment.md that run them, and nginx."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from durable.servers import free_port, need

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "deployment"
PAGE = ROOT / "docs" / "deployment.md"
BIN = Path(sys.executable).parent
PATIENCE = 30.0  # seconds

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def read(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def blocks() -> list[tuple[str, str]]:
    """Return the language and the text of each code block of the page."""
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return the commands of the page."""
    return [line for language, text in blocks() if language == "console" for line in text.splitlines()]


def command(*words: str, **options: object) -> list[str]:
    """Return the shortest command of the page that has some words, with other values of some options."""
    program, *arguments = min(
        (found for found in map(shlex.split, commands()) if set(words) <= set(found)), key=len
    )
    for name, value in options.items():
        arguments[arguments.index(f"--{name}") + 1] = str(value)
    return [str(BIN / program), *arguments]


def instructions() -> dict[str, list[str]]:
    """Return the instructions of the container file by name."""
    found: dict[str, list[str]] = {}
    for line in read("Containerfile").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            found.setdefault(name, []).append(value)
    return found


class Nginx:
    """An nginx with the site of the examples, on a free port, in front of local servers.

    Args:
        folder: an empty folder for its files.
        ports: the ports of the servers.
    """

    def __init__(self, folder: Path, ports: Sequence[int] = (8000,)) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"https://shop.example.com:{self.port}"
        self._program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
        need(self._program, "nginx")
        need(shutil.which("openssl"), "openssl")
        self.certificate, key = folder / "shop.pem", folder / "shop.key"
        subject = ["-subj", "/CN=shop.example.com", "-addext", "subjectAltName=DNS:shop.example.com"]
        kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
        site = read("nginx.conf")
        servers = "".join(f"    server 127.0.0.1:{port} max_fails=0;\n" for port in ports)
        for old, new in {
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "/etc/ssl/shop.pem": str(self.certificate),
            "/etc/ssl/private/shop.key": str(key),
            "    server 10.0.0.1:8000 max_fails=0;\n    server 10.0.0.2:8000 max_fails=0;\n": servers,
        }.items():
            assert site.count(old) == 1, old
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site, encoding="utf-8")
        self._main = folder / "main.conf"
        self._main.write_text(NGINX.format(folder=folder), encoding="utf-8")

    def run(self, *options: str) -> subprocess.Popen[str]:
        # Its first message is for the log that it was built with, which others may not write to.
        command = [str(self._program), "-c", str(self._main), "-e", str(self.folder / "error.log"), *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def check(self) -> str:
        """Return what nginx says to the configuration."""
        process = self.run("-t")
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        return output

    def __enter__(self) -> Self:
        self._process = self.run()
        wait_for_port(self.port)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < deadline, f"nothing listens on port {port}"
        time.sleep(0.02)
