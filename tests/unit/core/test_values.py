"""Ids, checksums, values and errors."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from datetime import UTC, datetime
from typing import Any

import pytest

import tusgate.core.errors as errors
import tusgate.core.model as model
from tests.unit.core.uploads import a_new_upload, an_upload
from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.direct import Fault, Wrong
from tusgate.core.hooks import Reply
from tusgate.core.model import UPLOAD_ID, ObjectKey, Part, Piece

ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, errors.TusgateError) and error is not errors.TusgateError
]


@pytest.mark.parametrize("text", ["a" * 22, "A-_z09" * 8, "x" * 64])
def test_an_id_is_url_safe_and_long_enough_not_to_be_guessed(text: str) -> None:
    assert UPLOAD_ID.fullmatch(text)


@pytest.mark.parametrize("text", ["", "a" * 21, "a" * 65, "../" * 8, "a" * 22 + "\n", "ä" * 22, "a/b" * 10, "٣" * 22])
def test_anything_else_is_no_id(text: str) -> None:
    assert not UPLOAD_ID.fullmatch(text)


def test_a_new_upload_looks_like_one_with_nothing_stored() -> None:
    new = a_new_upload()
    assert (new.offset, new.put_attempts, new.multipart_id) == (0, 0, None)


def test_a_piece_ends_where_the_next_one_begins() -> None:
    assert Piece(10, 5, 0, ObjectKey("k")).end == 15


@pytest.mark.parametrize(
    "value", [an_upload(), a_new_upload(), Part(1, 0, 1, "e", 0), Checksum("sha1", b"")], ids=lambda v: type(v).__name__
)
def test_values_cannot_be_changed(value: object) -> None:
    assert dataclasses.is_dataclass(value)
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_every_value_of_the_model_is_frozen() -> None:
    classes = [found for _, found in inspect.getmembers(model, inspect.isclass) if dataclasses.is_dataclass(found)]
    assert len(classes) >= 9
    assert all(found.__dataclass_params__.frozen for found in classes)  # type: ignore[attr-defined]  # not in typeshed


def test_sha1_which_the_protocol_demands_is_the_first_algorithm_offered() -> None:
    assert next(iter(DIGEST_SIZES)) == "sha1"


@pytest.mark.parametrize("name", ["sha1", "md5", "sha256", "sha512"])
def test_digest_sizes_are_those_of_the_algorithms(name: str) -> None:
    assert DIGEST_SIZES[name] == hashlib.new(name, usedforsecurity=False).digest_size


def made(error: type[errors.TusgateError]) -> errors.TusgateError:
    values: dict[str, Any] = {
        "str": "text",
        "str | None": "text",
        "int": 3,
        "float | None": 1.5,
        "tuple[str, ...]": ("GET",),
        "Sequence[Fault]": [Fault(1, Wrong.MISSING)],
        "Reply": Reply(403),
        "datetime": datetime(2027, 1, 1, tzinfo=UTC),
    }
    parameters = list(inspect.signature(error).parameters.values())
    given = [each for each in parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    return error(*[values[str(parameter.annotation)] for parameter in given])


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_says_what_is_wrong_and_has_a_code(error: type[errors.TusgateError]) -> None:
    raised = made(error)
    assert str(raised)
    assert raised.upload is None
    assert error.code != "internal"


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in ERRORS]
    assert len(set(codes)) == len(codes)


def test_the_tree_of_errors_in_the_documentation_is_the_one_in_force() -> None:
    tree = (errors.__doc__ or "").splitlines()
    told = {words[1]: line.index("─") for line in tree if "─" in line for words in [line.replace("│", " ").split()]}
    assert set(told) == {error.__name__ for error in ERRORS}
    for error in ERRORS:
        depth = told[error.__name__] - min(told.values())
        assert len(error.__mro__) - len(errors.TusgateError.__mro__) - 1 == depth // 4


def test_an_error_without_a_message_says_what_its_class_is_about() -> None:
    assert str(errors.Fenced()) == "Another request has taken over this upload."
    assert str(errors.Fenced("so")) == "so"
    assert str(errors.UploadGone("expired")) == "the upload is expired"
    assert str(errors.UnsupportedMethod("PUT", ("GET", "HEAD"))) == "method PUT: expected one of GET, HEAD"


def test_the_root_of_the_errors_has_a_message_too() -> None:
    assert str(errors.TusgateError()).startswith("Root of the tree")
