"""Credentials in text: what begins as a vendor's keys begin, what is assigned to a name that says so, and armour.

- Keys that begin with letters of their vendor's choice: `secret_rules` and our own table below.
- ``MISTRAL_API_KEY = ...``: the name says what the value is. A vendor that has a rule gives the
  family; else a value that looks drawn at random is a ``generic_api_key``.
- Keys whose marks stand in their middle, private keys in armour, passwords in URLs.

What stands in for a key (``sk-your-api-key-here``, ``ghp_xxxxxxxx``, ``<password>``) is not
reported. What a vendor's own documentation prints as an example (``AKIAIOSFODNN7EXAMPLE``)
is reported and masked, marked as `placeholder`, and fails no gate.

The search looks around anchors, for which `GATE` is the RE2 pattern. All patterns look at ASCII;
none looks over more than a bounded stretch of text.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, overload

from forge_pipeline.dataset_audit.anchors import Gate
from forge_pipeline.dataset_audit.finding import Finding, counts, masked, without_overlaps
from forge_pipeline.dataset_audit.secret_rules import AssignedRule, PrefixedRule, compiled, load_secret_rules

_PEM_REACH = 65_536  # characters in which the END line of a key is looked for

# --- what is no secret --------------------------------------------------------------------------------------------

_STAND_IN_WORDS = Gate(
    r"(?i)example|sample|placeholder|change.?me|redacted|insert|replace|\*\*\*|\.\.\.|goes[-_]here|api[-_]key"
    r"|(?-i:xxxxx|XXXXX)|(?:^|[^a-z0-9])(?:your|fake|dummy)"
)
_SEQUENCE = re.compile(r"(?i)0123456789|123456789|abcdefgh")
_REPEATED = re.compile(r"(.)\1{7}")
_WORD = re.compile(
    r"[A-Z]?[a-z]{1,14}[0-9]{0,3}|[A-Z]{1,14}[0-9]{0,3}|v?[0-9]{1,4}|(?:[A-Z][a-z]{1,14}|[a-z]{2,14}){1,4}"
)
_DIGIT, _LETTER = re.compile(r"[0-9]"), re.compile(r"[A-Za-z]")
_BLANKED = re.compile(r"[xX*0._#-]+")
_PARTS = re.compile(r"[-_.]")
_HUMPS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_STAND_IN_PASSWORDS = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|pwd|pw|secret|token|user(?:name)?|admin|root|guest|postgres|mysql|test|foo|bar|xxx+"
    r"|\*+|x+|\.+|key|credentials?|port|[a-z]*password[0-9]{0,3}|[a-z]*pass(?:wd)?[0-9]{0,3}|\w*_(?:password|passwd|pwd)"
    r"|p4ssw0rd|p@ss\w*|hunter2|tiger|letmein|qwerty\w*|1234\w*|minioadmin|changeit|rabbitmq|redis|mongo|docker|minio)"
)
_EXAMPLES = re.compile(
    r"(?:AKIA|ASIA)[A-Z0-9]{9}EXAMPLE|[A-Za-z0-9/+]{30}EXAMPLEKEY|sk_test_4eC39HqLyjWDarjtT1zdp7dc"
    r"|sk_test_BQokikJOvBiI2HlWgH4olfQ2|sk_test_26PHem9AhJZvU623DfE1x4sd"
    r"|eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lI.*"
    r"|eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9\.eyJsb2dnZWRJbkFzIjoiYWRtaW4i.*"
    # The key of Azurite, the storage emulator.
    r"|Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def is_stand_in(value: str, *, prefixed: bool = False) -> bool:
    """Whether `value` stands where a secret would, rather than being one.

    A run of the alphabet or of digits is one too, but where a vendor's own letters begin the value: a key of exactly
    that form is reported, whoever made it up.

    >>> is_stand_in("your-api-key-goes-here"), is_stand_in("x" * 36), is_stand_in("learn-compatible-estimator")
    (True, True, True)
    >>> is_stand_in("Zq3vT9LmP0aXbR7cYd2eWf4g")
    False
    """
    data = value.encode()
    return (
        not value
        or (not prefixed and _SEQUENCE.search(value) is not None)
        or _STAND_IN_WORDS.first(data, 0, len(data)) >= 0
        or _BLANKED.fullmatch(value) is not None
        or (len(set(value)) < 20 and _REPEATED.search(value) is not None)
        or _is_made_of_words(value)
    )


def _is_random(value: str, least: float) -> bool:
    """Whether the entropy of `value` is at least `least` bits; twenty different characters are random enough."""
    return len(set(value)) >= 20 or entropy(value) >= least


def entropy(value: str) -> float:
    """Shannon entropy in bits a character.

    >>> entropy("aaaa"), entropy("abcd")
    (0.0, 2.0)
    """
    size = len(value)
    return math.log2(size) - sum(_times_log2(value.count(char)) for char in set(value)) / size if size else 0.0


@cache
def _times_log2(count: int) -> float:
    return count * math.log2(count)


def _is_made_of_words(value: str) -> bool:
    """``learn-compatible-estimator``, ``some.module.name_2``: what people write, not what is drawn."""
    parts = [part for part in _PARTS.split(value) if part]
    return len(parts) > 1 and all(len(part) < 30 and _WORD.fullmatch(part) for part in parts)


def _looks_drawn(value: str) -> bool:
    """Letters and digits mixed, or letters of both cases in no order that a name would have."""
    if _DIGIT.search(value) and _LETTER.search(value):
        return True
    humps = _HUMPS.findall(value)
    return len(humps) > 2 and sum(map(len, humps)) / len(humps) < 4.5


def _is_example(value: str) -> bool:
    return _EXAMPLES.fullmatch(value) is not None


# --- keys that begin with their vendor's letters ------------------------------------------------------------------

_B = r"[A-Za-z0-9_-]"


def _own(family: str, literal: str, body: str, *, min_entropy: float = 1.9) -> PrefixedRule:
    return PrefixedRule(family, literal, re.escape(literal) + body, min_entropy)


# Wider than the vendors' present forms where older or newer keys differ, and what betterleaks has no rule for.
_OWN_PREFIXED = (
    *(_own("aws_access_key", start, r"[A-Z0-9]{16}") for start in ("AKIA", "ASIA", "ABIA", "ACCA")),
    *(_own("github_token", f"gh{kind}_", r"[A-Za-z0-9]{36,255}") for kind in "pousr"),
    _own("github_token", "github_pat_", r"[A-Za-z0-9_]{22,255}"),
    *(
        _own("gitlab_token", f"gl{kind}-", rf"{_B}(?:[.]?{_B}){{19,299}}")
        for kind in ("pat", "dt", "rt", "cbt", "ptt", "ft", "soat")
    ),
    _own("slack_webhook", "https://hooks.slack.com/", r"(?:services|workflows|triggers)/[A-Za-z0-9+/_-]{20,120}"),
    _own("discord_webhook", "https://discord.com/api/webhooks/", rf"[0-9]{{17,20}}/{_B}{{60,80}}"),
    _own("discord_webhook", "https://discordapp.com/api/webhooks/", rf"[0-9]{{17,20}}/{_B}{{60,80}}"),
    *(
        _own("slack_token", start, r"[A-Za-z0-9-]{10,250}", min_entropy=2.0)
        for start in (*(f"xox{kind}-" for kind in "abeoprs"), "xapp-")
    ),
    _own("anthropic_api_key", "sk-ant-", rf"{_B}{{20,200}}"),
    *(_own("openai_api_key", f"sk-{kind}-", rf"{_B}{{20,250}}") for kind in ("proj", "svcacct", "admin", "None")),
    _own("google_api_key", "AIza", rf"{_B}{{35}}"),
    _own("google_oauth_secret", "GOCSPX-", rf"{_B}{{28}}"),
    _own("google_oauth_token", "ya29.", rf"{_B}{{40,500}}"),
    _own("huggingface_token", "hf_", r"[A-Za-z0-9]{30,60}"),
    *(
        _own("stripe_key", f"{kind}_{mode}_", r"[A-Za-z0-9]{16,250}")
        for kind in ("sk", "rk")
        for mode in ("live", "test")
    ),
    _own("stripe_key", "whsec_", r"[A-Za-z0-9+/=]{16,250}"),
    _own("npm_token", "npm_", r"[A-Za-z0-9]{36}"),
    _own("pypi_token", "pypi-", rf"{_B}{{50,500}}"),
    _own("sendgrid_key", "SG.", rf"{_B}{{16,32}}\.{_B}{{16,64}}"),
    _own("twilio_key", "SK", r"[0-9a-f]{32}"),
    _own("fireworks_api_key", "fw_", r"[A-Za-z0-9]{22,28}", min_entropy=3.4),
    _own("fireworks_api_key", "fpk_", r"[A-Za-z0-9]{32,64}", min_entropy=3.4),
    _own("square_access_token", "sq0csp-", rf"{_B}{{40,60}}"),
    _own("vault_service_token", "hvs.", rf"{_B}{{24,200}}"),
    _own("supabase_management_token", "sbp_", r"[a-f0-9]{40}"),
    _own("tavily_api_key", "tvly-", rf"{_B}{{32,64}}"),
    _own("mailgun_private_api_token", "key-", r"[0-9a-f]{32}"),
    _own("langchain_langsmith_api_key", "ls__", r"[0-9a-f]{32}"),
    _own("azure_ad_access_token", "EwB", r"[A-Za-z0-9+/]{600,2000}={0,2}"),
    _own("aws_bedrock_api_key", "bedrock-api-key-", r"[A-Za-z0-9+/]{40,2000}={0,2}"),
    _own("dropbox_short_lived_api_token", "sl.", rf"{_B}{{130,160}}"),
)
# Last of all, since other vendors' keys begin with sk- too.
_LAST_PREFIXED = (_own("openai_api_key", "sk-", r"[A-Za-z0-9]{20,64}", min_entropy=3.2),)

_OWN_ASSIGNED = (
    AssignedRule("twilio_key", ("twilio",), r"(?i:twilio)", r"[0-9a-f]{32}", 3.0),
    AssignedRule("azure_openai_api_key", ("openai",), r"(?i:openai)", r"[0-9a-f]{32}|[A-Za-z0-9]{84}", 3.0),
    AssignedRule("togetherai_api_key", ("together",), r"(?i:together)", r"[0-9a-f]{64}", 3.0),
    AssignedRule("mistral_api_key", ("mistral",), r"(?i:mistral)", r"[A-Za-z0-9]{32}", 3.0),
    AssignedRule("cohere_api_token", ("cohere", "co_api_key"), r"(?i:cohere|co_api_key)", r"[A-Za-z0-9]{40}", 3.5),
)

_ASSIGNED_RULES = (*_OWN_ASSIGNED, *load_secret_rules().assigned)
_PREFIXED = (*_OWN_PREFIXED, *load_secret_rules().prefixed, *_LAST_PREFIXED)
_HEAD = 2  # letters by which rules are looked up


Known: TypeAlias = dict[int, Finding | None]
"""The key, or None, at the places of one text that were looked at."""


@cache
def _by_head() -> dict[str, list[PrefixedRule]]:
    table: dict[str, list[PrefixedRule]] = {}
    for rule in _PREFIXED:
        table.setdefault(rule.literal[:_HEAD], []).append(rule)
    return table


def _prefixed_at(text: str, at: int, known: Known) -> Finding | None:
    """The key that begins at `at`; asked for twice where its name stands before it."""
    rules = _by_head().get(text[at : at + _HEAD])
    if rules is None:
        return None
    if at in known:
        return known[at]
    finding = known[at] = _key_of(rules, text, at)
    return finding


def _key_of(rules: list[PrefixedRule], text: str, at: int) -> Finding | None:
    for rule in rules:
        if text.startswith(rule.literal, at):
            match = rule.token.match(text, at)
            if match and _is_key(rule, match[0], text[max(0, at - 1) : at]):
                return _finding(rule.family, match[0], match.span())
    return None


def _is_key(rule: PrefixedRule, value: str, before: str) -> bool:
    if _is_example(value):
        return True
    if rule.literal == "sk-" and before == "-":  # my-sk-..., the language code
        return False
    # One of thirty AWS keys has no digit. Hexadecimal digits have four bits at most, thirty of them less.
    return _is_drawn(value, len(rule.literal), min(rule.entropy, 3.2), rule.family == "aws_access_key")


def _is_drawn(value: str, literal: int, least: float, in_capitals: bool) -> bool:
    body = value[literal:]
    return (in_capitals or _looks_drawn(body)) and _is_random(value, least) and not is_stand_in(body, prefixed=True)


# --- values assigned to a name ------------------------------------------------------------------------------------

_NAME = (
    r"(?i:(?:key|secret|passw|passphrase|pwd|credential|webhook)[a-z0-9_.\-]*"
    r"|token(?:[a-hj-z0-9_.\-][a-z0-9_.\-]*)?|[_-]pat)"  # no tokenizer, no path
)
_BOUNDED_NAME = _NAME.replace("*", "{0,32}+")
_OPERATOR = r"(?:[:=(]|,[ \t]*[\"'`]|(?i:is|was)[ \t:])"

_VALUE = r"[A-Za-z0-9_\-./+=~!%:|]"
_SCHEME = r"(?i:bearer|basic)"
_ASSIGNED = re.compile(
    rf"(?:(?P<name>{_BOUNDED_NAME}(?: (?i:key|token|value|id)s?)?)[\"'`\])]{{0,3}}[ \t]{{0,3}}"
    rf"{_OPERATOR}[ \t>\"'`(\\=:]{{0,6}}(?:(?i:bearer|token|basic)[ \t]{{1,3}})?[\"'`(\\]{{0,3}}"
    rf"|{_SCHEME}[ \t]{{1,3}}[\"'`(\\]{{0,3}})(?P<secret>{_VALUE}{{16,600}}+)(?!{_VALUE})",
    re.ASCII,
)
_REACH = 48  # characters before the name in which a vendor is looked for
_STRONG = re.compile(
    r"(?i)api[_ .-]?key|secret|token|pass|pwd|credential|bearer|basic|[_-]pat|(?:access|auth|account|private|encryption"
    r"|signing|license|master|client|consumer|service|storage|subscription|app|admin)[_ .-]?key"
)
_OTHER_KEYS = re.compile(
    r"(?i)(?:public|next|prev(?:ious)?|page|csrf|xsrf|eos|bos|pad|unk|sep|cls|mask|special|stop|start|end|sync|continuation"
    r"|cursor|idempotency|etag|cache|primary|foreign|sort|partition|dedup|lookup|hash|routing|object|s3|row|column|dict|map"
    r"|index|group|config|translation|i18n|registry|test|max|min|num|image|file|blob|state|session|trace|span|request"
    r"|metric|feature|resume|sha[0-9]*|md5|digest|checksum|tokens?|anti[_-]?forgery|nonce|instance|device|site|track)"
    r"[_. -]?(?:key|token)s?$"
)
_SHAPES_OF_OTHERS = re.compile(
    r"(?i)(?:sha(?:1|224|256|384|512)|md5|blake2b?|sha256sum)[-:].*|.*://.*|[0-9.:T+Z-]+|.*\.(?:py|js|ts|json|ya?ml|txt|md|html?|css"
    r"|java|go|rs|rb|php|cfg|toml|sh|pem|crt|key|svg|png|jpe?g|com|org|net|io|dev)(?:[:/].*)?"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)
_STORAGE_KEY, _STORAGE_NAMES = re.compile(r"[A-Za-z0-9+/]{86}=="), re.compile(r"(?i)account|storage|azure")
_AWS_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")
_AWS_NAMES = re.compile(r"(?i)aws|amazon|\bs3\b|secret[_ -]?access")
_ATTRIBUTE = re.compile(r"[A-Za-z_]+[0-9]*[A-Za-z_]*(?:\.[A-Za-z_]+[0-9]*[A-Za-z_]*)+")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")


def _assigned_at(text: str, at: int, found: list[Finding], known: Known) -> None:
    match = _ASSIGNED.match(text, at)
    if match is None:
        return
    start, value = match.start("secret"), match["secret"].rstrip(".:,!|")
    inner = max(value.rstrip("=").rfind("="), 0)
    if inner:  # name=value inside what was taken for a value
        start, value = start + inner + 1, value[inner + 1 :]
    if len(value) < 16 or not (_looks_drawn(value) or _is_example(value)):
        return
    key = _prefixed_at(text, start, known)
    if key is not None and key.kind != "openai_api_key":  # says what it is itself, and has an anchor of its own
        return
    named = match.end("name") if match["name"] else match.start("secret")
    if family := _family_of(text[max(0, at - _REACH) : named], text[max(0, at - 16) : named], value):
        found.append(_finding(family, value, (start, start + len(value))))


def _family_of(before: str, name: str, value: str) -> str | None:
    """The family of a value after `before`, which ends with `name`; None if it is no secret."""
    if _is_example(value):
        return "azure_storage_key" if value.endswith("==") else "aws_secret_key" if len(value) == 40 else None
    if is_stand_in(value):
        return None
    if value.endswith("==") and _STORAGE_KEY.fullmatch(value) and _STORAGE_NAMES.search(before):
        return "azure_storage_key"
    if (family := _vendor_family(before, value)) is not None:
        return family
    if len(value) == 40 and _AWS_SECRET.fullmatch(value) and not _HEX.fullmatch(value) and _AWS_NAMES.search(before):
        return "aws_secret_key" if value.count("/") <= 6 and _is_mixed(value) else None
    return "generic_api_key" if _is_generic(name, value) else None


def _vendor_family(before: str, value: str) -> str | None:
    lowered = before.lower()
    for rule in [rule for word, rule in _rules_by_word() if word in lowered]:
        if (
            compiled(rule.value).fullmatch(value)
            and compiled(rf"(?<![A-Za-z]){rule.names}").search(before)
            and entropy(value) >= (min(rule.entropy, 3.0) if _HEX.fullmatch(value) else rule.entropy)
        ):
            return rule.family
    return None


@cache
def _rules_by_word() -> tuple[tuple[str, AssignedRule], ...]:
    return tuple((word, rule) for rule in _ASSIGNED_RULES for word in rule.words)


def _is_mixed(value: str) -> bool:
    return any(map(str.islower, value)) and any(map(str.isupper, value))


def _is_generic(name: str, value: str) -> bool:
    if not _STRONG.search(name) or _OTHER_KEYS.search(name) or _SHAPES_OF_OTHERS.fullmatch(value):
        return False
    if _ATTRIBUTE.fullmatch(value) or len(value) > 200 or value.count(".") > 2 or value.count("/") > 3:
        return False
    if _HEX.fullmatch(value):
        return len(value) >= 32 and entropy(value) >= 3.0
    # Names with a number in them are words; what is drawn changes between letters, cases and digits all the time.
    humps = _HUMPS.findall(value)
    if _is_mixed(value):
        humps = [hump for hump in humps if hump.isalpha()]
    elif "/" in value or len(_PARTS.findall(value)) > 3:  # organization/model-1.5-instruct
        return False
    length = sum(map(len, humps)) / max(len(humps), 1)
    digits = len(_DIGIT.findall(value))
    return entropy(value) >= 3.6 and (length < 3.6 if digits > 1 else digits == 1 and length < 3)


# --- keys with their marks in the middle, armour, URLs ------------------------------------------------------------


@dataclass(frozen=True)
class _Marked:
    """A key around a mark. The secret is the group ``secret`` of `pattern`, or else the whole match.

    Attributes:
        mark: What stands at the anchor.
        pattern: The key; it is looked for from `before` characters before the mark to `after` characters after it.
    """

    family: str
    mark: str
    before: int
    after: int
    pattern: re.Pattern[str]
    accept: Callable[[str], bool]


def _not_a_stand_in(value: str) -> bool:
    return not is_stand_in(value) and _looks_drawn(value)


def _is_discord(value: str) -> bool:
    """The first part is the bot's number in base64."""
    first = value.split(".", 1)[0]
    try:
        return base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)).decode("ascii").isdigit()
    except (ValueError, binascii.Error):
        return False


