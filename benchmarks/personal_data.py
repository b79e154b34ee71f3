"""Personal data to plant: eighteen categories, every number with valid check digits, none of them anybody's."""

import itertools
import string
import textwrap
from random import Random

from benchmarks.plants import Draw, Plant, digits, some


def with_luhn(body: str) -> str:
    """ISO/IEC 7812-1: `body` and its check digit."""
    total = 0
    for position, char in enumerate(reversed(body)):
        value = int(char) * (2 - position % 2)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def iban(country: str, bban: str) -> str:
    """ISO 13616: country, two check digits (ISO 7064 MOD 97-10), account."""
    number = int("".join(str(int(char, 36)) for char in bban + country + "00"))
    return f"{country}{98 - number % 97:02}{bban}"


def _french_account(rng: Random) -> str:
    bank, branch, account = digits(rng, 5), digits(rng, 5), digits(rng, 11)
    key = 97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97
    return f"{bank}{branch}{account}{key:02}"


def _spanish_account(rng: Random) -> str:
    bank, branch, account = digits(rng, 4), digits(rng, 4), digits(rng, 10)
    weights = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)

    def check(number: str) -> str:
        value = 11 - sum(int(char) * weight for char, weight in zip(number, weights, strict=True)) % 11
        return {10: "1", 11: "0"}.get(value, str(value))

    return bank + branch + check("00" + bank + branch) + check(account) + account


def _belgian_account(rng: Random) -> str:
    body = digits(rng, 10)
    return f"{body}{int(body) % 97 or 97:02}"


def _dutch_account(rng: Random) -> str:
    while True:
        account = "0" + digits(rng, 9)
        if sum(int(char) * (10 - place) for place, char in enumerate(account)) % 11 == 0:
            return rng.choice(("ABNA", "INGB", "RABO")) + account


_BANK_CODES_GB = ("NWBK", "BARC", "LOYD", "MIDL")
_ACCOUNTS: dict[str, Draw] = {
    "DE": lambda rng: digits(rng, 18),
    "FR": _french_account,
    "ES": _spanish_account,
    "BE": _belgian_account,
    "NL": _dutch_account,
    "GB": lambda rng: rng.choice(_BANK_CODES_GB) + digits(rng, 14),
    "TR": lambda rng: digits(rng, 5) + "0" + digits(rng, 16),
    "AT": lambda rng: digits(rng, 16),
    "CH": lambda rng: digits(rng, 5) + digits(rng, 12),
}


def _grouped(number: str, size: int = 4, separator: str = " ") -> str:
    return separator.join(textwrap.wrap(number, size))


def draw_iban(rng: Random) -> str:
    country = rng.choice(tuple(_ACCOUNTS))
    number = iban(country, _ACCOUNTS[country](rng))
    return _grouped(number) if rng.random() < 0.4 else number


