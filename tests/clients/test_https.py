"""The gateway's own TLS: curl over HTTP/1.1 and HTTP/2, openssl s_client, boto3, client certificates."""

import hashlib
import subprocess

import pytest
from support import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    SETTINGS,
    Gateway,
    certificate,
    payload,
    run,
    s3_client,
    succeeded,
    write_file,
)

TLS = """\
  tls:
    cert_file: {directory}/server.pem
    key_file: {directory}/server.pem
    client_auth: optional
    client_ca_file: {directory}/ca.pem
admin:
"""

CERTIFICATES = """\
auth:
  client_certificates:
    enabled: true
    allow:
      key_prefixes: ["home/{{principal}}/"]
"""


def openssl(directory, *words):
    succeeded(run(["openssl", *words], cwd=directory))


def authority(directory, name):
    """An authority `name`.pem with `name`.key."""
    subject = ["-subj", f"/CN={name}", "-days", "2", "-nodes", "-newkey", "ec"]
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    openssl(directory, "req", "-x509", *subject, *curve, *files)


def client_certificate(directory, issuer, name):
    """A certificate of `issuer` for `name`: name.pem and name.key."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(directory, "req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr")
    signed = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", "2"]
    # With an extension it is of version 3: rustls takes no other.
    (directory / "extensions").write_text("extendedKeyUsage=clientAuth\n")
    signed += ["-extfile", "extensions"]
    openssl(directory, "x509", "-req", "-in", "csr", *signed, "-out", f"{name}.pem")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    directory = tmp_path_factory.mktemp("https")
    certificate(directory / "server.pem")
    authority(directory, "ca")
    authority(directory, "stranger")
    client_certificate(directory, "ca", "backup")
    client_certificate(directory, "stranger", "forged")
    return directory


@pytest.fixture(scope="module")
def https(moto_process, pki):
    settings = SETTINGS.replace("admin:\n", TLS, 1).replace("auth:\n", CERTIFICATES, 1)
    process = Gateway(pki, moto_process.endpoint, settings=settings)
    assert process.endpoint.startswith("https://")
    yield process
    assert process.stop() == 0


def curl(https, pki, key, *words, signed=True, **options):
    """A PUT; (status, protocol), or the exit status of a curl that had no answer."""
    sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{ACCESS_KEY}:{SECRET_KEY}"]
    sign += ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    show = ["-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version}"]
    trust = ["--cacert", pki / "server.pem"]
    url = f"{https.endpoint}/{BUCKET}/{key}"
    outcome = run(["curl", *show, *trust, *(sign if signed else []), *words, url], **options)
    if outcome.returncode:
        return outcome.returncode
    status, version = outcome.stdout.decode().split()
    return int(status), version


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
def test_curl_uploads(https, moto, pki, tmp_path, option, version):
    digest = write_file(tmp_path / "large", 64_000_000)
    assert curl(https, pki, "large", option, "-T", tmp_path / "large") == (200, version)
    assert moto.sha256("large") == digest
    body = payload(300_000)
    outcome = curl(https, pki, "piped", option, "-T", "-", input=body)
    assert outcome == (200, version)
    assert moto.body("piped") == body
    waits = ["-H", "Expect: 100-continue", "--expect100-timeout", "20"]
    (tmp_path / "small").write_bytes(b"hello")
    assert curl(https, pki, "waits", option, *waits, "-T", tmp_path / "small") == (200, version)
    assert moto.body("waits") == b"hello"


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_curl_sees_why_it_is_refused(https, moto, pki, tmp_path, option):
    write_file(tmp_path / "large", 30_000_000)
    status, _ = curl(https, pki, "k", option, "-T", tmp_path / "large", signed=False)
    assert status == 403
    assert moto.keys() == []


def test_a_client_certificate_is_a_credential(https, moto, pki, tmp_path):
    (tmp_path / "small").write_bytes(b"hello")
    upload = ["-T", tmp_path / "small"]
    known = ["--cert", pki / "backup.pem", "--key", pki / "backup.key"]
    forged = ["--cert", pki / "forged.pem", "--key", pki / "forged.key"]
    for option in ["--http1.1", "--http2"]:
        key = f"home/backup/{option}"
        assert curl(https, pki, key, option, *known, *upload, signed=False)[0] == 200
        assert moto.body(key) == b"hello"
        assert curl(https, pki, "home/other/k", option, *known, *upload, signed=False)[0] == 403
        assert curl(https, pki, key, option, *upload, signed=False)[0] == 403
        # No session: curl's exit status says so.
        assert isinstance(curl(https, pki, key, option, *forged, *upload, signed=False), int)
    assert any('principal="backup" operation=PutObject' in line for line in https.access_lines())


def s_client(https, *words):
    address = https.endpoint.removeprefix("https://")
    command = ["openssl", "s_client", "-connect", address, *words]
    return run(command, stdin=subprocess.DEVNULL).stdout.decode()


def test_protocols_and_versions(https):
    assert "ALPN protocol: h2" in s_client(https, "-alpn", "h2,http/1.1")
    assert "ALPN protocol: http/1.1" in s_client(https, "-alpn", "http/1.1")
    assert "No ALPN negotiated" in s_client(https)
    assert "New, TLSv1.3" in s_client(https)
    assert "New, TLSv1.2" in s_client(https, "-tls1_2")
    for old in ["-tls1_1", "-tls1"]:
        assert "New, (NONE)" in s_client(https, old, "-cipher", "DEFAULT@SECLEVEL=0")


def test_boto3_uploads(https, moto, pki):
    s3 = s3_client(https.endpoint, ACCESS_KEY, SECRET_KEY, verify=str(pki / "server.pem"))
    body = payload(2_000_000)
    s3.put_object(Bucket=BUCKET, Key="object", Body=body)
    assert moto.sha256("object") == hashlib.sha256(body).hexdigest()
