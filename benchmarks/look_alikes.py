"""Look-alikes of personal data and secrets that nobody should flag.

Real text is full of them: digests, versions, order numbers, vendors' documented examples,
stand-ins such as ``sk-your-api-key-goes-here``, numbers whose check digits do not fit.
"""

import base64
import string
import uuid
from random import Random

from benchmarks.credentials import ASSIGNED, BLOCK, pem
from benchmarks.personal_data import (
    FIRST_NAMES,
    LAST_NAMES,
    draw_card,
    draw_iban,
    draw_nir,
    draw_tr_id,
    with_luhn,
)
from benchmarks.plants import HEX, Draw, Plant, digits, some

_UPPER = string.ascii_uppercase + string.digits


def _spoiled(draw: Draw) -> Draw:
    """`draw`, with its last digit one higher: the check digits no longer fit."""

    def spoil(rng: Random) -> str:
        value = draw(rng)
        at = max(place for place, char in enumerate(value) if char.isdigit())
        return value[:at] + str((int(value[at]) + 1) % 10) + value[at + 1 :]

    return spoil


def _isbn13(rng: Random) -> str:
    body = "978" + digits(rng, 9)
    check = -sum(int(char) * (1 + 2 * (place % 2)) for place, char in enumerate(body)) % 10
    return f"978-{body[3]}-{body[4:7]}-{body[7:12]}-{check}"


def _version(rng: Random) -> str:
    return ".".join(str(rng.randrange(limit)) for limit in (9, 20, 20, 9))


_ANY = ("See {} for the details.", "It prints {} and stops.", "The value was {} at the time.")

