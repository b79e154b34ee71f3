"""Credentials to plant: the formats of 37 families with random bodies.

No line of this file looks like a key, so that a scanner of source code stays quiet: prefixes
are put together at run time.
"""

import base64
import json
import string
import textwrap
from random import Random

from benchmarks.plants import ALNUM, BASE64, HEX, URL_SAFE, Draw, Plant, any_of, digits, some

_UPPER = string.ascii_uppercase + string.digits


def _token(*prefix: str, alphabet: str, size: int) -> Draw:
    """A vendor's prefix, given in parts, and `size` random characters."""
    start = "".join(prefix)
    return lambda rng: start + some(rng, alphabet, size)


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def draw_jwt(rng: Random) -> str:
    header = {"alg": rng.choice(("HS256", "RS256", "ES256")), "typ": "JWT"}
    claims = {"sub": digits(rng, 10), "iat": rng.randrange(10**9, 2 * 10**9), "scope": "read"}
    parts = [_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)]
    return ".".join([*parts, _base64url(rng.randbytes(32))])


def pem(label: str, header: bytes, size: int) -> Draw:
    def draw(rng: Random) -> str:
        body = textwrap.wrap(base64.b64encode(header + rng.randbytes(size)).decode(), 64)
        return "\n".join(["-----" + f"BEGIN {label}-----", *body, "-----" + f"END {label}-----"])

    return draw


def _pgp(rng: Random) -> str:
    body = textwrap.wrap(base64.b64encode(b"\x95\x01" + rng.randbytes(300)).decode(), 64)
    label = "PGP PRIVATE KEY" + " BLOCK"
    checksum = "=" + some(rng, BASE64, 4)
    return "\n".join(["-----" + f"BEGIN {label}-----", "", *body, checksum, "-----" + f"END {label}-----"])


def _azure_storage(rng: Random) -> str:
    return base64.b64encode(rng.randbytes(64)).decode()


def _url_password(rng: Random) -> str:
    return some(rng, ALNUM, rng.randrange(10, 20))


def _mixed(draw: Draw) -> Draw:
    """Draw again until there is a digit, and letters in both cases if there are letters at all in both."""

    def redraw(rng: Random) -> str:
        while True:
            value = draw(rng)
            if any(map(str.isdigit, value)) and any(map(str.islower, value)) and any(map(str.isupper, value)):
                return value

    return redraw


ASSIGNED = (
    "token: {}",
    'export API_KEY="{}"',
    "I use {} for the tests.",
    "Authorization: Bearer {}",
    "client = Client(key='{}')",
    "it still works with {}",
)
BLOCK = ("Here is the key:\n{}\n", "deploy key\n\n{}\n\n", "cat id_rsa\n{}")

