"""Files that are not sent because an equal one is here, and what nobody gets who does not have them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import random

import pytest
import structlog.testing

from tests.wire.direct import DirectClient, store_on_double
from tests.wire.direct.test_direct import opened_store
from tests.wire.identity import ALICE, BOB, EVE, guarded, upload_token
from tests.wire.rig import MIB, running
from tests.wire.test_dedup import all_digested, objects
from tests.wire.test_downloads import replace_object, row_of
from tests.wire.test_events import following
from tests.wire.test_files_api import FILES, ask, uploaded
from tests.wire.test_tenants import PNG, PROGRAM, believing, of
from tusgate.core.access import Permission
from tusgate.core.dedup import Dedup
from tusgate.core.errors import DatabaseUnavailable, StoreUnavailable
from tusgate.core.events import USUAL_TYPES
from tusgate.core.hooks import Answer, Moment, Reply
from tusgate.core.model import Keeping, Scope, UploadId
from tusgate.core.possession import BLOCK, STRETCHES, WHOLE, WINDOW, ChallengeKeys
from tusgate.core.quota import Quota
from tusgate.core.tenant import Tenant
from tusgate.service.digests import KEPT_FOR
from tusgate.service.feed import FeedRules
from tusgate.service.hooks import Asked, Hooks
from tusgate.service.instant import InstantRules
from tusgate.service.tenants import Tenants

INSTANT = "/api/v1/uploads/instant"
SHARING = Keeping(dedup=Dedup(usual=True))
RULES = InstantRules(ChallengeKeys(["k" * 32]), Dedup(usual=True), SHARING)
SMALL, LARGE = b"hello", random.Random(4).randbytes(WHOLE + MIB + 123)
NOT_POSSESSED = (403, "not_possessed")


@pytest.fixture
async def rig(tmp_path):
    async with running(tmp_path, keeping=SHARING, instant=RULES, listening=FeedRules()) as rig:
        yield rig


async def challenge_for(client, data, who=(), **changes):
    """Return a challenge about `data`."""
    wish = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), **changes}
    status, given = await ask(client, "POST", f"{INSTANT}/challenge", wish, **dict(who))
    assert status == 200, given
    return given


def answer_to(given, data):
    """Return what proves that one has `data`."""
    known = b"".join(data[each["start"] : each["start"] + each["size"]] for each in given["ranges"])
    return hmac.digest(bytes.fromhex(given["nonce"]), known, "sha256").hex()


async def proved(client, data, given, who=(), knows=None, **more):
    """Answer a challenge about `data`, knowing `knows`; return status and answer."""
    wanted = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "challenge": given["challenge"]}
    wanted |= {"answer": answer_to(given, data if knows is None else knows), **more}
    return await ask(client, "POST", INSTANT, wanted, **dict(who))


async def instantly(client, data, who=(), **more):
    """Return status and answer of an instant upload."""
    return await proved(client, data, await challenge_for(client, data, who), who, **more)


async def known(rig, data=SMALL, **more):
    """Upload a file, and have it digested; return its path."""
    file = await uploaded(rig.client, data, **more)
    await all_digested(rig)
    return file


def path_of(shown):
    return f"{FILES}/{shown['id']}"


async def content(rig, shown):
    return (await rig.client.request("GET", f"{path_of(shown)}/content")).body


@pytest.mark.parametrize("data", [SMALL, LARGE[: 6 * MIB], LARGE], ids=["small", "known whole", "sampled"])
@pytest.mark.parametrize("name", ["directory", "aws", pytest.param("minio", marks=pytest.mark.servers)])
async def test_a_known_file_is_complete_without_a_byte_of_it(request, tmp_path, name, data):
    async def check(rig):
        first = await known(rig, data)
        more = {"filename": "mine.bin", "content_type": "text/x-mine", "metadata": {"a": "b"}}
        status, shown = await instantly(rig.client, data, **more)
        assert status == 201, shown
        assert (shown["state"], shown["size"], shown["offset"]) == ("complete", len(data), len(data))
        assert (shown["filename"], shown["content_type"], shown["metadata"]) == ("mine.bin", "text/x-mine", {"a": "b"})
        assert (shown["created_via"], shown["sha256"]) == ("direct", hashlib.sha256(data).hexdigest())
        assert await content(rig, shown) == data
        rows = [await row_of(rig, each) for each in (first, path_of(shown))]
        assert rows[0].object_key == rows[1].object_key
        assert (await ask(rig.client, "DELETE", first))[0] == 204
        assert await objects(rig) == {rows[0].object_key}
        assert await content(rig, shown) == data
        assert (await ask(rig.client, "DELETE", path_of(shown)))[0] == 204
        assert await objects(rig) == set()

    if name == "directory":
        async with running(tmp_path, keeping=SHARING, instant=RULES) as rig:
            await check(rig)
    else:
        async with (
            opened_store(request, name) as store,
            running(tmp_path, store=store, keeping=SHARING, instant=RULES) as rig,
        ):
            await check(rig)


async def test_an_unknown_file_gets_a_challenge_and_a_refusal_as_a_wrong_answer_does(rig):
    """Nobody is told whether a file is here that they do not have."""
    await known(rig, LARGE)
    unknown = LARGE[:-1] + b"?"
    given, of_unknown = await challenge_for(rig.client, LARGE), await challenge_for(rig.client, unknown)
    assert given.keys() == of_unknown.keys()
    wrong, refused = await proved(rig.client, LARGE, given, knows=unknown[::-1]), await instantly(rig.client, unknown)
    assert (wrong[0], wrong[1]["code"]) == NOT_POSSESSED
    assert wrong == refused
    assert await rig.count() == 1


async def test_one_altered_byte_in_what_is_asked_for_is_refused(rig):
    """All of these are asked for, and nothing else of the file would help."""
    await known(rig, LARGE)
    given = await challenge_for(rig.client, LARGE)
    assert sum(each["size"] for each in given["ranges"]) <= STRETCHES * BLOCK
    for each in random.Random(2).sample(given["ranges"], 3):
        altered = bytearray(LARGE)
        altered[each["start"] + random.Random(3).randrange(each["size"])] ^= 1
        assert (await proved(rig.client, LARGE, given, knows=bytes(altered)))[0] == 403
    blanked = bytearray(len(LARGE))
    for each in given["ranges"]:
        part = slice(each["start"], each["start"] + each["size"])
        blanked[part] = LARGE[part]
    assert (await proved(rig.client, LARGE, given, knows=bytes(blanked)))[0] == 201


async def test_who_lacks_a_tenth_is_refused_in_every_window(rig):
    await known(rig, LARGE)
    lacking = bytearray(LARGE)
    for start in range(0, len(LARGE), 10 * BLOCK):
        lacking[start] ^= 1
    for _ in range(5):
        assert (await instantly(rig.client, LARGE, knows=bytes(lacking)))[0] == 403
        rig.clock.now += WINDOW
    assert await rig.count() == 1


async def test_what_was_sent_tells_the_events_that_an_instant_file_tells(tmp_path, http):
    """And is shown alike, and counts alike (I14)."""
    async with (
        store_on_double() as store,
        running(tmp_path, store=store, keeping=SHARING, instant=RULES, listening=FeedRules()) as rig,
    ):
        more = {"filename": "a.txt", "content_type": "text/plain", "metadata": {"project": "7"}}
        direct, digest = DirectClient(rig.client, http), hashlib.sha256(SMALL).hexdigest()
        sent, urls = await direct.begin(len(SMALL), fingerprint=f"sha256:{digest}", **more)
        await direct.put(urls[0], SMALL)
        assert (await direct.complete(sent))[0] == 200
        await all_digested(rig)
        usages = [await usage(rig)]
        status, instant = await instantly(rig.client, SMALL, **more)
        assert status == 201
        usages.append(await usage(rig))
        [first, second] = [await ask(rig.client, "GET", f"{FILES}/{each}") for each in (sent, instant["id"])]
        own = ("id", "links", "created_at", "updated_at", "completed_at")
        assert {**second[1], **{name: first[1][name] for name in own}} == first[1]
        told = [
            [
                each
                for each in await rig.database.events.of_upload(Scope(), UploadId(upload_id), 0, 100)
                if each.type in USUAL_TYPES
            ]
            for upload_id in (sent, instant["id"])
        ]
        assert [each.type for each in told[0]] == [each.type for each in told[1]]
        assert [fact(each) for each in told[0]] == [fact(each) for each in told[1]]
        assert usages[1] == {name: (2 * value[0], value[1]) for name, value in usages[0].items()}


def fact(event):
    """Return what an event says beside ids and times."""
    upload = event.upload
    return (
        *(upload.state, upload.length, upload.offset, upload.filename, upload.content_type, upload.metadata),
        *(upload.fingerprint, upload.created_via, upload.sha256, upload.withheld, upload.etag is None),
    )


async def usage(rig):
    status, shown = await ask(rig.client, "GET", "/api/v1/usage")
    assert status == 200
    return {name: (shown[name]["used"], shown[name]["limit"]) for name in ("bytes", "files", "unfinished")}


async def test_a_challenge_makes_one_file_however_often_it_is_answered(rig):
    """A client that has missed the answer asks again; also at once, and with the file ended it is gone."""
    await known(rig)
    given = await challenge_for(rig.client, SMALL)
    answers = await asyncio.gather(*[proved(rig.client, SMALL, given) for _ in range(5)])
    assert sorted(status for status, _ in answers) == [200, 200, 200, 200, 201]
    [made] = {shown["id"] for _, shown in answers}
    assert await rig.count() == 2
    assert (await proved(rig.client, SMALL, given))[1]["id"] == made
    assert (await ask(rig.client, "DELETE", f"{FILES}/{made}"))[0] == 204
    assert (await proved(rig.client, SMALL, given))[0] == 410
    assert (await instantly(rig.client, SMALL))[0] == 201


async def test_a_lost_answer_of_the_database_is_no_second_file(rig, monkeypatch):
    await known(rig)
    given, create = await challenge_for(rig.client, SMALL), rig.database.create_equal

    async def and_die(*arguments):
        await create(*arguments)
        raise DatabaseUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(rig.database, "create_equal", and_die)
        assert (await proved(rig.client, SMALL, given))[0] == 503
    assert (await proved(rig.client, SMALL, given))[0] == 200
    assert await rig.count() == 2


async def test_a_challenge_ends(rig):
    await known(rig)
    given = await challenge_for(rig.client, SMALL)
    rig.clock.now += 2 * WINDOW
    status, refused = await proved(rig.client, SMALL, given)
    assert (status, refused["code"], refused["field"]) == (400, "invalid_request", "challenge")


@pytest.mark.parametrize("made_up", ["", "x", "1900000000." + "0" * 24 + "." + "0" * 64, "9" * 256])
async def test_nobody_makes_a_challenge_up(rig, made_up):
    await known(rig)
    given = await challenge_for(rig.client, SMALL)
    status, refused = await proved(rig.client, SMALL, {**given, "challenge": made_up})
    assert (status, refused["field"]) == (400, "challenge")


async def test_a_challenge_is_about_one_file(rig):
    await known(rig)
    await known(rig, b"HELLO")
    given = await challenge_for(rig.client, b"HELLO")
    assert (await proved(rig.client, SMALL, given))[0] == 400
    longer = await challenge_for(rig.client, SMALL, size=6)
    assert (await proved(rig.client, SMALL, longer))[0] == 400
    assert (await proved(rig.client, SMALL, longer, size=6))[0] == 403


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"size": 0},
        {"size": "5"},
        {"answer": "0" * 63},
        {"challenge": "x" * 257},
        {"filename": "a/b"},
        {"unknown": 1},
    ],
    ids=str,
)
async def test_what_is_malformed_is_named(rig, wrong):
    status, refused = await proved(rig.client, SMALL, await challenge_for(rig.client, SMALL), **wrong)
    assert (status, refused["field"]) == (400, next(iter(wrong)))


async def test_a_size_that_no_file_has_is_no_trouble(rig):
    largest = (1 << 63) - 1
    given = await challenge_for(rig.client, SMALL, size=largest)
    assert sum(each["size"] for each in given["ranges"]) == STRETCHES * BLOCK
    assert (await proved(rig.client, SMALL, given, size=largest))[0] in (403, 413)
    wish = {"sha256": "0" * 64, "size": largest + 1}
    assert (await ask(rig.client, "POST", f"{INSTANT}/challenge", wish))[0] == 400


async def test_other_owners_of_the_tenant_share_and_other_tenants_know_nothing(tmp_path):
    """AT-13, I13; and nobody answers the challenge of somebody else, though they have the file."""
    async with guarded(tmp_path, keeping=SHARING, instant=RULES) as here:
        who = {scope: list((await here.who(scope)).items()) for scope in (ALICE, BOB, EVE)}
        client = here.client
        path = await here.create(dict(who[ALICE]), len(SMALL))
        assert (await client.patch(path, 0, SMALL, more=dict(who[ALICE]))).status == 204
        await all_digested(here.rig)
        given = await challenge_for(client, SMALL, who[BOB])
        for other in (ALICE, EVE):
            assert (await proved(client, SMALL, given, who[other]))[0] == 400
        status, shown = await proved(client, SMALL, given, who[BOB])
        assert (status, shown["owner"]) == (201, "bob")
        status, refused = await instantly(client, SMALL, who[EVE])
        assert (status, refused["code"]) == NOT_POSSESSED
        for other in (ALICE, EVE):
            assert (await ask(client, "GET", path_of(shown), **dict(who[other])))[0] == 404
        reader = list((await here.who(BOB, frozenset({Permission.READ, Permission.APPEND}))).items())
        wish = {"sha256": "0" * 64, "size": 1}
        assert (await ask(client, "POST", f"{INSTANT}/challenge", wish, **dict(reader)))[0] == 403
        assert (await proved(client, SMALL, given, reader))[1]["code"] == "permission_missing"
        assert (await ask(client, "POST", f"{INSTANT}/challenge", wish))[0] == 401


async def test_an_upload_token_binds_an_instant_file_too(tmp_path):
    async with guarded(tmp_path, keeping=SHARING, instant=RULES) as here:
        alice = await here.who(ALICE)
        path = await here.create(alice, len(SMALL))
        await here.client.patch(path, 0, SMALL, more=alice)
        await all_digested(here.rig)
        narrow = list(upload_token(max_size=4).items())
        assert (await instantly(here.client, SMALL, narrow))[0] == 413
        typed = list(upload_token(types=["image/*"]).items())
        assert (await instantly(here.client, SMALL, typed, content_type="text/plain"))[1]["code"] == "not_covered"
        once = list(upload_token(jti="once").items())
        assert (await instantly(here.client, SMALL, once))[0] == 201
        assert (await instantly(here.client, SMALL, once))[1]["code"] == "token_spent"


class TestWhereThereAreLimits:
    @pytest.fixture
    async def gateway(self, start):
        async def begin(data, content_type="text/plain", **limits):
            tenants = Tenants([Tenant(name="acme", **limits), Tenant(name="other")])
            rig = await start(tenants=tenants, identity=believing, keeping=SHARING, instant=RULES)
            encoded = {"text/plain": "dGV4dC9wbGFpbg==", "image/png": "aW1hZ2UvcG5n"}[content_type]
            path = await rig.client.create(len(data), Upload_Metadata=f"filetype {encoded}", **of("acme"))
            assert (await rig.client.patch(path, 0, data, more=of("acme"))).status == 204
            await all_digested(rig)
            return rig

        return begin

    @pytest.mark.parametrize(
        ("limits", "told"),
        [
            ({"quota": Quota(bytes=9)}, (413, "quota_exceeded")),
            ({"quota": Quota(files=1)}, (413, "quota_exceeded")),
            ({"types": ("text/*",)}, (415, "type_not_allowed")),
        ],
        ids=str,
    )
    async def test_an_instant_file_keeps_them(self, gateway, limits, told):
        rig = await gateway(SMALL, **limits)
        more = {"content_type": "image/png"} if "types" in limits else {"content_type": "text/plain"}
        status, refused = await instantly(rig.client, SMALL, of("acme").items(), **more)
        assert (status, refused["code"]) == told
        assert await rig.count() == 1

    async def test_challenges_count_as_requests(self, start):
        tenants = Tenants([Tenant(name="acme", request_rate=0.01)])
        rig = await start(tenants=tenants, identity=believing, keeping=SHARING, instant=RULES)
        wish = {"sha256": "0" * 64, "size": 1}
        statuses = [(await ask(rig.client, "POST", f"{INSTANT}/challenge", wish, **of("acme")))[0] for _ in range(2)]
        assert statuses == [200, 503]

    async def test_content_is_looked_at_for_its_new_type(self, gateway):
        rig = await gateway(PNG, "image/png", checks_content=True)
        status, refused = await instantly(rig.client, PNG, of("acme").items(), content_type="text/plain")
        assert (status, refused["code"]) == (415, "content_mismatch")
        assert (await instantly(rig.client, PNG, of("acme").items(), content_type="image/png"))[0] == 201
        assert (await instantly(rig.client, PROGRAM, of("acme").items(), content_type="image/png"))[0] == 403


class Asking:
    """A hook that keeps what it was asked, and says what it is told to."""

    name = "asking"

    def __init__(self):
        self.questions, self.answers = [], {}

    async def ask(self, question):
        self.questions.append(question)
        return self.answers.get(question.moment, Answer())

    async def close(self):
        """There is nothing to release."""


async def test_hooks_are_asked_what_they_are_asked_of_a_sent_file(tmp_path):
    """First for its creation, then for its end, with all bytes; a refusal leaves nothing."""
    hook = Asking()
    hooks = Hooks([Asked(hook=hook, moments=frozenset({Moment.CREATE, Moment.FINISH}))])
    async with running(tmp_path, keeping=SHARING, instant=RULES, hooks=hooks) as rig:
        await known(rig, metadata="filename YS50eHQ=")
        hook.answers[Moment.CREATE] = Answer(metadata={"filename": "named by the hook"})
        status, shown = await instantly(rig.client, SMALL, filename="b.txt")
        assert (status, shown["filename"]) == (201, "named by the hook")
        sent, instant = hook.questions[:2], hook.questions[2:]
        assert [each.moment for each in sent] == [each.moment for each in instant]
        for one, other in zip(sent, instant, strict=True):
            names = ("length", "offset", "state")
            assert [getattr(one.upload, name, None) for name in names] == [
                getattr(other.upload, name, None) for name in names
            ]
        assert instant[1].upload.id == shown["id"]
        for moment in (Moment.CREATE, Moment.FINISH):
            hook.answers = {moment: Answer(refused=True, reply=Reply(status=418))}
            status, _ = await instantly(rig.client, SMALL)
            assert status == 418
        assert await rig.count() == 2
        hook.questions.clear()
        assert (await instantly(rig.client, b"HELLO"))[0] == 403
        assert hook.questions == []


async def test_who_listens_does_not_learn_whose_object_the_file_shares(tmp_path):
    """I13: its key is the id of somebody else's upload, as a rule, and may have their name in it."""
    async with guarded(tmp_path, keeping=SHARING, instant=RULES, listening=FeedRules()) as here:
        alice, bob = [list((await here.who(scope)).items()) for scope in (ALICE, BOB)]
        path = await here.create(dict(alice), len(SMALL))
        assert (await here.client.patch(path, 0, SMALL, more=dict(alice))).status == 204
        await all_digested(here.rig)
        status, shown = await instantly(here.client, SMALL, bob)
        assert status == 201
        async with following(here.rig, f"/api/v1/uploads/{shown['id']}/events", dict(bob)) as stream:
            heard = await stream.some(2)
        assert [each.type for each in heard] == ["upload.created", "upload.completed"]
        assert path.rsplit("/", 1)[1] not in json.dumps([each.data for each in heard])


