"""Checks that numbers carry in themselves."""

from collections.abc import Callable


def luhn(value: str) -> bool:
    """Of payment cards and many national numbers."""
    digits = [int(each) for each in value if each.isdecimal()]
    if len(digits) < 2:
        return False
    doubled = [
        each if place % 2 == 0 else each * 2 - 9 * (each > 4) for place, each in enumerate(reversed(digits))
    ]
    return sum(doubled) % 10 == 0


def mod_97(value: str) -> bool:
    """ISO 7064 MOD 97-10, of IBANs and LEIs: letters count 10 to 35, and the first four of an IBAN stand last."""
    plain = "".join(filter(str.isalnum, value)).upper()
    if len(plain) < 5 or not plain.isascii():
        return False
    moved = plain[4:] + plain[:4] if plain[:2].isalpha() and plain[2:4].isdecimal() else plain
    return int("".join(str(int(each, 36)) for each in moved)) % 97 == 1


def mod_11(value: str) -> bool:
    """ISO 7064 MOD 11-2 of ISNIs and ORCIDs; X stands for ten."""
    plain = [each for each in value.upper() if each.isdecimal() or each == "X"]
    if len(plain) < 2 or "X" in plain[:-1]:
        return False
    total = 0
    for each in plain[:-1]:
        total = (total + int(each)) * 2
    return (12 - total % 11) % 11 == (10 if plain[-1] == "X" else int(plain[-1]))


CHECKSUMS: dict[str, Callable[[str], bool]] = {"luhn": luhn, "mod_97": mod_97, "mod_11": mod_11}
