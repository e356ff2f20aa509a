"""Patterns of secrets in text, and descriptions of exceptions without them.

Health, logs and dead letters show the messages of exceptions, which often quote URLs and headers. `redact`
searches events with the same patterns.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable

from codomyrmex.streaming.diagnostics import message_of

REPLACEMENT = "[redacted]"

# The value after `password=`: quoted, or up to a delimiter. In JSON within JSON, quotes have backslashes.
_VALUE = (
    r"""(?:'([^']+)'|"((?:[^"\\]|\\.)+)"|\\+"((?:(?!\\+"\s*[,}\]]).){1,500})"""
    r"""|((?!\\+"|\[redacted)[^\s,;&'"{}()\]]+))"""
)
# Not `token: must not be empty`, which is a problem of a setting.
_ASSIGN = r"""\\*['"]?\s*[=:]\s*(?!must (?:be|begin|have|not)\b)"""
# The beginning of a header line in a text, which may be a quoted argument or escaped.
_HEADER = r"""(?:^[ \t<>*]*|['"]|\\n)"""
_QUOTED = r"""(?:'((?!\[redacted)[^']+)'|"((?!\[redacted)[^"]+)")"""
_SCHEME = r"""(?:(?:basic|bearer|digest|dpop|negotiate|token|apikey|aws4-hmac-sha256)[ \t]++)?+"""
_LINE = r"""((?!\[redacted)[^\r\n'"\\]+)"""

# Schemes of Apprise whose URLs have a token in place of the host or in the path.
_SERVICES = """
    acs atalk awswhatsapp azure bale bark barks betterstack bluesky brevo bsky bulksms burstsms chanify
    clickatell clicksend cliq cm d7sms dingtalk discord eight00com evolution evolutions exotel feishu
    firehydrant flock flowtriq flowtriqs fluxer fluxers freemobile gchat gotify gotifys groundmail groupme
    guilded gupshup hassio hassios httpsms ifttt ilert incidentio infobip join kakao kakaotalk kaleyra
    kavenegar klr kook kudosity kumulos lametric lametrics lark lauther lfg line mailersend mailgun mmost
    mmosts msg91 msgbird nexmo nostr notica noticas notifiarr notifico notificos notifyapp notifyre ntfy ntfys
    o365 octopush onebot onebots onesignal opsgenie opsimate opsimates pagerduty pagertree parsep parseps pbul
    pinglet pinglets pingram pjet pjets postmark pover prowl psafer psafers pushdeer pushdeers pushed pushme
    pushplus pushward pushy resend revolt ringc rocket rockets ryver schan sendgrid sendpulse seven sfr
    signalgrid signl4 simplepush sinch slack smsmanager smsmgr smstunnel smtp2go sparkpost spike splunk
    spugpush spush squadcast stackfield strmlabs synology synologys telesign telnyx tgram threema trigv trigvs
    tweet twilio twist viber victorops voipms vonage webex wecom wecombot whapi wpush wxpusher wxteams
    xmatters youlmk zalo zcliq zohocliq zoom zulip
"""


def _before(words: Iterable[str], end: str) -> str:
    """Return a pattern for the place after one of the words and an end; Python wants one width for each."""
    by_length: dict[int, list[str]] = {}
    for word in words:
        by_length.setdefault(len(word), []).append(word)
    places = (rf"(?<=\b(?:{'|'.join(each)}){end})" for each in by_length.values())
    return f"(?i:{'|'.join(places)})"


# What follows an option in a sentence about it.
_NO_VALUE = (
    r"(?!(?:a|an|and|are|argument|as|at|by|can|cannot|do|does|expects?|flag|for|from|has|have|if|in|instead|is"
    r"|may|must|needs?|not|of|on|option|or|parameter|requires?|should|takes?|than|that|the|to|was|were|when"
    r"|which|will|with|without)\b)"
)

