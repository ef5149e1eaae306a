"""Debian's rclone with documented flags. It signs content-length, which other clients do not."""

import pytest
from support import BUCKET, MB, RCLONE_BUCKET, UPLOAD_ONLY, payload, succeeded, write_file

SIZES = pytest.mark.parametrize("size", [0, 1, 5 * MB])


@SIZES
def test_copyto(rclone, moto, tmp_path, size):
    """One file to one key; its modification time comes along as metadata."""
    file = tmp_path / "file"
    file.write_bytes(payload(size))
    succeeded(rclone("copyto", file, f":s3:{RCLONE_BUCKET}/folder/object"))
    assert moto.keys() == ["folder/object"]
    assert moto.body("folder/object") == payload(size)
    mtime = float(moto.head("folder/object")["Metadata"]["mtime"])
    assert mtime == pytest.approx(file.stat().st_mtime, abs=1e-3)


def test_content_length_is_signed(rclone, moto, tmp_path):
    """The gateway verifies a signature over content-length."""
    file = tmp_path / "file"
    file.write_bytes(payload(MB))
    outcome = rclone("copyto", file, f":s3:{RCLONE_BUCKET}/object", "-vv", "--dump", "auth,headers")
    succeeded(outcome)
    assert b"SignedHeaders=content-length;" in outcome.stderr
    assert moto.body("object") == payload(MB)


def test_copy(rclone, moto, tmp_path):
    """A folder with all that is in it."""
    bodies = {"a": payload(1), "sub folder/b+c": payload(1000), "sub folder/deep/d": payload(MB)}
    for name, body in bodies.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(body)
    succeeded(rclone("copy", tmp_path, f":s3:{RCLONE_BUCKET}/folder"))
    assert {key: moto.body(key) for key in moto.keys()} == {
        f"folder/{name}": body for name, body in bodies.items()
    }


def test_multipart(rclone, moto, gateway, tmp_path):
    """100 MB in parts: SHA-256 equal on read back, and no upload is left behind."""
    sha256 = write_file(tmp_path / "file", 100 * MB)
    completed = gateway.metric('mizuchi_multipart_uploads_total{event="completed"}')
    parts = ["--s3-upload-cutoff", "20M", "--s3-chunk-size", "8M"]
    succeeded(rclone("copyto", tmp_path / "file", f":s3:{RCLONE_BUCKET}/object", *parts))
    assert moto.sha256("object") == sha256
    assert not moto.pending()
    assert gateway.metric('mizuchi_multipart_uploads_total{event="completed"}') == completed + 1


def test_rcat(rclone, moto):
    """Standard input, small enough that rclone knows its size before it sends."""
    succeeded(rclone("rcat", f":s3:{RCLONE_BUCKET}/object", input=payload(50_000)))
    assert moto.body("object") == payload(50_000)


def test_rcat_of_unknown_size(rclone, moto):
    """Standard input past `--streaming-upload-cutoff`: the object arrives whole, but rclone then
    asks for its size whatever `--s3-no-head` says, and reports that it is not told."""
    outcome = rclone("rcat", f":s3:{RCLONE_BUCKET}/object", input=payload(12 * MB))
    assert moto.body("object") == payload(12 * MB)
    assert not moto.pending()
    assert outcome.returncode != 0


@pytest.mark.parametrize(
    ("flag", "code"),
    [
        (["--s3-secret-access-key", "wrong"], "SignatureDoesNotMatch"),
        (["--s3-access-key-id", "AKIAUNKNOWNUNKNOWN00"], "InvalidAccessKeyId"),
    ],
    ids=["wrong secret", "unknown key"],
)
@pytest.mark.parametrize("size", [1, 64 * MB], ids=["1 B", "64 MB"])
def test_bad_credentials(rclone, moto, tmp_path, size, flag, code):
    """rclone prints S3's code, even with 64 MB on their way: not a broken pipe."""
    write_file(tmp_path / "file", size)
    outcome = rclone("copyto", tmp_path / "file", f":s3:{RCLONE_BUCKET}/object", *flag)
    assert outcome.returncode != 0
    assert f"{code}: " in outcome.stderr.decode()
    assert not moto.keys()


@pytest.mark.parametrize(
    "missing", ["--s3-no-head", "--s3-no-check-bucket", "--no-check-dest"], ids=lambda flag: flag
)
def test_each_flag_is_needed(rclone, tmp_path, missing):
    """Without one of the flags rclone asks for what an upload-only gateway refuses, and says so."""
    (tmp_path / "file").write_bytes(b"body")
    flags = [flag for flag in UPLOAD_ONLY if flag != missing]
    outcome = rclone("copyto", tmp_path / "file", f":s3:{RCLONE_BUCKET}/object", flags=flags)
    assert outcome.returncode != 0
    assert "MethodNotAllowed" in outcome.stderr.decode()


def test_acl_needs_permission(rclone, moto, tmp_path):
    """Debian's rclone sends `x-amz-acl: private` whatever its flags: a bucket without
    `upload.allow: [acl]` refuses it, and the answer names the header."""
    (tmp_path / "file").write_bytes(b"body")
    outcome = rclone("copyto", tmp_path / "file", f":s3:{BUCKET}/object")
    assert outcome.returncode != 0
    assert "AccessDenied" in outcome.stderr.decode()
    assert "x-amz-acl" in outcome.stderr.decode()
    assert not moto.keys()


def test_presigned_request_has_two_lengths(rclone, moto, tmp_path):
    """`--s3-use-presigned-request` makes rclone 1.60 send Content-Length twice, which the gateway
    refuses like all framing that two readers may understand differently (RFC 9112, 6.3)."""
    (tmp_path / "file").write_bytes(b"body")
    command = ["copyto", tmp_path / "file", f":s3:{RCLONE_BUCKET}/object"]
    outcome = rclone(*command, "--s3-use-presigned-request")
    assert outcome.returncode != 0
    assert "more than one Content-Length" in outcome.stderr.decode()
    assert not moto.keys()
