"""Numbers as a reader writes them, where there is no mathematics but plain text."""

from __future__ import annotations

import re

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def typeset(text: str) -> str:
    """Powers of ten and gamma as a reader writes them."""

    def power(found: re.Match[str]) -> str:
        digits, exponent = found[1], found[2].replace("+", "").translate(RAISED)
        exponent = re.sub("(⁻?)⁰+(?=.)", r"\1", exponent)
        if exponent == "⁰":
            return digits
        return f"10{exponent}" if digits == "1" else f"{digits}·10{exponent}"

    text = re.sub(r"(?<![\w.])(\d(?:\.\d+)?)e([-+]?\d+)\b", power, text)
    return re.sub(r"\bgamma\b", "γ", text)
