"""Credentials: planted random keys of every family, look-alikes, placeholders."""

import random
import string
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from forge_pipeline.dataset_audit import detect_secrets, find_pii, find_secrets, mask_pii, mask_secrets
from forge_pipeline.dataset_audit.secret_scan import FAMILIES, PREFILTER

ALNUM = string.ascii_letters + string.digits
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"


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
    "gitlab_token": [lambda r: "glpat-" + draw(r, 20)],
    "slack_token": [lambda r: f"xoxb-{draw(r, 12, string.digits)}-{draw(r, 12, string.digits)}-{draw(r, 24)}"],
    "slack_webhook": [lambda r: f"https://hooks.slack.com/services/T{draw(r, 8)}/B{draw(r, 8)}/{draw(r, 24)}"],
    "openai_api_key": [lambda r: "sk-" + draw(r, 48), lambda r: "sk-proj-" + draw(r, 100)],
    "anthropic_api_key": [lambda r: f"sk-ant-api03-{draw(r, 93)}AA"],
    "google_api_key": [lambda r: "AIza" + draw(r, 35)],
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
    "xoxb words": "xoxb-your-token-goes-here",
    "changeme": "hf_changemechangemechangemechangeme",
    "example": "glpat-examplexample0example0",
    "password as password": "postgres://user:password@localhost/db",
    "template password": "https://user:<password>@host and http://a:${PW}@host",
    "middle of a word": "task-abcdefghijklmnopqrstuvwxyz12 disk-0123456789abcdef01234567",
    "SHA-1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "header alone": "Look for -----BEGIN PRIVATE KEY----- lines in the log.",
    "public key": "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIB\n-----END PUBLIC KEY-----",
    "three base64 words": "eyJub3QiOiJhIGp3dCJ9.eyJub3QiOiJhIGp3dCJ9.abcdefghijk",
}


@pytest.mark.parametrize("family", PLANTED)
def test_random_keys_of_every_family_are_found_and_masked(family: str) -> None:
    rng = random.Random(family)
    planted = [make(rng) for make in PLANTED[family] for _ in range(40)]
    texts = [f"use {key} now" for key in planted]
    missed = [text for text in texts if detect_secrets(text) != {family: 1}]
    assert len(missed) <= len(texts) * 0.02, missed[:3]
    for text in texts:
        if find_secrets(text):
            assert pc.match_substring_regex(pa.array([text]), PREFILTER)[0].as_py()
            assert find_secrets(mask_secrets(text)) == []


def test_every_family_of_the_table_is_tested() -> None:
    assert set(PLANTED) == set(FAMILIES)


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


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 70_000, "http://a:" * 20_000, "aws secret key " * 12_000, "sk-" * 60_000, "a:b@" * 50_000,
        "-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAAAAAAAAA" * 500,
        "-----BEGIN PRIVATE KEY-----\n" + "A" * 200_000,
        "-----BEGIN PRIVATE KEY-----\n" * 3_000,
        "twilio " * 30_000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_monotonous_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    find_secrets(text)
    assert time.process_time() - started < 3
