"""Check digits of cards, bank accounts and identity numbers: one function each.

Every function takes the number without separators, in upper case, and answers
whether it is well formed and its check digits fit. None says that the number was
ever issued. Test vectors stand in the docstrings and run as doctests.
"""

import re

# Length of an IBAN by country, from the SWIFT IBAN registry.
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20,
    "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25,
    "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip

_NIR = re.compile(r"[1-478][0-9]{2}(?:0[1-9]|1[0-2]|[2-4][0-9]|[5-9][0-9])(?:[0-9]{2}|2[AB])[0-9]{6}[0-9]{2}")
_CARD_LENGTHS = (
    # issuer identification number as (first, last) of equal width, and the lengths that its issuer uses
    (("34", "34"), (15,)), (("37", "37"), (15,)),  # American Express
    (("300", "305"), (14,)), (("36", "36"), (14,)), (("38", "39"), (14,)),  # Diners Club
    (("3528", "3589"), (16,)),  # JCB
    (("4", "4"), (16, 19)),  # Visa
    (("51", "55"), (16,)), (("2221", "2720"), (16,)),  # Mastercard
    (("50", "50"), (16, 19)), (("56", "58"), (16, 19)),  # Maestro
    (("6011", "6011"), (16, 19)), (("644", "649"), (16, 19)), (("65", "65"), (16, 19)),  # Discover
    (("62", "62"), (16, 19)),  # UnionPay
)  # fmt: skip