# Each pattern with a text that all its matches contain, in lower case if the pattern ignores case: searching
# for that first takes a tenth of the time. If a pattern has groups, only the group that matches is replaced.
_PATTERNS: dict[str, str] = {
    r"://([^\s/?#]+)@": "//",  # user and password, or a token, in a URL
    r"//(?<!://)([^\s/?#:@'\"]{1,100}:[^\s/?#@'\"]{1,200})@": "//",  # a URL without its scheme
    rf"://{_before(_SERVICES.split(), '://')}((?!\[redacted)[^\s'\"<>]+)": "//",
    # A password with characters that should be escaped; a port is none.
    r"://([^\s/:@\[\]?#'\"]{0,100}:(?!\d{1,5}[/?#])[^\s:@'\"<>{}]{0,200})@": "//",
    r"[?&;](?i:(?:[\w.-]*[._-])?(?:access_?token|api_?key|auth|key|password|passwd|pwd|secret|sig|signature|token"
    r"|credential))"
    r"=([^&#;\s'\"]+)": "=",
    # RFC 6750; a plain word is not a token
    r"(?i:bearer)\s+((?:(?=[A-Za-z._~+/-]*[0-9._~+/-])[A-Za-z0-9._~+/-]{8,}|[A-Za-z]{16,})=*)": "bearer",
    # RFC 7617; base64 has groups of four and both cases, unlike words
    r"(?i:basic)\s+((?=[A-Za-z0-9+/]*[a-z])(?=[A-Za-z0-9+/]*[A-Z])(?:[A-Za-z0-9+/]{4}){2,}"
    r"(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)(?![A-Za-z0-9+/=])": "basic",
    rf"(?i:(?:(?<![a-z])pass(?=\s*=)|password|passwd|passphrase){_ASSIGN}){_VALUE}": "pass",
    rf"(?i:secret{_ASSIGN}){_VALUE}": "secret",
    rf"(?i:token{_ASSIGN}){_VALUE}": "token",
    rf"(?i:api[_-]?key{_ASSIGN}){_VALUE}": "key",
    rf"(?i:--(?:[\w-]{{0,50}}-)?(?:pass|password|passwd|pwd|secret|token|api-?key)[ \t]+)(?![-\[]){_NO_VALUE}"
    r"(?:'([^'\r\n]+)'|\"([^\"\r\n]+)\"|([^\s'\"]+))": "--",  # an option of a command
    rf"(?im:{_HEADER}(?:proxy-)?authorization:[ \t]*+{_SCHEME}){_LINE}": "authorization",
    rf"(?im:{_HEADER}(?:set-)?cookie:[ \t]*+){_LINE}": "cookie",
    # The same headers in a dictionary or in pairs, and the keys of cloud services.
    rf"""(?i:['"](?:proxy-)?authorization['"]\s*[:,]\s*b?){_QUOTED}""": "authorization",
    rf"""(?i:['"](?:set-)?cookie['"]\s*[:,]\s*b?){_QUOTED}""": "cookie",
    rf"(?i:(?:account|access|shared_?access)_?key{_ASSIGN}){_VALUE}": "key",
    rf"(?i:(?<![a-z])pwd{_ASSIGN}){_VALUE}": "pwd",
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*": "eyJ",  # RFC 7519
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)": "--",
    r"A(?:KIA|SIA)[0-9A-Z]{16}": "IA",  # AWS
    r"gh[opsur]_[A-Za-z0-9]{20,}": "gh",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}": "github_pat_",
    r"glpat-[A-Za-z0-9_-]{16,}": "glpat-",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{8,}": "xox",  # Slack
    r"https://hooks\.slack\.com/services/([A-Za-z0-9/]+)": "//",
    r"https://discord(?:app)?\.com/api/(?:v\d+/)?webhooks/([A-Za-z0-9/_-]+)": "//",
    r"https://api\.telegram\.org/bot([A-Za-z0-9:_-]+)": "//",
    r"\bsk-[A-Za-z0-9_-]{16,}": "sk-",  # OpenAI and others
    r"[rs]k_live_[A-Za-z0-9]{10,}": "k_live_",  # Stripe
    r"AIza[A-Za-z0-9_-]{35,}": "AIza",  # Google
    r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}": "SG.",  # SendGrid
    r"npm_[A-Za-z0-9]{36}": "npm_",
}
DEFAULT_PATTERNS: tuple[str, ...] = tuple(_PATTERNS)
"""Regular expressions of secrets in texts: URLs with credentials, tokens, keys of well-known services."""