def draw_card(rng: Random) -> str:
    prefix, size = rng.choice((("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("6011", 16), ("34", 15), ("37", 15)))
    number = with_luhn(prefix + digits(rng, size - 1 - len(prefix)))
    style = rng.random()
    if style < 0.4:
        return number
    separator = " " if style < 0.8 else "-"
    return _grouped(number, 4, separator) if size == 16 else separator.join((number[:4], number[4:10], number[10:]))


def draw_us_ssn(rng: Random) -> str:
    area = rng.choice([number for number in range(1, 900) if number != 666])
    return f"{area:03}-{rng.randrange(1, 100):02}-{rng.randrange(1, 10000):04}"


def draw_nir(rng: Random) -> str:
    department = rng.choice(("2A", "2B", "75", "13", "69", "33", "59", "44"))
    body = f"{rng.choice('12')}{rng.randrange(40, 100):02}{rng.randrange(1, 13):02}{department}"
    body += f"{rng.randrange(1, 800):03}{rng.randrange(1, 999):03}"
    key = 97 - int(body.replace("2A", "19").replace("2B", "18")) % 97
    number = f"{body}{key:02}"
    if rng.random() < 0.5:
        return number
    return " ".join((number[0], number[1:3], number[3:5], number[5:7], number[7:10], number[10:13], number[13:]))


def draw_tr_id(rng: Random) -> str:
    d = [rng.randrange(1, 10), *(rng.randrange(10) for _ in range(8))]
    d.append((7 * sum(d[0:9:2]) - sum(d[1:8:2])) % 10)
    d.append(sum(d) % 10)
    return "".join(map(str, d))


def draw_de_id(rng: Random) -> str:
    """Serial number of an identity card with its check digit (ICAO Doc 9303 part 3, 4.9)."""
    letters = "CFGHJKLMNPRTVWXYZ"
    while True:
        body = rng.choice("LMNPRTVWXY") + some(rng, "0123456789" + letters, 8)
        if sum(char.isdigit() for char in body) >= 4:
            return body + str(sum(int(char, 36) * (7, 3, 1)[place % 3] for place, char in enumerate(body)) % 10)


def draw_nino(rng: Random) -> str:
    while True:
        prefix = rng.choice("ABCEGHJKLMNOPRSTWXYZ") + rng.choice("ABCEGHJKLMNPRSTWXYZ")
        if prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"):
            break
    number = prefix + digits(rng, 6) + rng.choice("ABCD")
    return number if rng.random() < 0.5 else " ".join((number[:2], number[2:4], number[4:6], number[6:8], number[8]))


def draw_dni(rng: Random) -> str:
    letters = "TRWAGMYFPDXBNJZSQVHLCKE"
    if rng.random() < 0.3:
        body = digits(rng, 7)
        first = rng.randrange(3)
        return "XYZ"[first] + body + letters[int(f"{first}{body}") % 23]
    body = f"{rng.randrange(10**6, 10**8):08}"
    return body + rng.choice(("", "", "-")) + letters[int(body) % 23]


def draw_bsn(rng: Random) -> str:
    while True:
        body = [rng.randrange(1, 10), *(rng.randrange(10) for _ in range(7))]
        last = sum(digit * weight for digit, weight in zip(body, range(9, 1, -1), strict=True)) % 11
        if last < 10:
            return "".join(map(str, [*body, last]))


def draw_cpf(rng: Random) -> str:
    d = [rng.randrange(10) for _ in range(9)]
    for length in (10, 11):
        d.append(sum(digit * (length - place) for place, digit in enumerate(d)) * 10 % 11 % 10)
    number = "".join(map(str, d))
    return f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"


def draw_codice_fiscale(rng: Random) -> str:
    """Italy: letters of the name, birth, municipality, and a check letter (decree 345 of 1976)."""
    consonants = "BCDFGLMNPRSTVZ"
    body = some(rng, consonants, 6) + digits(rng, 2) + rng.choice("ABCDEHLMPRST")
    body += (
        f"{rng.choice((0, 40)) + rng.randrange(1, 29):02}" + rng.choice("ABCDEFGHIL") + f"{rng.randrange(1, 1000):03}"
    )
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    values = [int(char) if char.isdigit() else ord(char) - ord("A") for char in body]
    total = sum(value if place % 2 else odd[value] for place, value in enumerate(values))
    return body + chr(ord("A") + total % 26)


def draw_steuer_id(rng: Random) -> str:
    """Germany: of the first ten digits one stands twice, not side by side, one not at all; then ISO 7064 MOD 11,10."""
    while True:
        chosen = rng.sample("0123456789", 9)
        body = "".join(rng.sample([*chosen, rng.choice(chosen)], 10))
        if body[0] != "0" and all(one != other for one, other in itertools.pairwise(body)):
            break
    product = 10
    for char in body:
        product = ((int(char) + product) % 10 or 10) * 2 % 11
    number = body + str((11 - product) % 10)
    return number if rng.random() < 0.5 else " ".join((number[:2], number[2:5], number[5:8], number[8:]))


def draw_pesel(rng: Random) -> str:
    """Poland: date of birth, serial, sex, check digit."""
    body = f"{rng.randrange(40, 100):02}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}{digits(rng, 4)}"
    return body + str(-sum(int(char) * weight for char, weight in zip(body, (1, 3, 7, 9) * 3, strict=False)) % 10)


def draw_aadhaar(rng: Random) -> str:
    """India: twelve digits, the last by Verhoeff's method over the dihedral group of order ten."""
    body = rng.choice("23456789") + digits(rng, 10)
    check = next(digit for digit in string.digits if _verhoeff(body + digit) == 0)
    return _grouped(body + check) if rng.random() < 0.6 else body + check


def _verhoeff(number: str) -> int:
    permuted = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    state = 0
    for place, char in enumerate(reversed(number)):
        digit = int(char)
        for _ in range(place % 8):
            digit = permuted[digit]
        state = _in_dihedral_group(state, digit)
    return state


def _in_dihedral_group(one: int, other: int) -> int:
    """Product in D5: 0 to 4 are rotations, 5 to 9 reflections."""
    turn, other_turn = one % 5, other % 5
    if one < 5:
        return (turn + other_turn) % 5 + (5 if other >= 5 else 0)
    return (turn - other_turn) % 5 + (5 if other < 5 else 0)


def draw_ipv4(rng: Random) -> str:
    first = rng.choice([octet for octet in range(1, 224) if octet not in (0, 10, 127)])
    return f"{first}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"


def draw_ipv6(rng: Random) -> str:
    prefix = rng.choice(("2001:4860", "2a00:1450", "2606:4700", "2003:e1"))
    groups = [f"{rng.randrange(1, 65536):x}" for _ in range(6)]
    if rng.random() < 0.5:
        return ":".join((prefix, *groups))
    return f"{prefix}:{':'.join(groups[:2])}::{groups[5]}"


FIRST_NAMES = ("maria", "jan", "elif", "peter", "anna", "luca", "sofia", "thomas", "irina", "pedro", "julie", "mehmet")
LAST_NAMES = ("silva", "jansen", "yilmaz", "novak", "garcia", "rossi", "mueller", "martin", "kowalska", "hughes")
_MAIL_HOSTS = ("gmail.com", "outlook.com", "web.de", "orange.fr", "libero.it", "uni-koeln.de", "bt.co.uk", "xs4all.nl")


def draw_email(rng: Random) -> str:
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    local = rng.choice((f"{first}.{last}", f"{first[0]}{last}{rng.randrange(100)}", f"{first}_{last}", f"{last}+news"))
    return f"{local}@{rng.choice(_MAIL_HOSTS)}"


_AREAS_US = ("212", "312", "415", "617", "206", "713", "303", "602", "404", "503")


def _us_exchange(rng: Random) -> str:
    while True:
        exchange = rng.choice("23456789") + digits(rng, 2)
        if exchange[1:] != "11" and exchange != "555":
            return exchange


def draw_phone(rng: Random) -> str:
    """A number in one of the forms in which its country writes it, of a range that its country assigns."""
    area, exchange, line = rng.choice(_AREAS_US), _us_exchange(rng), digits(rng, 4)
    four = digits(rng, 4)
    pairs = " ".join(digits(rng, 2) for _ in range(4))
    return rng.choice(
        (
            f"+1 {area} {exchange} {line}",
            f"+1-{area}-{exchange}-{line}",
            f"({area}) {exchange}-{line}",
            f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}",
            f"+44 20 7{digits(rng, 3)} {four}",
            f"020 7{digits(rng, 3)} {four}",
            f"+49 30 {rng.choice('2345678')}{digits(rng, 7)}",
            f"030/{rng.choice('2345678')}{digits(rng, 7)}",
            f"0{rng.choice('12345')} {pairs}",
            f"+33 6 {rng.choice('12458')}{pairs[1:]}",
            f"+90 532 {digits(rng, 3)} {digits(rng, 2)} {digits(rng, 2)}",
            f"0532 {digits(rng, 3)} {digits(rng, 2)} {digits(rng, 2)}",
            f"+34 6{digits(rng, 2)} {digits(rng, 3)} {digits(rng, 3)}",
            f"+55 11 9{rng.choice('6789')}{digits(rng, 3)}-{four}",
            f"+31 6 {rng.choice('12345')}{digits(rng, 7)}",
        )
    )


_CONTACT = ("You can reach me at {} after six.", "My details have changed: {}.", "Contact {} for the rest.")
_PAYMENT = ("Please charge {} for this.", "The account on file is {}.", "I paid with {} last week.")
_IDENTITY = ("My number is {}, as printed on the document.", "The form says {} in the second field.")

PII = (
    Plant("email", draw_email, (*_CONTACT, "Write to {} and ask.", "From: {} on Monday")),
    Plant(
        "phone",
        draw_phone,
        (
            "Call me on {} after six.",
            "Phone: {}",
            "You can reach me at {} any time.",
            "My mobile is {}, try the evening.",
        ),
    ),
    Plant("credit_card", draw_card, (*_PAYMENT, "Card {} was declined.")),
    Plant("iban", draw_iban, (*_PAYMENT, "IBAN: {}", "Transfer it to {} by Friday.")),
    Plant("us_ssn", draw_us_ssn, (*_IDENTITY, "SSN {}", "Her social security number is {}.")),
    Plant("fr_ssn", draw_nir, (*_IDENTITY, "Numéro de sécurité sociale : {}")),
    Plant("tr_id", draw_tr_id, (*_IDENTITY, "TC kimlik no {}")),
    Plant("de_id", draw_de_id, (*_IDENTITY, "Ausweisnummer {}", "ID card {} expires in May.")),
    Plant("uk_nino", draw_nino, (*_IDENTITY, "National Insurance number {}")),
    Plant("es_dni", draw_dni, (*_IDENTITY, "DNI {}")),
    Plant("nl_bsn", draw_bsn, ("BSN {}", "Mijn burgerservicenummer is {}.", "His BSN: {}, born in Utrecht")),
    Plant("br_cpf", draw_cpf, (*_IDENTITY, "CPF {}")),
    Plant("it_fiscal_code", draw_codice_fiscale, (*_IDENTITY, "Codice fiscale: {}")),
    Plant("de_tax_id", draw_steuer_id, ("Steuer-ID: {}", "Meine Steueridentifikationsnummer ist {}.", "tax ID {}")),
    Plant("pl_pesel", draw_pesel, ("PESEL {}", "Her PESEL number is {}.")),
    Plant("in_aadhaar", draw_aadhaar, ("Aadhaar: {}", "My Aadhaar number is {}.", "UIDAI {} on the card")),
    Plant("ipv4", draw_ipv4, ("The request came from {} at noon.", "Log in to {} first.", "server: {}")),
    Plant("ipv6", draw_ipv6, ("The request came from {} at noon.", "Log in to {} first.", "server: {}")),
)