def _is_jwt(value: str) -> bool:
    header = value.split(".", 1)[0]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(decoded, dict) and ("alg" in decoded or "enc" in decoded)


def _is_password(value: str) -> bool:
    is_template = not set("<>{}$%[]").isdisjoint(value)
    return not (is_template or _STAND_IN_PASSWORDS.fullmatch(value) or is_stand_in(value))


def _always(value: str) -> bool:
    return True


_W, _E = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])"
_MARKED = (
    _Marked(
        "jwt", "eyJ", 0, 24_100,
        re.compile(rf"{_W}eyJ{_B}{{8,2000}}+\.eyJ{_B}{{8,20000}}+\.{_B}{{10,2000}}+"), _is_jwt,
    ),
    _Marked(
        "telegram_bot_api_token", ":AA", 10, 40,
        re.compile(rf"(?<![A-Za-z0-9])[0-9]{{8,10}}:AA{_B}{{33}}{_E}"), _not_a_stand_in,
    ),
    *(
        _Marked(
            "discord_bot_token", head, 0, 80,
            re.compile(rf"{_W}{head}{_B}{{22,26}}\.{_B}{{6}}\.{_B}{{27,38}}{_E}"), _is_discord,
        )
        for head in (*(f"M{second}" for second in "DTjz"), *(f"N{second}" for second in "DTjz"), "OD", "OT")
    ),
    _Marked(
        "azure_ad_client_secret", "Q~", 4, 40,
        re.compile(r"(?<![A-Za-z0-9_~.-])[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}(?![A-Za-z0-9_~-])"),
        _not_a_stand_in,
    ),
    _Marked(
        "azure_sas_token", "sig=", 1, 100,
        re.compile(r"[?&;]sig=(?P<secret>[A-Za-z0-9%+/]{40,90}(?:%3[Dd]|=))"), _not_a_stand_in,
    ),
    _Marked("mailchimp_api_key", "-us", 32, 6, re.compile(rf"{_W}[0-9a-f]{{32}}-us[0-9]{{1,2}}{_E}"), _not_a_stand_in),
    _Marked(
        "hashicorp_tf_api_token", ".atlasv1.", 14, 84,
        re.compile(rf"(?<![A-Za-z0-9])[A-Za-z0-9]{{14}}\.atlasv1\.[A-Za-z0-9_=-]{{60,70}}{_E}"), _not_a_stand_in,
    ),
    _Marked(
        "microsoft_teams_webhook", ".webhook.office.com", 72, 340,
        re.compile(r"https://[a-z0-9-]{1,63}\.webhook\.office\.com/webhookb2/[A-Za-z0-9@/-]{60,300}"), _not_a_stand_in,
    ),
    _Marked(
        "url_password", "@", 228, 2,
        re.compile(
            r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/@\"'<>]{0,64}:(?P<secret>[^\s/@\"'`]{3,128})@[A-Za-z0-9\[]",
            re.ASCII,
        ),
        _is_password,
    ),
)  # fmt: skip

