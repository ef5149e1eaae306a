"""Browser forms: presigned POSTs, made by boto3, sent by clients that know nothing of S3."""

import hashlib

import pytest
import requests
from support import BUCKET, MB, RCLONE_BUCKET, payload, write_file
from test_presigned import curl


@pytest.fixture
def presign_post(s3):
    """Makes presigned POSTs: a URL and the form's fields."""

    def post(key, bucket=BUCKET, expires=300, **options):
        return s3.generate_presigned_post(bucket, key, ExpiresIn=expires, **options)

    return post


def send(post, body, filename="file.bin", **fields):
    """The form, as a browser sends it: the file last."""
    data = {**post["fields"], **fields}
    return requests.post(
        post["url"], data=data, files={"file": (filename, body)}, timeout=60, allow_redirects=False
    )


@pytest.mark.parametrize("size", [0, 1, 5 * MB, 20 * MB])
def test_requests(presign_post, moto, size):
    """`requests.post(url, data=fields, files=…)`: the object is the file."""
    answer = send(presign_post("folder/object"), payload(size))
    assert answer.status_code == 204, answer.text
    assert answer.headers["Location"] == f"/{BUCKET}/folder/object"
    assert moto.body("folder/object") == payload(size)
    assert answer.headers["ETag"] == moto.head("folder/object")["ETag"]
    assert not moto.pending()


def test_curl(presign_post, moto, tmp_path):
    """`curl -F`, whose large bodies wait for 100 Continue."""
    file = tmp_path / "big file"
    sha256 = write_file(file, 40 * MB)
    post = presign_post("object")
    fields = [word for pair in post["fields"].items() for word in ("-F", "=".join(pair))]
    status, uploaded, body, _ = curl(post["url"], *fields, "-F", f"file=@{file}")
    assert status == 204, body
    assert uploaded > 40 * MB
    assert moto.sha256("object") == sha256


def test_filename_and_fields(presign_post, moto):
    """A key with ${filename}, and fields that are headers of the object."""
    fields = {"Content-Type": "image/png", "x-amz-meta-who": "me"}
    conditions = [["starts-with", "$Content-Type", "image/"], {"x-amz-meta-who": "me"}]
    post = presign_post("user/${filename}", Fields=fields, Conditions=conditions)
    answer = send(post, b"pixels", filename="a b.png")
    assert answer.status_code == 204, answer.text
    head = moto.head("user/a b.png")
    assert (head["ContentType"], head["Metadata"]) == ("image/png", {"who": "me"})


def test_success_is_answered_as_asked(presign_post, moto):
    """201 has a document, a redirect has the object in its query."""
    asked = {"success_action_status": "201"}
    answer = send(presign_post("object", Fields=asked, Conditions=[asked]), b"x")
    assert answer.status_code == 201
    etag = hashlib.md5(b"x").hexdigest()
    assert "<Key>object</Key>" in answer.text and etag in answer.text
    asked = {"success_action_redirect": "https://app.example.com/done"}
    answer = send(presign_post("object", Fields=asked, Conditions=[asked]), b"x")
    assert answer.status_code == 303
    query = f"?bucket={BUCKET}&key=object&etag=%22{etag}%22"
    assert answer.headers["Location"] == asked["success_action_redirect"] + query


@pytest.mark.parametrize(
    ("size", "code"), [(0, "EntityTooSmall"), (11, "EntityTooLarge"), (12 * MB, "EntityTooLarge")]
)
def test_content_length_range(presign_post, moto, size, code):
    """What is too short or too long is no object."""
    answer = send(presign_post("object", Conditions=[["content-length-range", 1, 10]]), payload(size))
    assert answer.status_code == 400
    assert f"<Code>{code}</Code>" in answer.text
    assert not moto.keys() and not moto.pending()


def test_what_was_not_signed_is_refused(presign_post, moto):
    """Another key, another field, an expired policy, another bucket."""
    post = presign_post("object")
    expired = presign_post("object", expires=-1)
    elsewhere = {**post, "url": post["url"].replace(BUCKET, RCLONE_BUCKET)}
    for answer in [
        send(post, b"x", key="another"),
        send(post, b"x", acl="public-read"),
        send(expired, b"x"),
        send(elsewhere, b"x"),
    ]:
        assert answer.status_code == 403
        assert "<Code>AccessDenied</Code>" in answer.text
    forged = {**post, "fields": {**post["fields"], "x-amz-signature": "0" * 64}}
    answer = send(forged, b"x")
    assert answer.status_code == 403
    assert "<Code>SignatureDoesNotMatch</Code>" in answer.text
    assert not moto.keys()


def test_permissions_are_those_of_a_put(presign_post, moto):
    """An ACL that the policy names is still the bucket's to allow."""
    acl = {"acl": "private"}
    answer = send(presign_post("object", Fields=acl, Conditions=[acl]), b"x")
    assert answer.status_code == 403
    assert not moto.keys()
    post = presign_post("object", bucket=RCLONE_BUCKET, Fields=acl, Conditions=[acl])
    assert send(post, b"x").status_code == 204
    assert moto.keys() == ["object"]
