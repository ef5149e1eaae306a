"""SDKs that have nothing but a token file: AssumeRoleWithWebIdentity, then uploads with what it gave."""

import time
import urllib.parse
import urllib.request

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from issuer import Issuer
from support import BUCKET, MB, PATIENCE, REGION, SCRIPTS, STORE, Gateway, payload, run, succeeded

SETTINGS = """\
server:
  address: 127.0.0.1:0
  workers: 2
  shutdown_grace: 10s
  state_directory: {{directory}}/state
admin:
  address: 127.0.0.1:0
sts:
  enabled: true
auth:
  jwt:
    issuers:
      - issuer: {issuer.name}
        algorithms: [RS256]
        jwks_url: {issuer.jwks_url}
        allow_insecure: true
        audience: uploads
        allow:
          key_prefixes: ["home/{{{{principal}}}}/"]
buckets:
  - name: {{bucket}}
    s3:
      bucket: {{store}}
      region: {{region}}
      endpoint: {{endpoint}}
      access_key: backend
      secret_key: backend
"""
ROLE = "arn:aws:iam::123456789012:role/uploads"


@pytest.fixture(scope="module")
def issuer():
    served = Issuer()
    yield served
    served.close()


@pytest.fixture(scope="module")
def trusting(issuer, moto_process, tmp_path_factory):
    """A gateway whose clients have tokens and nothing else."""
    directory = tmp_path_factory.mktemp("trusting")
    settings = SETTINGS.format(issuer=issuer)
    process = Gateway(directory, moto_process.endpoint, settings=settings)
    yield process
    assert process.stop() == 0


@pytest.fixture
def token_file(issuer, tmp_path):
    file = tmp_path / "token"
    file.write_text(issuer.token(sub="alice"))
    return file


def sts(gateway):
    return boto3.session.Session().client(
        "sts",
        endpoint_url=gateway.endpoint,
        region_name=REGION,
        aws_access_key_id="unused",
        aws_secret_access_key="unused",
        config=Config(retries={"total_max_attempts": 1}),
    )


def assume(gateway, token, **options):
    return sts(gateway).assume_role_with_web_identity(
        RoleArn=ROLE, RoleSessionName="tests", WebIdentityToken=token, **options
    )


def refusal(gateway, token, **options):
    with pytest.raises(ClientError) as caught:
        assume(gateway, token, **options)
    return caught.value.response["Error"]["Code"]


def client(gateway, credentials, **config):
    return boto3.session.Session().client(
        "s3",
        endpoint_url=gateway.endpoint,
        region_name=REGION,
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
        config=Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **config
        ),
    )


def test_aws_cli_with_a_token_file(trusting, token_file, moto, tmp_path):
    """ "Unmodified SDKs with a token": aws-cli is told of a token file and of nothing else."""
    data = payload(20 * MB)
    file = tmp_path / "file"
    file.write_bytes(data)
    environment = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token_file),
        "AWS_ROLE_ARN": ROLE,
        "AWS_ROLE_SESSION_NAME": "cli",
        "AWS_ENDPOINT_URL": trusting.endpoint,
    }
    aws = [SCRIPTS / "aws", "s3", "cp"]
    target = f"s3://{BUCKET}/home/alice/file"
    succeeded(run([*aws, file, target], environment=environment))
    assert moto.body("home/alice/file") == data
    elsewhere = run([*aws, file, f"s3://{BUCKET}/home/bob/file"], environment=environment)
    assert elsewhere.returncode != 0 and b"AccessDenied" in elsewhere.stderr
    assert moto.keys() == ["home/alice/file"] and moto.pending() == []


def test_boto3_with_a_token_file(trusting, token_file, moto, monkeypatch):
    """boto3's own chain finds the token file."""
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL", trusting.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    config = Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        signature_version="s3v4",
    )
    s3 = boto3.session.Session().client("s3", config=config)
    s3.put_object(Bucket=BUCKET, Key="home/alice/small", Body=b"small")
    assert moto.body("home/alice/small") == b"small"
    # A presigned URL carries the session's token in its query.
    parameters = {"Bucket": BUCKET, "Key": "home/alice/presigned"}
    url = s3.generate_presigned_url("put_object", parameters, ExpiresIn=60)
    # moto takes the body that urllib calls a form by default for one.
    kind = {"Content-Type": "text/plain"}
    request = urllib.request.Request(url, method="PUT", data=b"presigned", headers=kind)
    urllib.request.urlopen(request, timeout=PATIENCE).close()
    assert moto.body("home/alice/presigned") == b"presigned"


