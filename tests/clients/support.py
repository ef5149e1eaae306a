"""What the tests drive: the gateway, its backend moto, and the command-line clients."""

import datetime
import hashlib
import ipaddress
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("MIZUCHI_BIN", REPOSITORY / "target/release/mizuchi"))
# Where the interpreter's own scripts are: aws and moto_server of the same venv.
SCRIPTS = Path(sys.executable).parent

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "test/secret+key"
REGION = "us-east-1"
# The client's name for the bucket, and the backend's.
BUCKET = "uploads"
STORE = "store"
# The same with `upload.allow: [acl]`: Debian's rclone always sends `x-amz-acl: private`.
RCLONE_BUCKET = "acl"
# The same with `s3.verifies: [.., trailer]`: trailers go on to the backend.
TRAILER_BUCKET = "trailers"

# What rclone must be told of an upload-only S3: no HEAD of what it uploaded, no bucket to make, and
# no look at what is there.
UPLOAD_ONLY = ["--s3-no-head", "--s3-no-check-bucket", "--no-check-dest"]

# The longest wait for a condition, seconds.
PATIENCE = 20
MB = 1_000_000


def eventually(what, condition):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def payload(size, seed=0):
    """`size` bytes that look random and are the same in every run."""
    return random.Random(f"{size} {seed}").randbytes(size)


def write_file(path, size):
    """A file of `size` bytes, no two of its blocks alike; its SHA-256."""
    digest = hashlib.sha256()
    source = random.Random(size)
    with open(path, "wb") as file:
        while size > 0:
            block = source.randbytes(min(size, MB))
            size -= len(block)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def s3_client(endpoint, access_key, secret_key, **config):
    """boto3, which must succeed at the first attempt: a retry would hide a fault."""
    config.setdefault("retries", {"total_max_attempts": 1})
    config.setdefault("s3", {"addressing_style": "path"})
    config.setdefault("signature_version", "s3v4")
    verify = config.pop("verify", None)
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=config.pop("region_name", REGION),
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        verify=verify,
        config=Config(**config),
    )


class Process:
    """A server whose standard error is a log file."""

    def __init__(self, command, directory, environment=None):
        self.log_file = directory / "log"
        environment = {**os.environ, **(environment or {})}
        with open(self.log_file, "wb") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def log(self):
        return self.log_file.read_text(errors="replace")

    def announced(self, pattern):
        """The group of `pattern` in the log, once it is there."""

        def look():
            found = re.search(pattern, self.log())
            if not found and self.child.poll() is not None:
                raise AssertionError(f"ended with {self.child.returncode}:\n{self.log()}")
            return found

        return eventually(f"{pattern} in the log", look).group(1)

    def stop(self):
        """SIGTERM; the exit status."""
        self.child.terminate()
        try:
            return self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise


class Moto(Process):
    """The backend: moto's S3 over a real socket, read back through boto3."""

    def __init__(self, directory):
        super().__init__([SCRIPTS / "moto_server", "-H", "127.0.0.1", "-p", "0"], directory)
        self.endpoint = self.announced(r"Running on (http://127\.0\.0\.1:[1-9]\d*)")
        self.s3 = s3_client(self.endpoint, "backend", "backend")

    def reset(self):
        """One empty bucket, `STORE`."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=PATIENCE).close()
        self.s3.create_bucket(Bucket=STORE)

    def keys(self):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=STORE)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def head(self, key):
        return self.s3.head_object(Bucket=STORE, Key=key)

    def body(self, key):
        return self.s3.get_object(Bucket=STORE, Key=key)["Body"].read()

    def sha256(self, key):
        digest = hashlib.sha256()
        for block in self.s3.get_object(Bucket=STORE, Key=key)["Body"].iter_chunks(MB):
            digest.update(block)
        return digest.hexdigest()

    def object(self, key):
        """All that can be compared of an object."""
        head = self.s3.head_object(Bucket=STORE, Key=key, ChecksumMode="ENABLED")
        return Object(
            self.sha256(key),
            {name: head.get(name) for name in DESCRIBED},
            {name: head[f"Checksum{name}"] for name in CHECKSUMS if head.get(f"Checksum{name}")},
        )

    def pending(self):
        """Multipart uploads that were neither completed nor aborted."""
        return self.s3.list_multipart_uploads(Bucket=STORE).get("Uploads", [])


class SlowComplete:
    """A proxy before the backend that holds the answer to each CompleteMultipartUpload back."""

    def __init__(self, backend, seconds):
        self.backend = backend.removeprefix("http://").split(":")
        self.seconds = seconds
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[client], daemon=True).start()

    def serve(self, client):
        host, port = self.backend
        backend = socket.create_connection((host, int(port)))
        held = threading.Event()
        # The gateway sends a request only when the one before is answered: each begins a block.
        up = threading.Thread(target=self.requests, args=[client, backend, held], daemon=True)
        up.start()
        while block := backend.recv(65536):
            if held.is_set():
                time.sleep(self.seconds)
                held.clear()
            client.sendall(block)
        client.close()

    def requests(self, client, backend, held):
        try:
            while block := client.recv(65536):
                line = block.split(b"\r\n", 1)[0]
                if line.startswith(b"POST ") and b"uploadId=" in line:
                    held.set()
                backend.sendall(block)
            backend.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.close()


SETTINGS = """\
server:
  address: 127.0.0.1:0
  workers: 2
  shutdown_grace: 10s
  state_directory: {directory}/state