@pytest.mark.parametrize("harm", ["gone", "replaced"])
async def test_a_file_that_is_not_as_it_was_verified_is_shared_with_nobody(rig, harm):
    broken = await known(rig)
    if harm == "gone":
        await rig.store.delete_objects([(await row_of(rig, broken)).object_key])
    else:
        await replace_object(rig, broken, b"HELLO")
    with structlog.testing.capture_logs() as logs:
        status, refused = await instantly(rig.client, SMALL)
    assert (status, refused["code"]) == NOT_POSSESSED
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["dedup.object_lost"]


async def test_a_store_that_is_away_is_no_refusal(rig, monkeypatch):
    await known(rig)
    given = await challenge_for(rig.client, SMALL)

    def away(*_arguments, **_named):
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "read", away)
        assert (await proved(rig.client, SMALL, given))[0] == 503
    assert (await proved(rig.client, SMALL, given))[0] == 201


async def test_a_file_that_is_deleted_while_an_answer_is_checked_is_replaced_by_another_equal_one(rig, monkeypatch):
    """Or is missing, when it was the last one."""
    first = await known(rig)
    rig.clock.now += 1
    assert (await instantly(rig.client, SMALL))[0] == 201
    doomed, find = [path_of((await instantly(rig.client, SMALL))[1])], rig.store.find

    async def deleting(*arguments):
        found = await find(*arguments)
        while doomed:
            await ask(rig.client, "DELETE", doomed.pop())
        return found

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "find", deleting)
        assert (await instantly(rig.client, SMALL))[0] == 201
        _, page = await ask(rig.client, "GET", f"{FILES}?state=complete")
        doomed += [path_of(each) for each in page["files"]]
        assert first in doomed
        status, refused = await instantly(rig.client, SMALL)
    assert (status, refused["code"]) == NOT_POSSESSED
    rig.clock.now += KEPT_FOR + 1
    assert await objects(rig) == set()