def test_a_session_and_a_token_are_one_principal(trusting, issuer, moto):
    """What was begun with a session goes on with another of the same principal, and with nobody else's."""
    alice = client(trusting, assume(trusting, issuer.token(sub="alice"))["Credentials"])
    again = client(trusting, assume(trusting, issuer.token(sub="alice"))["Credentials"])
    bob = client(trusting, assume(trusting, issuer.token(sub="bob"))["Credentials"])
    key = "home/alice/multipart"
    upload = alice.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    part = {"Bucket": BUCKET, "Key": key, "UploadId": upload, "PartNumber": 1}
    with pytest.raises(ClientError) as caught:
        bob.upload_part(**part, Body=b"part")
    assert caught.value.response["Error"]["Code"] == "AccessDenied"
    etag = again.upload_part(**part, Body=b"part")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    alice.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload=parts)
    assert moto.body(key) == b"part"


def test_a_session_ends_with_its_token(trusting, issuer):
    """ "expiry ≤ the token's"."""
    ends = int(time.time()) + 1000
    session = assume(trusting, issuer.token(sub="alice", exp=ends))
    assert session["Credentials"]["Expiration"].timestamp() == ends
    assert session["SubjectFromWebIdentityToken"] == "alice"
    assert (session["Audience"], session["Provider"]) == ("uploads", issuer.name)
    short = assume(trusting, issuer.token(sub="alice"), DurationSeconds=900)
    assert 890 <= short["Credentials"]["Expiration"].timestamp() - time.time() <= 900


def test_an_ended_session(trusting, issuer, moto):
    session = assume(trusting, issuer.token(sub="alice", exp=int(time.time()) + 1))
    s3 = client(trusting, session["Credentials"])
    # A whole second: what it has left of its validity.
    deadline = session["Credentials"]["Expiration"].timestamp()
    while time.time() <= deadline:
        time.sleep(0.05)
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=BUCKET, Key="home/alice/late", Body=b"late")
    assert caught.value.response["Error"]["Code"] == "ExpiredToken"
    assert moto.keys() == []


def test_refusals(trusting, issuer):
    """Each by the code that SDKs know."""
    now = int(time.time())
    head, claims, signature = issuer.token(sub="alice").split(".")
    forged = f"{head}.{claims}.{signature[:-4]}AAAA"
    assert refusal(trusting, issuer.token(sub="alice", exp=now - 60)) == "ExpiredTokenException"
    assert refusal(trusting, issuer.token(sub="alice", exp="soon")) == "InvalidIdentityToken"
    assert refusal(trusting, "not.a.token") == "InvalidIdentityToken"
    assert refusal(trusting, forged) == "AccessDenied"
    assert refusal(trusting, issuer.token(sub="alice", aud="others")) == "AccessDenied"
    assert refusal(trusting, issuer.token(sub="alice"), Policy="{}") == "ValidationError"
    large = issuer.token(sub="alice", groups=["x" * 40] * 140)
    assert refusal(trusting, large) in ("PackedPolicyTooLarge", "InvalidIdentityToken")


def test_another_gateway_s_session(trusting, issuer, moto, tmp_path):
    """Sealed with another key, a session means nothing."""
    other = Gateway(tmp_path, moto.endpoint, settings=SETTINGS.format(issuer=issuer))
    session = assume(other, issuer.token(sub="alice"))["Credentials"]
    assert other.stop() == 0
    with pytest.raises(ClientError) as caught:
        client(trusting, session).put_object(Bucket=BUCKET, Key="home/alice/k", Body=b"x")
    assert caught.value.response["Error"]["Code"] == "InvalidToken"
    assert moto.s3.list_objects_v2(Bucket=STORE)["KeyCount"] == 0


def test_no_secret_is_logged(trusting, issuer):
    session = assume(trusting, issuer.token(sub="canary"))["Credentials"]
    client(trusting, session).put_object(Bucket=BUCKET, Key="home/canary/k", Body=b"x")
    log = trusting.log()
    assert "home/canary/k" in log
    for secret in (session["SecretAccessKey"], session["SessionToken"]):
        assert secret not in log
        assert urllib.parse.quote(secret) not in log
