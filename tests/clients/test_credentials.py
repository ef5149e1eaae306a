"""Bad credentials: the client names the error, even with a large body on its way."""

import pytest
import requests
from botocore.exceptions import ClientError
from support import ACCESS_KEY, BUCKET, MB, SECRET_KEY, payload, write_file

# What is wrong, as a key and a secret, and what S3 calls it.
BAD = pytest.mark.parametrize(
    ("access_key", "secret_key", "code"),
    [
        (ACCESS_KEY, SECRET_KEY + "x", "SignatureDoesNotMatch"),
        ("AKIAUNKNOWNUNKNOWN00", SECRET_KEY, "InvalidAccessKeyId"),
    ],
    ids=["wrong secret", "unknown key"],
)
SIZES = pytest.mark.parametrize("size", [1, 64 * MB], ids=["1 B", "64 MB"])


@BAD
@SIZES
def test_boto3(gateway, moto, access_key, secret_key, code, size):
    """A 403 with S3's code: not a broken pipe, not a timeout."""
    s3 = gateway.client(access_key, secret_key)
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="object", Body=payload(size))
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert refused.value.response["ResponseMetadata"]["RequestId"]
    assert not moto.keys()


@BAD
def test_boto3_without_expect(gateway, moto, access_key, secret_key, code):
    """The same for a client that sends its 64 MB without asking."""
    s3 = gateway.client(access_key, secret_key)

    def send_at_once(request, **_):
        del request.headers["Expect"]

    s3.meta.events.register("before-send.s3.PutObject", send_at_once)
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="object", Body=payload(64 * MB))
    assert refused.value.response["Error"]["Code"] == code
    assert not moto.keys()


@BAD
def test_boto3_multipart(gateway, moto, big_file, access_key, secret_key, code):
    """upload_file of 200 MB fails at its first request."""
    path, _ = big_file
    with pytest.raises(Exception, match=code):
        gateway.client(access_key, secret_key).upload_file(str(path), BUCKET, "object")
    assert not moto.pending()


@BAD
@SIZES
def test_aws_cli(aws, moto, tmp_path, access_key, secret_key, code, size):
    """`aws s3api put-object` prints S3's code."""
    file = tmp_path / "file"
    write_file(file, size)
    bad = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    put = ["s3api", "put-object", "--bucket", BUCKET, "--key", "object", "--body", file]
    outcome = aws(*put, environment=bad)
    assert outcome.returncode != 0
    assert f"({code})" in outcome.stderr.decode()
    assert not moto.keys()


@BAD
def test_aws_s3_cp(aws, moto, big_file, access_key, secret_key, code):
    """`aws s3 cp` prints S3's code."""
    bad = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    copy = ["s3", "cp", "--no-progress", big_file[0], f"s3://{BUCKET}/object"]
    outcome = aws(*copy, environment=bad)
    assert outcome.returncode != 0
    assert f"({code})" in outcome.stderr.decode()
    assert not moto.pending()


def test_wrong_region(gateway, moto):
    """The signing region is the bucket's: another one is AuthorizationHeaderMalformed."""
    other = gateway.client(region_name="eu-central-1")
    with pytest.raises(ClientError) as refused:
        other.put_object(Bucket=BUCKET, Key="object", Body=b"body")
    assert refused.value.response["Error"]["Code"] == "AuthorizationHeaderMalformed"
    assert not moto.keys()


def test_anonymous(gateway, moto):
    """A request without a signature is AccessDenied."""
    answer = requests.put(f"{gateway.endpoint}/{BUCKET}/object", data=payload(MB), timeout=60)
    assert answer.status_code == 403
    assert "<Code>AccessDenied</Code>" in answer.text
    assert not moto.keys()