async def test_twenty_instant_files_beside_deletions_lose_no_object(rig):
    """CC-10: whatever is complete in the end can be read."""
    await known(rig)
    files = [path_of((await instantly(rig.client, SMALL))[1]) for _ in range(5)]
    chance, made = random.Random(6), []

    async def begin():
        status, shown = await instantly(rig.client, SMALL)
        assert status == 201 or (status, shown["code"]) == NOT_POSSESSED
        made.extend([path_of(shown)] if status == 201 else [])

    async def end(file):
        await asyncio.sleep(chance.random() / 50)
        assert (await ask(rig.client, "DELETE", file))[0] == 204

    await asyncio.gather(*[begin() for _ in range(20)], *[end(file) for file in files])
    await asyncio.gather(*[end(file) for file in itertools.islice(made, len(made) // 2)])
    rig.clock.now += KEPT_FOR + 1
    left = await objects(rig)
    for file in made[len(made) // 2 :]:
        assert (await rig.client.request("GET", f"{file}/content")).body == SMALL
        assert (await row_of(rig, file)).object_key in left


async def test_it_is_off_unless_it_was_wanted(tmp_path):
    for rules in (None, InstantRules(RULES.keys, Dedup(tenants={"acme": True}), SHARING)):
        async with running(tmp_path, keeping=SHARING, instant=rules) as rig:
            wish = {"sha256": hashlib.sha256(SMALL).hexdigest(), "size": 5}
            status, refused = await ask(rig.client, "POST", f"{INSTANT}/challenge", wish)
            assert (status, refused["code"]) == (501, "instant_off")
            status, refused = await ask(rig.client, "POST", INSTANT, {**wish, "challenge": "", "answer": "0" * 64})
            assert (status, refused["code"]) == (501, "instant_off")


async def test_an_instant_file_is_found_by_its_digest_and_has_no_parts(rig):
    await known(rig)
    _, shown = await instantly(rig.client, SMALL)
    digest = hashlib.sha256(SMALL).hexdigest()
    status, found = await ask(rig.client, "GET", f"/api/v1/fingerprints/sha256/{digest}")
    assert (status, found["file"]["id"], found["is_finished"]) == (200, shown["id"], True)
    own = f"/api/v1/uploads/{shown['id']}"
    assert (await ask(rig.client, "GET", f"{own}/parts"))[1]["parts"] == []
    assert (await ask(rig.client, "GET", own))[1]["state"] == "complete"
    assert (await ask(rig.client, "POST", f"{own}/complete", {}))[0] == 200


async def test_a_form_of_a_page_cannot_ask_for_a_challenge(rig):
    answer = await rig.client.request("POST", f"{INSTANT}/challenge", {"Content-Type": "text/plain"}, b"{}")
    assert answer.status == 415
