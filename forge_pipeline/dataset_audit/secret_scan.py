"""Credentials in text: family -> pattern -> check, one table.

Each family is found by the form that its vendor gives it, or by the words around it
where the form alone says nothing. What stands in for a key (``sk-your-api-key-here``,
``ghp_xxxxxxxx``, ``<password>``) is not reported. What a vendor's own documentation
prints as an example (``AKIAIOSFODNN7EXAMPLE``) is reported and masked, marked as
`placeholder`, and fails no gate.

`PREFILTER` is an RE2 pattern that matches every text in which `find_secrets` can find
something.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

from forge_pipeline.dataset_audit.finding import Finding, counts, masked, without_overlaps

_PEM_REACH = 65_536  # characters in which the END line of a key is looked for

_STAND_IN_WORDS = re.compile(
    r"(?i)example|sample|placeholder|change.?me|redacted|insert|replace|xxxx|\*\*\*|\.\.\.|goes[-_]here|api[-_]key"
    r"|(?<![a-z0-9])(?:your|fake|dummy)"
)
_WORDLIKE = re.compile(r"[A-Za-z]{1,14}(?:[-_.][A-Za-z]{1,14})+")
_STAND_IN_PASSWORDS = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|pwd|pw|secret|token|user(?:name)?|admin|root|guest|postgres|mysql|test|foo|bar|xxx+"
    r"|\*+|x+|\.+|key|credentials?|port|[a-z]*password[0-9]{0,3})"
)
_EXAMPLES = re.compile(
    r"(?:AKIA|ASIA)[A-Z0-9]{9}EXAMPLE|[A-Za-z0-9/+]{30}EXAMPLEKEY|sk_test_4eC39HqLyjWDarjtT1zdp7dc"
    r"|eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lI.*",
)


@dataclass(frozen=True)
class Detector:
    """One row of the table. The secret is the group ``secret`` of `pattern`, or else the whole match."""

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], bool]


def is_stand_in(value: str) -> bool:
    """Whether `value` stands where a secret would, rather than being one.

    >>> is_stand_in("your-api-key-goes-here"), is_stand_in("x" * 36), is_stand_in("learn-compatible-estimator")
    (True, True, True)
    >>> is_stand_in("Zq3vT9LmP0aXbR7cYd2eWf4g")
    False
    """
    return bool(
        _STAND_IN_WORDS.search(value) or _WORDLIKE.fullmatch(value) or re.fullmatch(r"[xX*0._#-]+", value) or not value
    )


def _secret(match: re.Match[str]) -> str:
    return match["secret"] if "secret" in match.re.groupindex else match[0]


def _body_is_real(match: re.Match[str]) -> bool:
    """The part that varies (group ``body``, or the secret) is not a stand-in."""
    return not is_stand_in(match["body"] if "body" in match.re.groupindex else _secret(match))


def _is_jwt(match: re.Match[str]) -> bool:
    header = match[0].split(".", 1)[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(decoded, dict) and ("alg" in decoded or "enc" in decoded)


def _mixed(match: re.Match[str]) -> bool:
    """Forty base64 characters in both cases: no hex digest, and no path."""
    value = _secret(match)
    kinds = (any(char.islower() for char in value), any(char.isupper() for char in value))
    return all(kinds) and value.count("/") <= 6 and (bool(_EXAMPLES.fullmatch(value)) or not is_stand_in(value))


def _is_password(match: re.Match[str]) -> bool:
    value = _secret(match)
    is_template = re.search(r"[<>{}$%\[\]]", value) is not None
    return not (is_template or _STAND_IN_PASSWORDS.fullmatch(value) or is_stand_in(value))


def _real_or_example(match: re.Match[str]) -> bool:
    return bool(_EXAMPLES.fullmatch(match[0])) or not is_stand_in(match[0][4:])


def _always(match: re.Match[str]) -> bool:
    return True


_W = r"(?<![A-Za-z0-9_-])"  # no word, and no longer token, goes on to the left
_E = r"(?![A-Za-z0-9_-])"
_ASSIGNED = r"[\"']?\s{0,3}(?:[:=]|=>|is)\s{0,3}[\"']?"  # = "…", : …, is …
_PEM_BODY = (
    r"(?:\s|\\+[nr]|[\"'+,|>#*])*(?:(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset):[^\n\\]*(?:\s|\\+[nr])+)*"
)
_KEY_LINE = r"[A-Za-z0-9+/=]{16,}"


def _pem(kind: str, label: str) -> Detector:
    """A private key in PEM armour: up to its END line, or as far as it goes if it was cut off."""
    end = rf"-----END {label}-----"
    body = rf"(?:(?!-----BEGIN)[\s\S]){{0,{_PEM_REACH}}}?{end}|(?:{_KEY_LINE}(?:\s|\\+[nr])*)+"
    return Detector(kind, re.compile(rf"-----BEGIN {label}-----{_PEM_BODY}(?={_KEY_LINE})(?:{body})"), _always)


_DETECTORS = (
    _pem("private_key", r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY"),
    _pem("pgp_private_key", r"PGP PRIVATE KEY BLOCK"),
    Detector("jwt", re.compile(_W + r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{10,}"), _is_jwt),
    Detector("aws_access_key", re.compile(_W + r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}" + _E), _real_or_example),
    Detector(
        "aws_secret_key",
        re.compile(
            r"(?i:aws|secret)[A-Za-z_ .-]{0,24}(?i:key|secret)[A-Za-z_ .-]{0,12}" + _ASSIGNED +
            r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
        ),
        _mixed,
    ),
    Detector("github_token", re.compile(_W + r"gh[pousr]_(?P<body>[A-Za-z0-9]{36,255})" + _E), _body_is_real),
    Detector("github_token", re.compile(_W + r"github_pat_(?P<body>[A-Za-z0-9_]{22,255})" + _E), _body_is_real),
    Detector(
        "gitlab_token",
        re.compile(_W + r"gl(?:pat|dt|rt|cbt|ptt|ft|soat)-(?P<body>[A-Za-z0-9_.-]{20,300})"),
        _body_is_real,
    ),
    Detector(
        "slack_webhook",
        re.compile(r"https://hooks\.slack\.com/(?:services|workflows|triggers)/(?P<body>[A-Za-z0-9+/_-]{20,120})"),
        _body_is_real,
    ),
    Detector(
        "slack_token", re.compile(_W + r"(?:xox[abeoprs]|xapp)-(?P<body>[A-Za-z0-9-]{10,250})"), _body_is_real
    ),
    Detector("anthropic_api_key", re.compile(_W + r"sk-ant-(?P<body>[A-Za-z0-9_-]{20,200})"), _body_is_real),
    Detector(
        "openai_api_key",
        re.compile(_W + r"sk-(?:proj|svcacct|admin|None)-(?P<body>[A-Za-z0-9_-]{20,250})"),
        _body_is_real,
    ),
    Detector("openai_api_key", re.compile(_W + r"sk-(?P<body>[A-Za-z0-9]{20,64})" + _E), _body_is_real),
    Detector("google_api_key", re.compile(_W + r"AIza(?P<body>[A-Za-z0-9_-]{35})" + _E), _body_is_real),
    Detector("huggingface_token", re.compile(_W + r"hf_(?P<body>[A-Za-z0-9]{30,60})" + _E), _body_is_real),
    Detector(
        "stripe_key",
        re.compile(_W + r"(?:(?:sk|rk)_(?:live|test)|whsec)_(?P<body>[A-Za-z0-9]{16,250})" + _E),
        _body_is_real,
    ),
    Detector("npm_token", re.compile(_W + r"npm_(?P<body>[A-Za-z0-9]{36})" + _E), _body_is_real),
    Detector(
        "sendgrid_key",
        re.compile(_W + r"SG\.(?P<body>[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64})" + _E),
        _body_is_real,
    ),
    Detector("twilio_key", re.compile(_W + r"SK(?P<body>[0-9a-f]{32})" + _E), _body_is_real),
    Detector(
        "twilio_key",
        re.compile(r"(?i:twilio)[A-Za-z_ .-]{0,24}" + _ASSIGNED + r"(?P<secret>[0-9a-f]{32})" + _E),
        _body_is_real,
    ),
    Detector(
        "azure_storage_key",
        re.compile(r"(?i:AccountKey|storage[_-]?(?:account[_-]?)?key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?P<secret>[A-Za-z0-9+/]{86}==)"),
        _body_is_real,
    ),
    Detector(
        "url_password",
        re.compile(r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/@\"'<>]{0,64}:(?P<secret>[^\s/@\"'`]{3,128})@[A-Za-z0-9\[]"),
        _is_password,
    ),
)  # fmt: skip

FAMILIES = tuple(dict.fromkeys(detector.kind for detector in _DETECTORS))
"""Families of secrets, in order of precedence."""

PREFILTER = (
    r"AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|gl(?:pat|dt|rt|cbt|ptt|ft|soat)-|hooks\.slack\.com|xox[abeoprs]-|xapp-"
    r"|sk-[A-Za-z0-9]|AIza|hf_[A-Za-z0-9]|[sr]k_(?:live|test)_|whsec_|npm_[A-Za-z0-9]|SG\.[A-Za-z0-9_\-]{16}"
    r"|SK[0-9a-f]{32}|eyJ[A-Za-z0-9_\-]+\.eyJ|PRIVATE KEY|://[^\s/@]*:[^\s/@]+@|[A-Za-z0-9/+]{40}"
    r"|(?i:twilio)[\s\S]{0,36}[0-9a-f]{32}"
)


def find_secrets(text: str) -> list[Finding]:
    """Credentials in `text`, in order, without overlaps. Anything but a str has none."""
    if not isinstance(text, str):
        return []
    candidates = []
    for detector in _DETECTORS:
        for match in detector.pattern.finditer(text):
            if detector.accept(match):
                span = match.span("secret") if "secret" in match.re.groupindex else match.span()
                example = _EXAMPLES.fullmatch(_secret(match)) is not None
                candidates.append(Finding(detector.kind, span, "critical", placeholder=example))
    return without_overlaps(candidates, FAMILIES) if candidates else []


def detect_secrets(text: str) -> dict[str, int]:
    """Family -> number of findings, documented placeholders included. Anything but a str has none."""
    return counts(find_secrets(text), FAMILIES)


@overload
def mask_secrets(
    text: str, replacement: str = "[REDACTED-SECRET]", *, return_counts: Literal[False] = False
) -> str: ...
@overload
def mask_secrets(
    text: str, replacement: str = "[REDACTED-SECRET]", *, return_counts: Literal[True]
) -> tuple[str, dict[str, int]]: ...
@overload
def mask_secrets(
    text: str, replacement: str = "[REDACTED-SECRET]", *, return_counts: bool
) -> str | tuple[str, dict[str, int]]: ...
def mask_secrets(
    text: str, replacement: str = "[REDACTED-SECRET]", *, return_counts: bool = False
) -> str | tuple[str, dict[str, int]]:
    """Replace every finding, documented placeholders included. Anything but a str is returned as it is.

    Args:
        text: The text.
        replacement: What stands in place of each finding.
        return_counts: Return (masked text, family -> count) instead.
    """
    findings = find_secrets(text)
    result = masked(text, findings, replacement) if findings else text
    return (result, counts(findings, FAMILIES)) if return_counts else result