admin:
  address: 127.0.0.1:0
embedded:
  directory: {directory}/objects
auth:
  sigv4:
    credentials:
      - access_key: {access_key}
        secret_key: {secret_key}
        principal: tester
buckets:
  - name: {bucket}
    s3: &moto
      bucket: {store}
      region: {region}
      endpoint: {endpoint}
      access_key: backend
      secret_key: backend
  - name: {trailer_bucket}
    s3:
      bucket: {store}
      region: {region}
      endpoint: {endpoint}
      access_key: backend
      secret_key: backend
      verifies: [sha256, md5, checksum, trailer]
  - name: {rclone_bucket}
    s3: *moto
    upload:
      allow: [acl]
  - name: embedded
    s3:
      bucket: files
      endpoint: embedded
"""


class Gateway(Process):
    """`mizuchi serve`: `uploads`, `acl`, which allows ACLs, and `trailers`, which passes trailers
    on, in front of moto; `embedded` in front of a folder."""

    def __init__(self, directory, backend, prefix=(), settings=SETTINGS, environment=None):
        self.objects = directory / "objects" / "files"
        text = settings.format(
            directory=directory,
            endpoint=backend,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            bucket=BUCKET,
            rclone_bucket=RCLONE_BUCKET,
            trailer_bucket=TRAILER_BUCKET,
            store=STORE,
            region=REGION,
        )
        file = directory / "settings.yaml"
        file.write_text(text)
        command = [*prefix, BINARY, "serve", "--settings", file]
        super().__init__(command, directory, {"RUST_LOG": "info", **(environment or {})})
        self.endpoint = self.announced(r"uploads on (https?://\S+)")
        self.admin = self.announced(r"admin on (https?://\S+)")

    def client(self, access_key=ACCESS_KEY, secret_key=SECRET_KEY, **config):
        return s3_client(self.endpoint, access_key, secret_key, **config)

    def metric(self, prefix):
        """The sum of the series whose line begins with `prefix`."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix))

    def access_lines(self):
        return [line for line in self.log().splitlines() if " operation=" in line]


def run(command, **options):
    """A command-line client; its outcome, whatever it is. It gets no one's configuration."""
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_MAX_ATTEMPTS": "1",
        **options.pop("environment", {}),
    }
    return subprocess.run(
        [str(word) for word in command],
        env=environment,
        capture_output=True,
        timeout=options.pop("timeout", 120),
        **options,
    )


def succeeded(outcome):
    """The standard output of a client that must have succeeded."""
    assert outcome.returncode == 0, outcome.stderr.decode(errors="replace")
    return outcome.stdout.decode()


def certificate(path):
    """A self-signed certificate of 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(pem))
    return path


NGINX = """\
master_process off;
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    underscores_in_headers on;
    client_max_body_size 0;
    location / {{
      proxy_pass http://{target};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_request_buffering off;
      proxy_buffering off;
    }}
  }}
}}
"""
HAPROXY = """\
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend tls
  bind 127.0.0.1:{port} ssl crt {certificate}
  default_backend target
backend target
  server target {target}
"""
TERMINATORS = {
    "nginx": (NGINX, ["nginx", "-g", "daemon off;", "-p", "{directory}", "-c"]),
    "haproxy": (HAPROXY, ["haproxy", "-db", "-f"]),
}


class Terminator(Process):
    """Debian's nginx or HAProxy, which takes TLS connections for a server that has none."""

    def __init__(self, name, directory, certificate, target):
        text, command = TERMINATORS[name]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        file = directory / f"{name}.conf"
        names = {"directory": directory, "certificate": certificate, "port": port}
        file.write_text(text.format(target=target.removeprefix("http://"), **names))
        super().__init__([*(word.format(directory=directory) for word in command), file], directory)
        self.endpoint = f"https://127.0.0.1:{port}"
        eventually(f"{name} listens", lambda: self.listens(port))

    def listens(self, port):
        if self.child.poll() is not None:
            raise AssertionError(f"ended with {self.child.returncode}:\n{self.log()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Route:
    """One way for clients to connect to the gateway."""

    endpoint: str
    # The certificate to trust; None over plain HTTP.
    trusted: str | None = None

    def client(self, **config):
        return s3_client(self.endpoint, ACCESS_KEY, SECRET_KEY, verify=self.trusted, **config)


CHECKSUMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
# What a client may say of an object, as HeadObject answers it.
DESCRIBED = [
    "ContentLength",
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "Metadata",
    "StorageClass",
    "ETag",
]


@dataclass(frozen=True)
class Object:
    """An object at the backend."""

    sha256: str
    described: dict
    checksums: dict