_MAX_SHOWN = 300  # characters of a message
_MAX_SEARCHED = 100_000  # characters of a text that are searched for secrets
_MARGIN = 4_096  # characters at a cut that are not shown: a secret may be cut there and not be recognized


class SecretPatterns:
    """A set of patterns whose matches are replaced.

    Args:
        patterns: regular expressions, as text or compiled.
        replacement: replaces each match.

    Raises:
        TypeError: a single pattern was passed instead of a list.
        ValueError: a pattern is not a valid regular expression for text.
    """

    def __init__(
        self, patterns: Iterable[str | re.Pattern[str]] = DEFAULT_PATTERNS, replacement: str = REPLACEMENT
    ) -> None:
        if isinstance(patterns, (str, re.Pattern)):
            raise TypeError("patterns: must be a list of regular expressions, got one; put it in a list")
        if not isinstance(patterns, Iterable):
            raise TypeError(f"patterns: must be a list of regular expressions, got {type(patterns).__name__}")
        if not isinstance(replacement, str):
            raise TypeError(f"replacement: must be text, got {type(replacement).__name__}")
        self._replacement = replacement
        self._hinted: dict[str, list[re.Pattern[str]]] = {}
        self._others: list[re.Pattern[str]] = []
        for pattern in patterns:
            hint = _PATTERNS.get(pattern) if isinstance(pattern, str) else None
            if hint is None:
                self._others.append(_compile(pattern))
            else:
                self._hinted.setdefault(hint, []).append(re.compile(pattern))
        self._exact = [hint for hint in self._hinted if hint != hint.lower()]
        folded = [hint for hint in self._hinted if hint == hint.lower()]
        self._folded = [hint for hint in folded if "k" not in hint]
        self._with_k = [hint for hint in folded if "k" in hint]  # a rare letter, so most are skipped at once

    # The default patterns are searched in all texts at once; others may depend on the bounds of a text.
    def match_any(self, texts: list[str], joined: str | None = None) -> bool:
        """Return whether one of the texts may contain a match.

        Args:
            texts: the texts.
            joined: the texts joined by line breaks, if they are at hand.
        """
        if joined is None:
            joined = "\n".join(texts)
        for hint in self._exact:
            if hint in joined and self._search(hint, joined):
                return True
        lower = joined.lower()
        for hint in self._folded:
            if hint in lower and self._search(hint, joined):
                return True
        for hint in self._with_k if "k" in lower else ():
            if hint in lower and self._search(hint, joined):
                return True
        return bool(self._others) and self._others_match(texts)

    def _search(self, hint: str, text: str) -> bool:
        return any(pattern.search(text) is not None for pattern in self._hinted[hint])

    def _others_match(self, texts: list[str]) -> bool:
        return any(pattern.search(text) is not None for pattern in self._others for text in texts)

    def redact(self, text: str) -> str:
        """Return a text with all matches replaced; the same object if there are none."""
        lower = text.lower()
        for hint, patterns in self._hinted.items():
            if hint in lower or hint in text:
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
        raise ValueError(f"patterns: {str(pattern)[:200]!r} is not a regular expression: {error}") from None
    if not isinstance(compiled.pattern, str):
        raise ValueError(f"patterns: {compiled.pattern!r} is not a regular expression for text but for bytes")  # noqa: TRY004 - as the others
    return compiled


_SECRETS = SecretPatterns()


def clean(text: str) -> str:
    """Return a text without secrets and control characters, for a log, cut at about 100,000.

    It is searched before it is cut, as a secret may span the position of the cut.
    """
    cleaned = _SECRETS.redact(text[:_MAX_SEARCHED])
    if len(text) > _MAX_SEARCHED:
        cleaned = cleaned[:-_MARGIN]
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in cleaned)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def describe(error: BaseException) -> str:
    """Return the class, message and notes of an exception in one line, shortened and without secrets."""
    shown = " ".join(clean(message_of(error, notes=True)).splitlines())
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[: _MAX_SHOWN - 3]}..."
    name = type(error).__name__
    return f"{name}: {shown}" if shown else name


class LazyTraceback:
    """The traceback of an exception without secrets, formatted only when a log line is written."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return clean("".join(traceback.format_exception(self._error))).rstrip()