_PEM_BODY = (
    r"(?:[ \t\r\n]|\\+[nr]|[\"'+,|>#*])*"
    r"(?:(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset):[^\n\\]*(?:[ \t\r\n]|\\+[nr])+)*"
)
_KEY_LINE = r"[A-Za-z0-9+/=]{16,}+"


def _armoured(family: str, label: str) -> _Marked:
    """A private key in PEM armour: up to its END line, or as far as it goes if it was cut off."""
    end = rf"-----END {label}-----"
    body = rf"(?:(?!-----BEGIN)[\s\S]){{0,{_PEM_REACH}}}?{end}|(?:{_KEY_LINE}(?:\s|\\+[nr])*+)++"
    pattern = rf"-----BEGIN {label}-----{_PEM_BODY}(?={_KEY_LINE})(?:{body})"
    return _Marked(family, "PRIVATE KEY", 56, 2 * _PEM_REACH, re.compile(pattern, re.ASCII), _always)


_ARMOUR = (
    _armoured("private_key", r"(?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY"),
    _armoured("pgp_private_key", r"PGP PRIVATE KEY BLOCK"),
)


def _marked_at(text: str, at: int, found: list[Finding]) -> None:
    for detector in _by_mark().get(text[at], ()):
        if not text.startswith(detector.mark, at):
            continue
        start, end = max(0, at - detector.before), min(len(text), at + detector.after)
        if detector in _ARMOUR:
            start = text.rfind("-----BEGIN", start, at)
        match = detector.pattern.search(text, start, end) if 0 <= start < at else detector.pattern.match(text, at, end)
        group = "secret" if "secret" in detector.pattern.groupindex else 0
        if match and match.start() <= at and (detector.accept(match[group]) or _is_example(match[group])):
            found.append(_finding(detector.family, match[group], match.span(group)))


