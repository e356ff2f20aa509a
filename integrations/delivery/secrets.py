"""What looks like a secret in a text, and how it is taken out.

The health records, logs and dead letters of the delivery show the messages of exceptions, and these
quote URLs and headers. `redact` looks for the same in the events themselves.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable

REPLACEMENT = "[redacted]"

# What stands behind `password=`: in quotes, or up to what ends it.
_VALUE = r"""(?:'([^']+)'|"([^"]+)"|((?!\[redacted)[^\s,;&'"{}()\]]+))"""

# Each pattern with what its matches always have in them, in lower case: to look for that first costs a
# tenth of the search. Where a pattern has groups, only what the one that matches holds is taken out.
_PATTERNS: dict[str, str] = {
    r"://([^\s/?#]+)@": "://",  # user and password in a URL, or the token that stands there
    r"[?&;](?i:(?:[\w.-]*[._-])?(?:access_?token|api_?key|auth|key|password|passwd|pwd|secret|sig|signature|token"
    r"|credential))"
    r"=([^&#;\s'\"]+)": "=",
    # RFC 6750; a word alone is none
    r"(?i:bearer)\s+((?:(?=[A-Za-z._~+/-]*[0-9._~+/-])[A-Za-z0-9._~+/-]{8,}|[A-Za-z]{16,})=*)": "bearer",
    # RFC 7617; base64 comes in fours, and has both cases: no words do, or hardly any
    r"(?i:basic)\s+((?=[A-Za-z0-9+/]*[a-z])(?=[A-Za-z0-9+/]*[A-Z])(?:[A-Za-z0-9+/]{4}){2,}"
    r"(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)(?![A-Za-z0-9+/=])": "basic",
    rf"(?i:(?:(?<![a-z])pass(?=\s*=)|password|passwd|passphrase)['\"]?\s*[=:]\s*){_VALUE}": "pass",
    rf"(?i:secret['\"]?\s*[=:]\s*){_VALUE}": "secret",
    rf"(?i:token['\"]?\s*[=:]\s*){_VALUE}": "token",
    rf"(?i:api[_-]?key['\"]?\s*[=:]\s*){_VALUE}": "api",
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*": "eyj",  # RFC 7519
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)": "-----begin",
    r"A(?:KIA|SIA)[0-9A-Z]{16}": "ia",  # AWS
    r"gh[opsur]_[A-Za-z0-9]{20,}": "gh",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}": "github_pat_",
    r"glpat-[A-Za-z0-9_-]{16,}": "glpat-",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{8,}": "xox",  # Slack
    r"https://hooks\.slack\.com/services/([A-Za-z0-9/]+)": "://",
    r"https://discord(?:app)?\.com/api/(?:v\d+/)?webhooks/([A-Za-z0-9/_-]+)": "://",
    r"https://api\.telegram\.org/bot([A-Za-z0-9:_-]+)": "://",
    r"\bsk-[A-Za-z0-9_-]{16,}": "sk-",  # OpenAI and others
    r"[rs]k_live_[A-Za-z0-9]{10,}": "k_live_",  # Stripe
}
DEFAULT_PATTERNS: tuple[str, ...] = tuple(_PATTERNS)

_MAX_SHOWN = 300


class SecretPatterns:
    """Finds and takes out what matches any of some patterns.

    Args:
        patterns: regular expressions, as text or compiled.
        replacement: what stands there instead.

    Raises:
        TypeError: it is one pattern and not a list of them.
        ValueError: one of them is no regular expression; the message says which.
    """

    def __init__(
        self, patterns: Iterable[str | re.Pattern[str]] = DEFAULT_PATTERNS, replacement: str = REPLACEMENT
    ) -> None:
        if isinstance(patterns, (str, re.Pattern)):
            raise TypeError("patterns is a list of regular expressions; put the one into a list")
        self._replacement = replacement
        self._hinted: dict[str, list[re.Pattern[str]]] = {}
        self._others: list[re.Pattern[str]] = []
        for pattern in patterns:
            hint = _PATTERNS.get(pattern) if isinstance(pattern, str) else None
            if hint is None:
                self._others.append(_compile(pattern))
            else:
                self._hinted.setdefault(hint, []).append(re.compile(pattern))

    # Our own patterns are looked for in all texts at once. Those of others may depend on where a text
    # begins and ends.
    def match_any(self, texts: list[str]) -> bool:
        """Tell whether something in one of the texts may match."""
        joined = "\n".join(texts)
        lower = joined.lower()
        for hint in self._hinted:
            if hint in lower and any(pattern.search(joined) is not None for pattern in self._hinted[hint]):
                return True
        return bool(self._others) and self._others_match(texts)

    def _others_match(self, texts: list[str]) -> bool:
        return any(pattern.search(text) is not None for pattern in self._others for text in texts)

    def redact(self, text: str) -> str:
        """Give a text without what matches; the same object where nothing does."""
        lower = text.lower()
        for hint, patterns in self._hinted.items():
            if hint in lower:
                for pattern in patterns:
                    text = self._replace(pattern, text)
        for pattern in self._others:
            text = self._replace(pattern, text)
        return text

    def _replace(self, pattern: re.Pattern[str], text: str) -> str:
        return text if pattern.search(text) is None else pattern.sub(self._cover, text)

    def _cover(self, match: re.Match[str]) -> str:
        group = next((number for number in range(1, match.re.groups + 1) if match[number] is not None), 0)
        start, end = match.start(group) - match.start(), match.end(group) - match.start()
        return f"{match[0][:start]}{self._replacement}{match[0][end:]}"


def _compile(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{str(pattern)[:200]!r} is no regular expression for text: {error}") from None
    if not isinstance(compiled.pattern, str):
        raise ValueError(f"{compiled.pattern!r} is a regular expression for bytes, not for text")  # noqa: TRY004 - as the others
    return compiled


_SECRETS = SecretPatterns()


def describe(error: BaseException) -> str:
    """Say what an exception is in one line without secrets: its class and its message, shortened."""
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - a broken exception is described all the same
        message = f"<its message raised {type(second).__name__}>"
    # A secret may stand across the cut, so it is taken out before.
    text = _SECRETS.redact(message[: 10 * _MAX_SHOWN])
    shown = "".join(c if c.isprintable() else " " for c in text)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[: _MAX_SHOWN - 3]}..."
    name = type(error).__name__
    return f"{name}: {shown}" if shown else name


class LazyTraceback:
    """The traceback of an exception without secrets, made only if a log line really shows it."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return _SECRETS.redact("".join(traceback.format_exception(self._error))).rstrip()
