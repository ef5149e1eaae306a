"""One moto and one gateway for the session; every test finds the backend's bucket empty."""

import os

import pytest
from support import (
    ACCESS_KEY,
    BINARY,
    BUCKET,
    MB,
    SCRIPTS,
    SECRET_KEY,
    TERMINATORS,
    UPLOAD_ONLY,
    Gateway,
    Moto,
    Route,
    Terminator,
    certificate,
    run,
    write_file,
)

# Nobody's configuration, and no proxy, between the clients and the gateway.
for name in list(os.environ):
    if name.startswith(("AWS_", "RCLONE_")) or name.lower().endswith("_proxy"):
        del os.environ[name]
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
# nginx and haproxy are in sbin, which is not in everyone's PATH.
os.environ["PATH"] += ":/usr/sbin:/sbin"


@pytest.fixture(scope="session")
def moto_process(tmp_path_factory):
    process = Moto(tmp_path_factory.mktemp("moto"))
    yield process
    process.stop()


@pytest.fixture
def moto(moto_process):
    """The backend, its bucket empty."""
    moto_process.reset()
    return moto_process


@pytest.fixture(scope="session")
def gateway(moto_process, tmp_path_factory):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: make build, or set MIZUCHI_BIN", returncode=2)
    process = Gateway(tmp_path_factory.mktemp("gateway"), moto_process.endpoint)
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="session")
def routes(gateway, tmp_path_factory):
    """By name: plain HTTP, and HTTPS through each terminator."""
    trusted = certificate(tmp_path_factory.mktemp("certificate") / "both.pem")
    terminators = {
        name: Terminator(name, tmp_path_factory.mktemp(name), trusted, gateway.endpoint)
        for name in TERMINATORS
    }
    https = {name: Route(one.endpoint, str(trusted)) for name, one in terminators.items()}
    yield {"http": Route(gateway.endpoint), **https}
    for terminator in terminators.values():
        terminator.stop()


@pytest.fixture
def s3(gateway):
    """boto3 with its default settings, as a client of the gateway."""
    return gateway.client()


@pytest.fixture
def presign(s3):
    """Makes presigned PUT URLs."""

    def url(key, **parameters):
        parameters = {"Bucket": BUCKET, "Key": key, **parameters}
        return s3.generate_presigned_url("put_object", Params=parameters, ExpiresIn=300)

    return url


@pytest.fixture
def aws(gateway):
    """Runs aws-cli against the gateway."""

    def command(*words, **options):
        return run([SCRIPTS / "aws", "--endpoint-url", gateway.endpoint, *words], **options)

    return command


@pytest.fixture
def rclone(gateway):
    """Runs rclone against the gateway. No retries: they would hide a fault."""
    remote = ["--config", "", "--retries", "1", "--low-level-retries", "1"]
    remote += ["--s3-provider", "Other", "--s3-endpoint", gateway.endpoint]
    remote += ["--s3-access-key-id", ACCESS_KEY, "--s3-secret-access-key", SECRET_KEY]

    def command(*words, flags=UPLOAD_ONLY, **options):
        return run(["rclone", *remote, *flags, *words], **options)

    return command


@pytest.fixture(scope="session")
def big_file(tmp_path_factory):
    """200 MB, and their SHA-256."""
    path = tmp_path_factory.mktemp("big") / "200MB"
    return path, write_file(path, 200 * MB)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what the gateway said during the test."""
    report = (yield).get_result()
    gateway = getattr(item, "funcargs", {}).get("gateway")
    if call.when == "setup" and gateway:
        item.log_start = len(gateway.log())
    if report.failed and gateway:
        report.sections.append(("gateway", gateway.log()[getattr(item, "log_start", 0) :]))
