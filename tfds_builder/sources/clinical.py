"""Parses clinical readings as their publishers wrote them, including typing errors."""

import re

from tfds_builder.sources.layout import Clinical, Finding, Sex

# An age beyond this is a typing error.
MAX_AGE_YEARS = 130

_UNITS_PER_YEAR = {"y": 1, "m": 12, "w": 365.25 / 7, "d": 365.25}

# Only blanks within the line: \s would try each of many empty lines from every line before it.
_MONTGOMERY_SEX = re.compile(r"^[ \t]*Patient.?s Sex:[ \t]*(\w*).*$", re.IGNORECASE | re.MULTILINE)
_MONTGOMERY_AGE = re.compile(
    r"^[ \t]*Patient.?s Age:[ \t]*(\d*)([YMWD]?).*$", re.IGNORECASE | re.MULTILINE
)

# Units are spelt out, because a word that follows a bare age may begin with their letters.
_SHENZHEN = re.compile(
    r"""\s* (f(?:em[ae]?l?[ae]?)?|m(?:ale?)?) (?![a-z]) [ \t,.:;]*
    (?: (\d+(?:\.\d+)?) [ \t]*
        (?: (y|yo|yrs?|years?|mos?|mths?|months?|wks?|weeks?|days?|d) (?![a-z]) )? )?
    [\s,.:;]*""",
    re.IGNORECASE | re.VERBOSE,
)

_JSRT = re.compile(r"(JPC[LN]N\d{3})(?:\.IMG)?(.*?)(?=JPC[LN]N\d{3}|\Z)", re.DOTALL | re.IGNORECASE)
_JSRT_ROW = re.compile(
    r"(?:.*\s)?(\d+|\?)\s+(female|male)\b(?:\s+[\d?]+(?!\S))*\s*(.*)", re.DOTALL | re.IGNORECASE
)


def parse_montgomery(text: str, finding: Finding) -> Clinical:
    """Parses a reading of Montgomery County: `Patient's Sex: F`, `Patient's Age: 027Y`, text."""
    sex, age = _MONTGOMERY_SEX.search(text), _MONTGOMERY_AGE.search(text)
    reading = _MONTGOMERY_AGE.sub("", _MONTGOMERY_SEX.sub("", text))
    return Clinical(
        _sex(sex[1]) if sex else "",
        _age(age[1], age[2]) if age else None,
        finding,
        _one_line(reading),
    )


def parse_shenzhen(text: str, finding: Finding) -> Clinical:
    """Parses a reading of Shenzhen: sex and age (`femal 32yrs`, `male 16month`), then text.

    A number without a unit is an age in years.
    """
    start = _SHENZHEN.match(text)
    if not start:
        return Clinical(finding=finding, reading=_one_line(text))
    return Clinical(
        _sex(start[1]),
        _age(start[2] or "", start[3] or ""),
        finding,
        _one_line(text[start.end() :]),
    )


def parse_jsrt(text: str) -> dict[str, Clinical]:
    """Returns the readings in `CLNDAT_EN.txt` or `CNNDAT_EN.TXT` by the image's stem.

    A row has the image's name, for nodules their subtlety and size, then age, sex, for nodules
    their position in pixels, and text. Some rows lack their line break, and `?` stands for what is
    not known. Images `JPCLN…` show a nodule, `JPCNN…` do not.
    """
    readings = {}
    for name, row in _JSRT.findall(text):
        stem = name.upper()
        finding = jsrt_finding(stem)
        fields = _JSRT_ROW.fullmatch(row)
        if fields:
            age, sex, reading = fields.groups()
            readings[stem] = Clinical(_sex(sex), _age(age, "y"), finding, _one_line(reading))
        else:
            readings[stem] = Clinical(finding=finding, reading=_one_line(row))
    return readings


def jsrt_finding(stem: str) -> Finding:
    """Returns the finding by the name of a JSRT image: `JPCLN…` has a nodule, `JPCNN…` has none."""
    return "abnormal" if stem.upper().startswith("JPCLN") else "normal"


def _sex(word: str) -> Sex:
    match word[:1].upper():
        case "F":
            return "F"
        case "M":
            return "M"
    return ""


def _age(number: str, unit: str) -> float | None:
    try:
        age = float(number) / _UNITS_PER_YEAR[unit[:1].lower() or "y"]
    except ValueError:
        return None
    return age if age <= MAX_AGE_YEARS else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
