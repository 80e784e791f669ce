"""tools/no_skips.py keeps a test suite from passing by not running."""

import pytest

import no_skips

CASE = '<testcase classname="a" name="b">{}</testcase>'
SKIPPED = CASE.format('<skipped message="no torch"/>')


@pytest.mark.parametrize(
    ("cases", "expected"),
    [(CASE.format(""), []), (CASE.format("") + SKIPPED, ["a.b was skipped: no torch"]), ("", ["no test was run"])],
)
def test_skips_and_empty_runs_are_found(tmp_path, cases, expected):
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", encoding="utf-8")
    assert no_skips.problems(report) == expected