_CARD_ISSUERS = {
    length: [(first, last, len(first)) for (first, last), lengths in _CARD_LENGTHS if length in lengths]
    for length in (14, 15, 16, 19)
}


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B.

    >>> luhn("79927398713"), luhn("4111111111111111"), luhn("79927398710")
    (True, True, False)
    """
    return (sum(map(int, digits[-1::-2])) + sum(map(int, digits[-2::-2].translate(_DOUBLED)))) % 10 == 0


_DOUBLED = str.maketrans("0123456789", "0246813579")


def credit_card(digits: str) -> bool:
    """Luhn, with an issuer that uses this length. Thirteen-digit cards, no longer issued, are not cards here.

    >>> credit_card("378282246310005"), credit_card("5555555555554444"), credit_card("490154203237518")
    (True, True, False)
    """
    known = [size for first, last, size in _CARD_ISSUERS.get(len(digits), ()) if first <= digits[:size] <= last]
    return bool(known) and luhn(digits)


def iban(number: str) -> bool:
    """ISO 13616: the country's length and ISO 7064 MOD 97-10.

    >>> iban("DE89370400440532013000"), iban("GB82WEST12345698765432"), iban("DE88370400440532013000")
    (True, True, False)
    """
    if len(number) != IBAN_LENGTHS.get(number[:2]):
        return False
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97 == 1


def us_ssn(digits: str) -> bool:
    """Nine digits in ranges that were assigned; two numbers printed in advertisements are refused.

    >>> us_ssn("536904399"), us_ssn("000123456"), us_ssn("666123456"), us_ssn("078051120")
    (True, False, False, False)
    """
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    assigned = area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
    return len(digits) == 9 and assigned and digits not in ("078051120", "219099999")


def fr_ssn(number: str) -> bool:
    """NIR: 13 characters and the key 97 - (number mod 97); Corsica's 2A and 2B count as 19 and 18.

    >>> fr_ssn("184127645108946"), fr_ssn("2551499A0260142"), fr_ssn("184127645108947")
    (True, False, False)
    """
    if not _NIR.fullmatch(number):
        return False
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return 97 - int(body) % 97 == int(number[13:])


def tr_id(digits: str) -> bool:
    """TC kimlik no: two check digits over eleven digits, the first not 0.

    >>> tr_id("10000000146"), tr_id("10000000147"), tr_id("01000000146")
    (True, False, False)
    """
    if len(digits) != 11 or digits[0] == "0":
        return False
    d = [int(digit) for digit in digits]
    tenth = (7 * sum(d[0:9:2]) - sum(d[1:8:2])) % 10
    return d[9] == tenth and d[10] == sum(d[:10]) % 10


def de_id(number: str) -> bool:
    """German identity card: nine characters and a check digit, weights 7, 3, 1 (ICAO Doc 9303 part 3, 4.9).

    >>> de_id("T220001293"), de_id("L01X00T471"), de_id("T220001294")
    (True, True, False)
    """
    return len(number) == 10 and sum(int(c, 36) * (7, 3, 1)[i % 3] for i, c in enumerate(number[:9])) % 10 == int(
        number[9]
    )


def es_dni(number: str) -> bool:
    """DNI or NIE: the letter is the number mod 23 in a fixed alphabet; X, Y, Z count as 0, 1, 2.

    >>> es_dni("12345678Z"), es_dni("X1234567L"), es_dni("12345678A")
    (True, True, False)
    """
    body = number[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return len(body) == 8 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23] == number[-1]


def nl_bsn(digits: str) -> bool:
    """Burgerservicenummer: the 11-test with weights 9 to 2 and -1.

    >>> nl_bsn("111222333"), nl_bsn("123456782"), nl_bsn("123456789")
    (True, True, False)
    """
    if len(digits) != 9 or digits == "000000000":
        return False
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % 11 == 0


def br_cpf(digits: str) -> bool:
    """CPF: two check digits, modulo 11; eleven equal digits are refused.

    >>> br_cpf("52998224725"), br_cpf("11144477735"), br_cpf("11111111111")
    (True, True, False)
    """
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(int(digit) * (length + 1 - i) for i, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != int(digits[length]):
            return False
    return True


_D5_TIMES = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_D5_PERMUTATION = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def verhoeff(digits: str) -> bool:
    """J. Verhoeff, Error detecting decimal codes (1969): products in the dihedral group of order ten.

    >>> verhoeff("2363"), verhoeff("2364")
    (True, False)
    """
    check = 0
    for position, digit in enumerate(reversed(digits)):
        check = int(_D5_TIMES[check][int(_D5_PERMUTATION[position % 8][int(digit)])])
    return check == 0


def in_aadhaar(digits: str) -> bool:
    """Aadhaar (UIDAI): twelve digits, the first neither 0 nor 1, the last a Verhoeff check digit; no palindromes.

    >>> in_aadhaar("234123412346"), in_aadhaar("234123412347"), in_aadhaar("123412341234")
    (True, False, False)
    """
    return len(digits) == 12 and digits[0] not in "01" and digits != digits[::-1] and verhoeff(digits)


def pl_pesel(digits: str) -> bool:
    """PESEL: a date of birth, whose month also tells the century, and a check digit with weights 1, 3, 7, 9.

    >>> pl_pesel("44051401359"), pl_pesel("44051401358"), pl_pesel("44134501359")
    (True, False, False)
    """
    if len(digits) != 11:
        return False
    month, day = int(digits[2:4]) % 20, int(digits[4:6])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return False
    return sum(int(digit) * (1, 3, 7, 9)[i % 4] for i, digit in enumerate(digits[:10])) % 10 == -int(digits[10]) % 10


def de_tax_id(digits: str) -> bool:
    """Steuerliche Identifikationsnummer: ISO 7064 MOD 11,10; one or two digits repeat among the first ten.

    >>> de_tax_id("36574261809"), de_tax_id("36574261890"), de_tax_id("11111111111")
    (True, False, False)
    """
    if len(digits) != 11 or digits[0] == "0" or len(set(digits[:10])) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


_ODD_VALUES = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21,
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23,
), strict=True))  # fmt: skip


def it_fiscal_code(number: str) -> bool:
    """Codice fiscale (DM 12 March 1974): the last letter is a sum over the fifteen characters before it, modulo 26.

    >>> it_fiscal_code("RSSMRA85T10A562S"), it_fiscal_code("RSSMRA85T10A562T")
    (True, False)
    """
    odd = sum(_ODD_VALUES[char] for char in number[:15:2])
    even = sum(int(char) if char.isdigit() else ord(char) - ord("A") for char in number[1:15:2])
    return len(number) == 16 and (odd + even) % 26 == ord(number[15]) - ord("A")