@cache
def _by_mark() -> dict[str, list[_Marked]]:
    table: dict[str, list[_Marked]] = {}
    for detector in (*_MARKED, *_ARMOUR):
        table.setdefault(detector.mark[0], []).append(detector)
    return table


# --- all of them --------------------------------------------------------------------------------------------------


def _finding(family: str, value: str, span: tuple[int, int]) -> Finding:
    return Finding(family, span, "critical", placeholder=_is_example(value))


_SPECIFIC = (*_OWN_PREFIXED, *load_secret_rules().prefixed)
FAMILIES = tuple(
    dict.fromkeys((
        *(detector.family for detector in (*_ARMOUR, *_MARKED) if detector.family != "url_password"),
        *(rule.family for rule in _SPECIFIC if rule.family != "openai_api_key"),
        "azure_storage_key",
        *(rule.family for rule in _ASSIGNED_RULES),
        "aws_secret_key",
        "openai_api_key",
        "url_password",
        "generic_api_key",
    ))
)  # fmt: skip
"""Families of secrets, in order of precedence: what says most about a key first."""
_RANK = {family: rank for rank, family in enumerate(FAMILIES)}

_FIRST_OF_NAMES = frozenset("ktspcwbKTSPCWB_-")


def _beginning(literal: str) -> str:
    """Of a key that begins with `literal`, as much as tells it from words."""
    if literal == "pat":
        return r"pat[A-Za-z0-9]{14}\."
    characters = filled(literal)
    return re.escape(literal) + (rf"[A-Za-z0-9_\-+/=:.\\]{{{characters}}}" if characters else "")


