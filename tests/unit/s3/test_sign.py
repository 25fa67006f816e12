"""Signatures against the examples of the S3 API reference, and against botocore."""

from __future__ import annotations

import hashlib
import string
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from tusgate.s3.sign import UNSIGNED_PAYLOAD, Credentials, Signer, encode_path, encode_query

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
HOST = "examplebucket.s3.amazonaws.com"
DAY = datetime(2013, 5, 24, tzinfo=UTC)
EMPTY = hashlib.sha256(b"").hexdigest()
PUT_BODY = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "payload_hash", "signature"),
    [
        pytest.param(
            "GET",
            "/test.txt",
            {},
            {"range": "bytes=0-9"},
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            id="GET Object",
        ),
        pytest.param(
            "PUT",
            "/test$file.text",
            {},
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            PUT_BODY,
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            id="PUT Object",
        ),
        pytest.param(
            "GET",
            "/",
            {"lifecycle": ""},
            {},
            EMPTY,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            id="GET Bucket Lifecycle",
        ),
        pytest.param(
            "GET",
            "/",
            {"max-keys": "2", "prefix": "J"},
            {},
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            id="GET Bucket (List Objects)",
        ),
    ],
)
def test_the_examples_of_the_s3_reference_get_their_signatures(
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
    payload_hash: str,
    signature: str,
) -> None:
    signer = Signer(Credentials(ACCESS_KEY, SECRET_KEY), "us-east-1")

    signed = signer.sign(method, encode_path(path), encode_query(query), {"host": HOST, **headers}, DAY, payload_hash)

    assert signed["authorization"].endswith(f"Signature={signature}")
    assert signed["authorization"].startswith(
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request, SignedHeaders="
    )


names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=10)
values = st.text(string.ascii_letters + string.digits + " /+=;:", min_size=1, max_size=20).map(str.strip)


@given(
    key=st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()),
    query=st.dictionaries(st.text(string.ascii_letters, min_size=1), st.text(max_size=10), max_size=3),
    metadata=st.dictionaries(names.map("x-amz-meta-{}".format), values, max_size=4),
    token=st.none() | st.text(string.ascii_letters, min_size=1),
)
def test_a_request_is_signed_as_botocore_signs_it(
    key: str, query: dict[str, str], metadata: dict[str, str], token: str | None
) -> None:
    path, encoded_query = encode_path(f"/bucket/{key}"), encode_query(query)
    url = f"https://{HOST}{path}?{encoded_query}"
    theirs = AWSRequest("PUT", url, headers={"content-md5": "abc", **metadata})
    theirs.context["payload_signing_enabled"] = False
    S3SigV4Auth(BotoCredentials(ACCESS_KEY, SECRET_KEY, token), "s3", "eu-central-1").add_auth(theirs)
    then = datetime.strptime(theirs.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    signer = Signer(Credentials(ACCESS_KEY, SECRET_KEY, token), "eu-central-1")
    host = urlsplit(url).netloc
    ours = signer.sign("PUT", path, encoded_query, {"host": host, "content-md5": "abc", **metadata}, then)

    assert theirs.headers["X-Amz-Content-SHA256"] == UNSIGNED_PAYLOAD
    assert ours["authorization"] == theirs.headers["Authorization"]


def test_the_example_of_a_url_in_the_s3_reference_gets_its_signature() -> None:
    signer = Signer(Credentials(ACCESS_KEY, SECRET_KEY), "us-east-1")

    query = signer.presign("GET", "/test.txt", {}, HOST, DAY, 86_400)

    assert query.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


@given(
    key=st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()),
    parameters=st.dictionaries(st.sampled_from(["response-content-type", "response-a"]), st.text(max_size=20)),
    token=st.none() | st.text(string.ascii_letters + "+/=", min_size=1),
    seconds=st.integers(1, 604_800),
)
def test_a_url_is_signed_as_botocore_signs_it(
    key: str, parameters: dict[str, str], token: str | None, seconds: int
) -> None:
    path = encode_path(f"/bucket/{key}")
    theirs = AWSRequest("GET", f"https://{HOST}{path}?{encode_query(parameters)}")
    S3SigV4QueryAuth(BotoCredentials(ACCESS_KEY, SECRET_KEY, token), "s3", "eu-central-1", seconds).add_auth(theirs)
    then = datetime.strptime(theirs.context["timestamp"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    signer = Signer(Credentials(ACCESS_KEY, SECRET_KEY, token), "eu-central-1")
    ours = signer.presign("GET", path, parameters, HOST, then, seconds)

    told = dict(parse_qsl(urlsplit(str(theirs.url)).query, keep_blank_values=True))
    assert dict(parse_qsl(ours, keep_blank_values=True)) == told


def test_the_key_of_the_day_follows_the_date() -> None:
    kept = Signer(Credentials(ACCESS_KEY, SECRET_KEY), "us-east-1")
    tomorrow = DAY.replace(day=25)
    kept.sign("GET", "/", "", {"host": HOST}, DAY)

    fresh = Signer(Credentials(ACCESS_KEY, SECRET_KEY), "us-east-1")

    expected = fresh.sign("GET", "/", "", {"host": HOST}, tomorrow)
    assert kept.sign("GET", "/", "", {"host": HOST}, tomorrow) == expected


def test_secrets_do_not_show() -> None:
    assert "secret" not in repr(Credentials("access", "secret-key", "secret-token"))
