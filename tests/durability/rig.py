"""A gateway that writes back, its spool, and a backend that knows what each key must hold."""

import http.client
import os
import re
import shutil
import time
from urllib.parse import urlsplit

from strict_s3 import Refused, StrictS3
from support import BINARY, PATIENCE, Process, eventually, payload

LONG = "MIZUCHI_LONG" in os.environ
# `http.client` says so when the gateway died before it answered.
GONE = (OSError, http.client.HTTPException)

SETTINGS = """\
server:
  address: 127.0.0.1:0
  workers: 2
  shutdown_grace: 10s
  state_directory: {state}
admin:
  address: 127.0.0.1:0
spool:
  directory: {spool}
  min_free: {min_free}
  backoff_base: 20ms
  backoff_cap: 100ms
buckets:
  - name: uploads
    upload:
      mode: write_back
      restart:
        max: 0
    s3:
      bucket: store
      region: us-east-1
      endpoint: {endpoint}
      access_key: backend
      secret_key: backend
    auth:
      enabled: false
"""


def needs(program, package):
    """A missing program is a failure: nothing here passes because it could not run."""
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert found, f"{program} is missing: as root run apt-get install {package}"
    return found


def needs_root(what):
    assert os.geteuid() == 0, f"{what} needs root"


def body_of(key):
    """The only bytes that are right for this key: it says how many, as in `name-1000`."""
    return payload(int(key.rsplit("-", 1)[1]), key)


class Backend(StrictS3):
    """Strict, away when it is told to, and it holds each body against its key."""

    def __init__(self):
        super().__init__()
        self.away = False
        self.wrong = []

    def put(self, key, query, body, headers):
        if self.away:
            raise Refused("SlowDown", 503)
        if body != body_of(key):
            self.wrong.append((key, len(body)))
        return super().put(key, query, body, headers)


class Running(Process):
    """`mizuchi serve`, perhaps under a tracer, perhaps dying already."""

    def __init__(self, settings, directory, prefix=()):
        super().__init__([*prefix, BINARY, "serve", "--settings", settings], directory)
        self.endpoint = self.admin = None

    def ready(self):
        """False: it ended first."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [self.address(name) for name in ("uploads", "admin")]
            if all(found):
                self.endpoint, self.admin = found
                return True
            if self.child.poll() is not None:
                return False
            time.sleep(0.005)
        raise AssertionError(f"it does not start:\n{self.log()}")

    def address(self, name):
        _, mark, rest = self.log().partition(f"{name} on ")
        line = rest.partition("\n")
        return line[0].split()[0] if mark and line[1] else None

    def put(self, key, chunked=False):
        """The status of a PutObject; None: the gateway was gone before it answered."""
        body = body_of(key)
        connection = self.connect(self.endpoint)
        try:
            if chunked:
                body = iter([body[at : at + 65536] for at in range(0, len(body), 65536)])
            headers = {"Transfer-Encoding": "chunked"} if chunked else {}
            path = f"/uploads/{key}"
            connection.request("PUT", path, body, headers, encode_chunked=chunked)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except GONE:
            return None
        finally:
            connection.close()

    def connect(self, listener):
        return http.client.HTTPConnection(urlsplit(listener).netloc, timeout=PATIENCE)

    def page(self, path):
        """Status and body of a page of the admin listener; None: the gateway is gone."""
        connection = self.connect(self.admin)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except GONE:
            return None
        finally:
            connection.close()

    def metric(self, name):
        """None: the gateway is gone."""
        page = self.page("/metrics")
        found = page and re.search(rf"^{name} (\S+)$", page[1], re.MULTILINE)
        return float(found.group(1)) if found else None

    def kill(self):
        self.child.kill()
        self.child.wait()


def tracer(rig, files, calls, what, index):
    """strace that does `what` at the call of this index, of each thread, on these of the spool's files
    alone."""
    command = [needs("strace", "strace"), "-D", "-f", "-qq", "-o", rig.directory / "trace"]
    for file in files:
        command += ["-P", rig.spool / file]
    return [*command, "-e", f"trace={calls}", "-e", f"inject={calls}:{what}:when={index}"]


class Rig:
    def __init__(self, directory):
        self.directory = directory
        self.spool = directory / "spool"
        self.min_free = "0"
        self.backend = Backend()
        self.running = None
        # What was answered 200.
        self.acknowledged = set()

    def close(self):
        if self.running:
            self.running.kill()
        self.backend.stop()

    def start(self, prefix=()):
        """A gateway on the spool as it is; it may be dying."""
        settings = self.directory / "settings.yaml"
        settings.write_text(
            SETTINGS.format(
                state=self.directory / "state",
                spool=self.spool,
                min_free=self.min_free,
                endpoint=self.backend.endpoint,
            )
        )
        self.running = Running(settings, self.directory, prefix)
        return self.running

    def begin_anew(self):
        """Forgets everything, the spool first."""
        shutil.rmtree(self.spool, ignore_errors=True)
        self.spool.mkdir()
        self.acknowledged.clear()
        self.backend.objects.clear()

    def put(self, key, **options):
        status = self.running.put(key, **options)
        if status == 200:
            self.acknowledged.add(key)
        return status

    def bodies(self):
        return sorted(path.name for path in (self.spool / "bodies").iterdir())

    def is_empty(self):
        """Whether everything is delivered, and its files are gone; None: the gateway is gone."""
        entries = self.running.metric("mizuchi_spool_entries")
        return None if entries is None else entries == 0 and not self.bodies()

    def check(self):
        """A sound gateway delivers all that was acknowledged, whole, and leaves the spool as it was."""
        self.backend.away = False
        gateway = self.start()
        assert gateway.ready(), gateway.log()
        eventually("everything is delivered, and the spool empty", self.is_empty)
        for name in ("mizuchi_spool_quarantined", "mizuchi_spool_latched"):
            assert gateway.metric(name) == 0, gateway.log()
        status, page = gateway.page("/readyz")
        assert (status, page) == (200, "ready\n")
        assert gateway.stop() == 0
        self.is_right()

    def is_right(self):
        with self.backend.lock:
            held = {key: stored.body for key, stored in self.backend.objects.items()}
        assert self.backend.wrong == []
        lost = [key for key in self.acknowledged if held.get(key) != body_of(key)]
        assert lost == [], f"{len(lost)} of {len(self.acknowledged)}"
