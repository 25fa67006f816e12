"""`tusgate token` as an operator meets it: the secret on stdout, once; all else on stderr; and exit codes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_cli import run  # noqa: F401 # a fixture
from tusgate.core.access import USER

if TYPE_CHECKING:
    from tests.unit.test_cli import Run

pytestmark = pytest.mark.slow


def test_a_token_is_printed_alone_and_once(run: Run) -> None:  # noqa: F811
    made = run("token", "create", "--owner", "scanner")
    assert made.returncode == 0
    assert re.fullmatch(r"tusgate_[0-9a-f]{16}_[0-9a-f]{64}\n", made.stdout)
    token_id, secret = made.stdout.strip().split("_")[1:]
    assert token_id in made.stderr
    assert secret not in made.stderr
    listed = run("token", "list")
    assert token_id in listed.stdout
    assert secret not in listed.stdout + listed.stderr


def test_a_token_has_what_was_asked_for(run: Run) -> None:  # noqa: F811
    flags = ("--tenant", "acme", "--permissions", "create, append", "--expires", "90d", "--label", "third floor")
    made = json.loads(run("token", "create", "--owner", "a", "--json", *flags).stdout)
    assert (made["tenant"], made["owner"], made["label"]) == ("acme", "a", "third floor")
    assert made["permissions"] == ["append", "create"]
    plain = json.loads(run("token", "create", "--owner", "b", "--json").stdout)
    assert (plain["tenant"], plain["permissions"], plain["expires_at"]) == ("default", sorted(USER), None)
    listed = json.loads(run("token", "list", "--json").stdout)
    assert [entry["id"] for entry in listed] == [made["id"], plain["id"]]
    assert listed[0]["expires_at"] == made["expires_at"] is not None
    assert all("token" not in entry and "digest" not in entry for entry in listed)


def test_a_revoked_token_stays_in_the_list(run: Run) -> None:  # noqa: F811
    made = json.loads(run("token", "create", "--owner", "a", "--json").stdout)
    assert run("token", "revoke", made["id"]).returncode == 0
    assert run("token", "revoke", made["id"]).returncode == 0
    (listed,) = json.loads(run("token", "list", "--json").stdout)
    assert listed["revoked_at"] is not None


def test_wrong_usage_is_code_2_and_an_unknown_token_code_1(run: Run) -> None:  # noqa: F811
    for flags in (
        [],
        ["--owner", ""],
        ["--owner", "a", "--tenant", "a/b"],
        ["--owner", "a", "--permissions", "fly"],
        ["--owner", "a", "--expires", "soon"],
        ["--owner", "a", "--expires", "0s"],
    ):
        refused = run("token", "create", *flags)
        assert (refused.returncode, refused.stdout) == (2, ""), flags
    assert run("token", "list").stdout.count("\n") == 1
    unknown = run("token", "revoke", "0000000000000000")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "0000000000000000" in unknown.stderr
