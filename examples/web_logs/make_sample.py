"""Writes `sample/access.log` and `sample/auth.log`: an evening of a small server, in the real formats.

The addresses are from the ranges that RFC 5737 reserves for documentation. `python make_sample.py`
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

FOLDER = Path(__file__).parent / "sample"
BEGIN = datetime(2026, 11, 25, 20, 0, tzinfo=UTC)


def access(seconds: int, client: str, status: int, path: str) -> str:
    """Return a line of the access log."""
    moment = (BEGIN + timedelta(seconds=seconds)).strftime("%d/%b/%Y:%H:%M:%S %z")
    return f'{client} - - [{moment}] "GET {path} HTTP/1.1" {status} 512 "-" "Mozilla/5.0 (X11; Linux)"'


def login(seconds: int, message: str) -> str:
    """Return a line of auth.log."""
    moment = (BEGIN + timedelta(seconds=seconds)).strftime("%b %d %H:%M:%S")
    return f"{moment} web-1 sshd[{1000 + seconds}]: {message}"


def main() -> None:
    """Write the two files."""
    visits = [(30 * number, "192.0.2.10", 200, f"/articles/{number}") for number in range(24)]
    scan = [(100 + 5 * n, "198.51.100.4", 404, f"/wp-{n}.php") for n in range(7)]  # a burst
    outage = [(300 + 4 * n, "192.0.2.11", 503, "/orders") for n in range(6)]  # a burst
    lost = [(120 * n, "192.0.2.12", 404, "/old") for n in range(4)]  # too rare for a burst
    lines = [access(*line) for line in sorted(visits + scan + outage + lost)]
    lines += [access(1200, "192.0.2.13", 404, '/late \\"quoted\\"')]  # after the bursts
    (FOLDER / "access.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    guess = "Failed password for invalid user admin from 203.0.113.9 port 40022 ssh2"
    slow = "Failed password for root from 203.0.113.77 port 40023 ssh2"
    lines = [login(20, "Accepted publickey for ada from 192.0.2.20 port 50000 ssh2")]
    lines += [login(40 + 10 * number, guess) for number in range(3)]
    lines += [login(75, f"message repeated 4 times: [ {guess}]")]  # a burst, together with the lines before
    lines += [login(100 + 250 * number, slow) for number in range(5)]  # too slow for a burst
    lines += [login(1200, "Connection closed by 203.0.113.9 [preauth]")]
    (FOLDER / "auth.log").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
