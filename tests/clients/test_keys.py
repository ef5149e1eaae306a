"""Awkward keys: each arrives at the backend byte for byte, as one key, and with its own body.

moto takes all of these as they are, sent straight to it; what a client itself makes of a key is
said in that client's test.
"""

import pytest
from support import BUCKET, RCLONE_BUCKET, run, succeeded

KEYS = [
    "with space",
    "two  spaces /and / one",
    "a+b",
    "ünïcødé/日本語/🦀",
    # One letter, composed and decomposed: two keys.
    "caf\u00e9",
    "cafe\u0301",
    "double//slash",
    "dots/../up",
    "../up",
    "..",
    "./dot/./file",
    "percent%20literal%2F",
    "100%",
    "quotes'\"",
    "amp&ersand=1",
    "tilde~",
    "/leading",
    "//two leading",
    "trailing/",
    "question?mark#hash",
    "semi;colon,comma:at@dollar$!*()",
    "back\\slash",
    "<xml>&amp;]]>",
    "[brackets]{braces}|^`",
    "-dash",
    "k" * 1024,
    "é" * 512,
]
ALL = pytest.mark.parametrize("key", KEYS, ids=lambda key: ascii(key)[1:-1][:40])


def body_of(key):
    return f"the body of {key}".encode()


def arrived(moto, key):
    """The bucket has this key alone, with its body."""
    assert moto.keys() == [key]
    assert moto.body(key) == body_of(key)


@ALL
def test_boto3(s3, moto, key):
    """PutObject."""
    s3.put_object(Bucket=BUCKET, Key=key, Body=body_of(key))
    arrived(moto, key)


@ALL
def test_boto3_multipart(s3, moto, key):
    """Each request of a multipart upload, and the key in the answers' XML."""
    names = {"Bucket": BUCKET, "Key": key}
    created = s3.create_multipart_upload(**names)
    assert created["Key"] == key
    names["UploadId"] = created["UploadId"]
    etag = s3.upload_part(**names, PartNumber=1, Body=body_of(key))["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    assert s3.complete_multipart_upload(**names, MultipartUpload=parts)["Key"] == key
    arrived(moto, key)


@ALL
def test_curl_presigned(presign, moto, key):
    """A presigned URL. `--path-as-is`: curl by itself removes `..` and `.` before it sends, and
    asks for another key than was signed."""
    put = ["curl", "-sS", "--fail-with-body", "--path-as-is", "-X", "PUT", "--data-binary", "@-"]
    succeeded(run([*put, "-H", "Content-Type:", presign(key)], input=body_of(key)))
    arrived(moto, key)


def test_curl_presigned_without_path_as_is(presign, moto):
    """curl's own normalisation breaks the signature: refused, not stored under the other key."""
    put = ["curl", "-sS", "-X", "PUT", "--data-binary", "@-", "-H", "Content-Type:"]
    answer = succeeded(run([*put, presign("dots/../up")], input=b"body"))
    assert "<Code>SignatureDoesNotMatch</Code>" in answer
    assert not moto.keys()


@ALL
def test_aws_s3_cp(aws, moto, tmp_path, key):
    """`aws s3 cp FILE s3://BUCKET/KEY`. A key that ends in a slash is a folder to aws-cli: it puts
    the file's name behind it."""
    file = tmp_path / "file"
    file.write_bytes(body_of(key))
    succeeded(aws("s3", "cp", "--no-progress", file, f"s3://{BUCKET}/{key}"))
    stored = key + "file" if key.endswith("/") else key
    assert moto.keys() == [stored]
    assert moto.body(stored) == body_of(key)


def test_aws_s3_cp_recursive(aws, moto, tmp_path):
    """`aws s3 cp --recursive`: whatever can be a file's path is a key."""
    odd = ("..", "./", "//", "\\")
    keys = [
        key
        for key in KEYS
        if len(key.encode()) < 256 and key.strip("/") == key and not any(o in key for o in odd)
    ]
    assert len(keys) > 12
    for key in keys:
        file = tmp_path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body_of(key))
    succeeded(aws("s3", "cp", "--no-progress", "--recursive", tmp_path, f"s3://{BUCKET}/"))
    assert sorted(moto.keys()) == sorted(keys)
    for key in keys:
        assert moto.body(key) == body_of(key)


# Keys are paths to rclone, which cleans them before it sends; the rest it has no name for.
CLEANED = {
    "double//slash": "double/slash",
    "dots/../up": "up",
    "./dot/./file": "dot/file",
    "/leading": "leading",
    "//two leading": "two leading",
}
NO_PATHS = {"../up", "..", "trailing/"}


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key not in NO_PATHS], ids=lambda key: ascii(key)[1:-1][:40]
)
def test_rclone(rclone, moto, tmp_path, key):
    """`rclone copyto FILE :s3:BUCKET/KEY`, with the key as rclone cleans it (`CLEANED`)."""
    file = tmp_path / "file"
    file.write_bytes(body_of(key))
    succeeded(rclone("copyto", file, f":s3:{RCLONE_BUCKET}/{key}"))
    stored = CLEANED.get(key, key)
    assert moto.keys() == [stored]
    assert moto.body(stored) == body_of(key)


def test_key_too_long(s3, moto):
    """1,025 bytes: KeyTooLongError."""
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="é" * 512 + "k", Body=b"")
    assert refused.value.response["Error"]["Code"] == "KeyTooLongError"
    assert not moto.keys()