LOOK_ALIKES = (
    Plant("isbn", _isbn13, ("ISBN {}", "The book ({}) covers this.")),
    Plant("imei", lambda rng: with_luhn("35" + digits(rng, 12)), ("IMEI {}", "The device with IMEI {} is locked.")),
    Plant("git_hash", lambda rng: some(rng, HEX, 40), ("Fixed in commit {}.", *_ANY)),
    Plant("sha256", lambda rng: some(rng, HEX, 64), ("sha256:{}", *_ANY)),
    Plant("md5", lambda rng: some(rng, HEX, 32), ("md5 {}", *_ANY)),
    Plant("uuid", lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)), _ANY),
    Plant("aws_example_key", lambda rng: "AK" + "IA" + rng.choice(("IOSFODNN7", "I44QH8DHB")) + "EXAMPLE", ASSIGNED),
    Plant(
        "sk_learn_name",
        lambda rng: (
            "sk-"
            + "learn-compatible-"
            + rng.choice(("estimator-interface", "transformer-wrapper-class", "pipeline-step-objects"))
        ),
        _ANY,
    ),
    Plant(
        "sk_stand_in",
        lambda rng: (
            "sk-"
            + rng.choice(
                (
                    "your-api-key-goes-here-please",
                    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                    "proj-your-openai-project-key-here",
                )
            )
        ),
        ASSIGNED,
    ),
    Plant("github_stand_in", lambda rng: "gh" + "p_" + rng.choice("xX") * 36, ASSIGNED),
    Plant("huggingface_stand_in", lambda rng: "h" + "f_" + rng.choice(("your_token_goes_here", "x" * 34)), ASSIGNED),
    Plant(
        "url_stand_in",
        lambda rng: rng.choice(("password", "<password>", "${DB_PASSWORD}", "****", "your_password")),
        ("postgres://user:{}@localhost/db", "mysql://root:{}@127.0.0.1:3306/test"),
    ),
    Plant("public_key", lambda rng: pem("PUBLIC " + "KEY", b"\x30\x82\x01\x22\x30\x0d", 150)(rng), BLOCK),
    Plant("certificate", lambda rng: pem("CERTI" + "FICATE", b"\x30\x82\x03\x4d\x30\x82", 200)(rng), BLOCK),
    Plant(
        "base64_data",
        lambda rng: base64.b64encode(rng.randbytes(96)).decode(),
        ("data:image/png;base64,{}", "The blob is {} in base64."),
    ),
    Plant("epoch_ms", lambda rng: str(rng.randrange(1_400_000_000_000, 1_800_000_000_000)), ("timestamp {}", *_ANY)),
    Plant(
        "time_stamp",
        lambda rng: (
            f"20{rng.randrange(10, 27)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T"
            f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}Z"
        ),
        _ANY,
    ),
    Plant("order_number", lambda rng: digits(rng, 12), ("Order {} was shipped.", "Your order number is {}.")),
    Plant("tracking_number", lambda rng: "1Z" + some(rng, _UPPER, 6) + digits(rng, 10), ("Tracking number {}",)),
    Plant(
        "part_number",
        lambda rng: rng.choice("ABCDEFGH") + digits(rng, 7),
        ("Part {} is out of stock.", "The replacement is {} now."),
    ),
    Plant(
        "sku",
        lambda rng: f"{some(rng, string.ascii_uppercase, 3)}-{digits(rng, 4)}-{digits(rng, 3)}",
        ("SKU {}", *_ANY),
    ),
    Plant(
        "not_a_phone",
        lambda rng: f"({rng.choice('123456789')}{digits(rng, 3)}) {digits(rng, 4)} {digits(rng, 4)}",
        ("Reading: {} units", *_ANY),
    ),
    Plant("version", _version, ("Upgrade to version {} first.", "It broke in release {} again.", "v{}")),
    Plant(
        "date_range",
        lambda rng: f"20{rng.randrange(10, 27)}-01-{rng.randrange(10, 29)}/20{rng.randrange(10, 27)}-02-10",
        _ANY,
    ),
    Plant("bad_iban", _spoiled(draw_iban), ("The old account {} was closed.", *_ANY)),
    Plant("bad_card", _spoiled(draw_card), ("The sample {} is refused.", *_ANY)),
    Plant("bad_tr_id", _spoiled(draw_tr_id), _ANY),
    Plant("bad_nir", _spoiled(lambda rng: draw_nir(rng).replace(" ", "")), _ANY),
    Plant("bad_dni", lambda rng: f"{rng.randrange(10**7, 10**8)}", _ANY),
    Plant("bad_ssn", lambda rng: f"{rng.choice(('000', '666'))}-{digits(rng, 2)}-{digits(rng, 4)}", _ANY),
    Plant("nine_digits", lambda rng: str(rng.randrange(10**8, 10**9)), ("It took {} nanoseconds.", "Population: {}")),
    Plant("mac_address", lambda rng: ":".join(some(rng, HEX, 2) for _ in range(6)), _ANY),
    Plant(
        "coordinates",
        lambda rng: f"{rng.randrange(-89, 90)}.{digits(rng, 6)}, {rng.randrange(-179, 180)}.{digits(rng, 6)}",
        _ANY,
    ),
    Plant(
        "loopback",
        lambda rng: rng.choice(("127.0.0.1", "0.0.0.0", "::1", "255.255.255.255")),
        ("It listens on {} only.",),
    ),
    Plant(
        "git_remote",
        lambda rng: f"git@github.com:{rng.choice(LAST_NAMES)}/{rng.choice(FIRST_NAMES)}.git",
        ("git clone {}", "origin is {}"),
    ),
    Plant("retina_image", lambda rng: f"{rng.choice(FIRST_NAMES)}@{rng.choice('23')}x.png", ("The icon is {} now.",)),
    Plant(
        "decorator",
        lambda rng: "@" + rng.choice(("pytest.mark.parametrize", "app.get", "functools.wraps")),
        ("Use {} here.",),
    ),
    Plant("arxiv", lambda rng: f"arXiv:{rng.randrange(10, 27)}{rng.randrange(1, 13):02}.{digits(rng, 5)}", _ANY),
    Plant(
        "doi",
        lambda rng: f"10.{digits(rng, 4)}/{some(rng, string.ascii_lowercase, 4)}.{digits(rng, 7)}",
        ("doi:{}", *_ANY),
    ),
    Plant("pi", lambda rng: f"3.{digits(rng, 15)}", _ANY),
)