def filled(literal: str) -> int:
    """How many characters of keys must stand after `literal` in the gate; ``pat`` has a form of its own."""
    return max(0, 11 - len(literal)) if literal != "FlyV1" else 0  # white space follows that one


_LITERALS = dict.fromkeys(rule.literal for rule in _PREFIXED)
_NAMED_VALUE = (
    rf"{_NAME}(?: (?i:key|token|value|id)s?)?[\"'`\])]*[ \t]*{_OPERATOR}"
    rf"[ \t>\"'`(\\=:]*(?:(?i:bearer|token|basic)[ \t]+)?[\"'`(\\]*{_VALUE}{{16}}"
)
GATE = "|".join((
    rf"\b(?:{'|'.join(_beginning(literal) for literal in _LITERALS if literal[0].isalnum())})",
    *(_beginning(literal) for literal in _LITERALS if not literal[0].isalnum()),
    _NAMED_VALUE,
    rf"{_SCHEME}[ \t]{{1,3}}[\"'`(\\]*{_VALUE}{{16}}",
    r"\b(?:eyJ[A-Za-z0-9_\-]{8}|[MN][DTjz][A-Za-z0-9_\-]{9}|O[DT][A-Za-z0-9_\-]{9}|sig=|PRIVATE KEY)",
    r":AA[A-Za-z0-9_\-]{9}|Q~[A-Za-z0-9_~.\-]{9}|-us[0-9]|\.atlasv1\.|\.webhook\.office\.com|[^\s@]@[A-Za-z0-9\[]",
))  # fmt: skip
"""RE2 pattern of the anchors."""

PREFILTER = GATE
"""RE2 pattern that matches every text in which `find_secrets` can find something."""

_GATE = Gate(GATE)


def secrets_at(text: str, at: int, found: list[Finding], known: Known) -> None:
    """Add to `found` the candidates that the anchor at `at` belongs to; they may overlap. No anchor, no candidates.

    Args:
        text: The text.
        at: Index of a character.
        found: Receives the candidates.
        known: One for each text, empty at first: what was looked at before.
    """
    char = text[at]
    if text.startswith("@", at + 1):
        _marked_at(text, at + 1, found)
    if "0" <= char <= "9" or char == " ":
        return
    if char in _FIRST_OF_NAMES:
        _assigned_at(text, at, found, known)
    if char in _by_mark():
        _marked_at(text, at, found)
    key = _prefixed_at(text, at, known)
    if key is not None:
        found.append(key)


def find_secrets(text: str) -> list[Finding]:
    """Credentials in `text`, in order, without overlaps. Anything but a str has none."""
    if not isinstance(text, str):
        return []
    found: list[Finding] = []
    known: Known = {}

    def visit(at: int) -> int:
        secrets_at(text, at, found, known)
        return at + 1

    _GATE.walk(text, visit)
    return without_overlaps(found, _RANK)


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