SECRETS = (
    Plant(
        "aws_access_key",
        any_of(
            _token("AK", "IA", alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", size=16),
            _token("AS", "IA", alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", size=16),
        ),
        ASSIGNED,
    ),
    Plant(
        "aws_secret_key",
        _mixed(_token(alphabet=BASE64, size=40)),
        ("aws_secret_access_key = {}", 'AWS_SECRET_ACCESS_KEY="{}"', "the AWS secret key is {}"),
    ),
    Plant(
        "github_token",
        any_of(
            _token("gh", "p_", alphabet=ALNUM, size=36),
            _token("gh", "o_", alphabet=ALNUM, size=36),
            _token("gh", "s_", alphabet=ALNUM, size=36),
            lambda rng: "github" + "_pat_" + some(rng, ALNUM, 22) + "_" + some(rng, ALNUM, 59),
        ),
        ASSIGNED,
    ),
    Plant("gitlab_token", _token("gl", "pat-", alphabet=URL_SAFE, size=20), ASSIGNED),
    Plant(
        "slack_token",
        lambda rng: "xo" + f"x{rng.choice('bp')}-" + "-".join((digits(rng, 12), digits(rng, 12), some(rng, ALNUM, 24))),
        ASSIGNED,
    ),
    Plant(
        "slack_webhook",
        lambda rng: (
            "https://hooks.slack"
            + ".com/services/"
            + "/".join(("T" + some(rng, _UPPER, 10), "B" + some(rng, _UPPER, 10), some(rng, ALNUM, 24)))
        ),
        ("post it to {} please", 'url = "{}"'),
    ),
    Plant(
        "anthropic_api_key",
        any_of(
            lambda rng: "sk-" + "ant-api03-" + some(rng, URL_SAFE, 93) + "AA",
            lambda rng: "sk-" + "ant-admin01-" + some(rng, URL_SAFE, 93) + "AA",
        ),
        ASSIGNED,
    ),
    Plant(
        "openai_api_key",
        any_of(
            lambda rng: "sk-" + "proj-" + some(rng, URL_SAFE, 74) + "T3Blbk" + "FJ" + some(rng, URL_SAFE, 74),
            lambda rng: "sk-" + "svcacct-" + some(rng, URL_SAFE, 74) + "T3Blbk" + "FJ" + some(rng, URL_SAFE, 74),
            lambda rng: "sk-" + some(rng, ALNUM, 20) + "T3Blbk" + "FJ" + some(rng, ALNUM, 20),
        ),
        ASSIGNED,
    ),
    Plant("openrouter_key", _token("sk-", "or-v1-", alphabet=HEX, size=64), ASSIGNED),
    Plant("google_api_key", _token("AI", "za", "Sy", alphabet=URL_SAFE, size=33), ASSIGNED),
    Plant("huggingface_token", _token("h", "f_", alphabet=string.ascii_letters, size=34), ASSIGNED),
    Plant("groq_api_key", _token("gs", "k_", alphabet=ALNUM, size=52), ASSIGNED),
    Plant("xai_api_key", _token("xa", "i-", alphabet=ALNUM, size=80), ASSIGNED),
    Plant("perplexity_api_key", _token("pp", "lx-", alphabet=ALNUM, size=48), ASSIGNED),
    Plant("replicate_token", _token("r", "8_", alphabet=ALNUM, size=37), ASSIGNED),
    Plant("nvidia_api_key", _token("nv", "api-", alphabet=URL_SAFE, size=64), ASSIGNED),
    Plant(
        "stripe_key",
        any_of(
            _token("sk_", "live_", alphabet=ALNUM, size=24),
            _token("sk_", "live_", alphabet=ALNUM, size=99),
            _token("rk_", "live_", alphabet=ALNUM, size=24),
        ),
        ASSIGNED,
    ),
    Plant("npm_token", _token("np", "m_", alphabet=ALNUM, size=36), ASSIGNED),
    Plant("pypi_token", lambda rng: "py" + "pi-AgEIcHlwaS5vcmc" + some(rng, URL_SAFE, 150), ASSIGNED),
    Plant("sendgrid_key", lambda rng: "S" + "G." + some(rng, URL_SAFE, 22) + "." + some(rng, URL_SAFE, 43), ASSIGNED),
    Plant("twilio_key", _token("S", "K", alphabet=HEX, size=32), ASSIGNED),
    Plant(
        "langchain_langsmith_personal_access_token",
        lambda rng: "lsv2" + "_pt_" + some(rng, HEX, 32) + "_" + some(rng, HEX, 10),
        ASSIGNED,
    ),
    Plant("pinecone_api_key", lambda rng: "pc" + "sk_" + some(rng, ALNUM, 6) + "_" + some(rng, ALNUM, 63), ASSIGNED),
    Plant("dockerhub_personal_access_token", _token("dc", "kr_pat_", alphabet=URL_SAFE, size=27), ASSIGNED),
    Plant("shopify_access_token", _token("sh", "pat_", alphabet=HEX, size=32), ASSIGNED),
    Plant(
        "grafana_service_account_token",
        lambda rng: "gl" + "sa_" + some(rng, ALNUM, 32) + "_" + some(rng, HEX, 8),
        ASSIGNED,
    ),
    Plant("doppler_api_token", _token("dp", ".pt.", alphabet=ALNUM, size=43), ASSIGNED),
    Plant("linear_api_key", _token("lin", "_api_", alphabet=ALNUM, size=40), ASSIGNED),
    Plant("vault_service_token", _token("hv", "s.", alphabet=URL_SAFE, size=95), ASSIGNED),
    Plant(
        "telegram_bot_api_token",
        lambda rng: f"{rng.randrange(10**8, 10**10)}:" + "AA" + some(rng, URL_SAFE, 33),
        ("telegram bot token {}", 'TELEGRAM_TOKEN="{}"', "bot = telegram.Bot('{}')"),
    ),
    Plant("databricks_token", _token("da", "pi", alphabet=HEX, size=32), ASSIGNED),
    Plant("digitalocean_token", _token("do", "p_v1_", alphabet=HEX, size=64), ASSIGNED),
    Plant(
        "azure_storage_key",
        _azure_storage,
        (
            "DefaultEndpointsProtocol=https;AccountName=datasets;AccountKey={};EndpointSuffix=core.windows.net",
            "AccountKey={}",
        ),
    ),
    Plant(
        "url_password",
        _url_password,
        (
            "postgresql://reports:{}@db.internal.acme.io:5432/main",
            "git clone https://deploy:{}@git.acme.io/team/app.git",
            "redis://:{}@cache.acme.io:6379/0",
        ),
    ),
    Plant("jwt", draw_jwt, ASSIGNED),
    Plant(
        "private_key",
        any_of(
            pem("RSA " + "PRIVATE KEY", b"\x30\x82\x02\x5c\x02\x01\x00\x02\x81\x81\x00", 290),
            pem("EC " + "PRIVATE KEY", b"\x30\x77\x02\x01\x01\x04\x20", 110),
            pem("OPENSSH " + "PRIVATE KEY", b"openssh-key-v1\x00", 250),
            pem(
                "PRIVATE" + " KEY",
                b"\x30\x82\x04\xbd\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
                300,
            ),
            pem("ENCRYPTED " + "PRIVATE KEY", b"\x30\x82\x05\x0e\x30\x40", 300),
        ),
        BLOCK,
    ),
    Plant("pgp_private_key", _pgp, BLOCK),
)
