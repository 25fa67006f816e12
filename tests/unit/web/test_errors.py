from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest

import tusgate.web
from tusgate.core import errors
from tusgate.core.hooks import Reply
from tusgate.web.errors import Problem, plain_text, problem_of, status_of

WEB = Path(tusgate.web.__file__).parent


def kinds_below(kind: type[errors.TusgateError]) -> list[type[errors.TusgateError]]:
    """Return the public errors: an adapter's own refinements of them have their parent's code and status."""
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [found for child in children for found in (child, *kinds_below(child))]


ARGUMENTS: dict[type[errors.TusgateError], tuple[object, ...]] = {
    errors.TooManyShares: (100,),
    errors.Retained: (datetime(2027, 1, 1, tzinfo=UTC),),
    errors.InvalidRequest: ("Upload-Offset", "a number"),
    errors.InconsistentLength: ("Upload-Length", "5"),
    errors.ChecksumUnsupported: ("Upload-Checksum", "sha1"),
    errors.UnsupportedMethod: ("GET", ("POST",)),
    errors.UploadGone: ("expired",),
    errors.OffsetMismatch: (5, 6),
    errors.HookRefused: ("app", Reply(403)),
    errors.PermissionMissing: (("append", "read"),),
    errors.PartsRefused: ((),),
}


@pytest.mark.parametrize("kind", kinds_below(errors.TusgateError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_its_own_or_of_its_family(kind):
    error = kind(*ARGUMENTS.get(kind, ()))
    assert 400 <= status_of(error) < 600
    assert (status_of(error) == 500) == isinstance(error, errors.SettingsError)


@pytest.mark.parametrize("kind", kinds_below(errors.TusgateError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own(kind):
    assert [other for other in kinds_below(errors.TusgateError) if other.code == kind.code] == [kind]


def test_statuses_stand_in_one_table_only():
    elsewhere = {
        (path.name, node.value)
        for path in WEB.glob("*.py")
        if path.name not in {"errors.py", "config.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and type(node.value) is int and 400 <= node.value < 600
    }
    assert elsewhere == set()


@pytest.mark.spec("Z-05")
def test_an_error_body_is_one_line_of_code_and_message():
    response = plain_text(problem_of(errors.InvalidRequest("Upload-Offset", "a\r\nnumber")), with_body=True)
    assert response.text == "invalid_request: Upload-Offset: expected a number\n"
    assert response.content_type == "text/plain"
    assert response.headers["Cache-Control"] == "no-store"


def test_an_error_answer_to_a_head_has_no_body():
    assert plain_text(Problem(404, "not_found", "x"), with_body=False).body is None


@pytest.mark.spec("SUM-03")
def test_460_has_the_reason_phrase_of_the_protocol():
    assert plain_text(problem_of(errors.ChecksumMismatch()), with_body=True).reason == "Checksum Mismatch"
