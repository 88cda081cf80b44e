"""Readings in the forms that their publishers left them in."""

import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tfds_builder.sources.clinical import parse_jsrt, parse_montgomery, parse_shenzhen
from tfds_builder.sources.layout import Clinical


@pytest.mark.parametrize(
    ("text", "sex", "age", "reading"),
    [
        ("male 45yrs\nnormal", "M", 45, "normal"),
        ("femal 32yrs\nbilateral PTB", "F", 32, "bilateral PTB"),
        ("female24yrs\nnormal", "F", 24, "normal"),
        ("male , 29yrs\n1.right PTB\n2.effusion", "M", 29, "1.right PTB 2.effusion"),
        ("male 16month\nnormal", "M", 16 / 12, "normal"),
        ("female 64days\nnormal", "F", 64 / 365.25, "normal"),
        ("female 26 weeks\nnormal", "F", 182 / 365.25, "normal"),
        ("male 42\nnormal", "M", 42, "normal"),
        ("Female, 28yrs.\r\n\tSTB\r\n", "F", 28, "STB"),
        ("male 42 mild scars", "M", 42, "mild scars"),
        ("male 3 days\n2 nodules", "M", 3 / 365.25, "2 nodules"),
        ("female\n2 nodules", "F", None, "2 nodules"),
        ("male 999yrs\nnormal", "M", None, "normal"),
        ("mass in the left lung", "", None, "mass in the left lung"),
        ("normal", "", None, "normal"),
        ("", "", None, ""),
    ],
)
def test_shenzhen(text, sex, age, reading):
    """Fault: an infant of 64 years, a woman read as a man, or text swallowed by the age."""
    clinical = parse_shenzhen(text, "normal")
    assert (clinical.sex, clinical.finding, clinical.reading) == (sex, "normal", reading)
    assert clinical.age_years == pytest.approx(age)


UNITS = {"": 1, "yrs": 1, "y": 1, " years": 1, "month": 12, "months": 12, "days": 365.25}
SEXES = {"male": "M", "m": "M", "female": "F", "femal": "F", "f": "F"}


@given(
    st.sampled_from(sorted(SEXES)),
    st.sampled_from([" ", "", ", ", " , ", "\t"]),
    st.integers(0, 120),
    st.sampled_from(sorted(UNITS)),
    st.lists(st.sampled_from(["old", "scars", "day", "in", "1.", "5", "RUL,"])).map(" ".join),
    st.sampled_from([str, str.upper, str.title]),
)
def test_shenzhen_in_any_combination(sex, between, number, unit, reading, case):
    """Fault: a form of one part breaks another part."""
    clinical = parse_shenzhen(f"{case(sex)}{between}{number}{case(unit)}\n{reading}\n", "abnormal")
    assert clinical.sex == SEXES[sex]
    assert clinical.age_years == pytest.approx(number / UNITS[unit])
    assert clinical.reading == reading


@given(st.text())
def test_no_text_stops_a_build(text):
    """Fault: one odd reading among eight hundred ends in a traceback."""
    for clinical in (
        parse_shenzhen(text, "normal"),
        parse_montgomery(text, "normal"),
        *parse_jsrt(f"JPCLN001.IMG{text}").values(),
    ):
        assert clinical.sex in ("F", "M", "")
        assert clinical.age_years is None or 0 <= clinical.age_years <= 130
        assert "\n" not in clinical.reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n",
            Clinical("F", 27.0, "normal", "normal"),
        ),
        (
            "Patient's Sex: M\r\nPatient's Age: 006M\r\nScar.\r\nNo\tchange.\r\n",
            Clinical("M", 0.5, "normal", "Scar. No change."),
        ),
        ("Patient's Sex: O\nPatient's Age: \nnormal", Clinical("", None, "normal", "normal")),
        ("normal", Clinical("", None, "normal", "normal")),
    ],
)
def test_montgomery(text, expected):
    """Fault: labels left in the reading, ages in months taken for years."""
    clinical = parse_montgomery(text, "normal")
    assert (clinical.sex, clinical.finding, clinical.reading) == (
        expected.sex,
        expected.finding,
        expected.reading,
    )
    assert clinical.age_years == pytest.approx(expected.age_years)


@pytest.mark.parametrize("text", ["\n" * 100_000, " " * 100_000, "\n \t" * 33_000])
def test_blanks_take_no_time(text):
    """Fault: minutes for an empty file, from a search that is quadratic in its lines."""
    start = time.perf_counter()
    parse_montgomery(text, "normal")
    parse_shenzhen(text, "normal")
    parse_jsrt(f"JPCLN001.IMG{text}")
    assert time.perf_counter() - start < 2


def test_jsrt():
    """Fault: a row that lacks its line break hides the next; sizes or places taken for ages."""
    nodules = (
        "JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer\r\n"
        "JPCLN002.IMG\t5\t?\t78\tfemale\t1614\t1090\tbenign\tl.upper lobe(S5)\thematoma"
        "JPCLN003.IMG\t4\t30\t?\tFemale\t1303\t447\tmalignant\tlung cancer\r\n\r\n"
        "JPCLN004.IMG\tunreadable\r\n"
    )
    assert parse_jsrt(nodules) == {
        "JPCLN001": Clinical("M", 53.0, "abnormal", "malignant l.upper lobe lung cancer"),
        "JPCLN002": Clinical("F", 78.0, "abnormal", "benign l.upper lobe(S5) hematoma"),
        "JPCLN003": Clinical("F", None, "abnormal", "malignant lung cancer"),
        "JPCLN004": Clinical("", None, "abnormal", "unreadable"),
    }
    assert parse_jsrt("JPCNN001.IMG\t53\tmale\tnon-nodule\n") == {
        "JPCNN001": Clinical("M", 53.0, "normal", "non-nodule")
    }
