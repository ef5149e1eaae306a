"""R5: "fsync returns EIO: no 200 for that upload; later ones 503; no second fsync on the same file;
restart recovers"."""

import http.client
import re
from urllib.parse import urlsplit

import pytest
from rig import tracer
from support import eventually

UPLOADS = ["a/file-70000", "b/inline-100", "c/large-1300000", "d/inline-60000", "e/file-200000"]
PLACES = [
    ("journal.redb", "fdatasync,fsync", 6),
    ("bodies", "fsync,fdatasync", 3),
    *((f"bodies/{(1 << 40) + count:016x}", "fdatasync,fsync", 1) for count in range(1, 4)),
]


def code(gateway, key):
    """Status and S3 code of an upload that is refused before its body: none is sent."""
    connection = http.client.HTTPConnection(urlsplit(gateway.endpoint).netloc, timeout=20)
    connection.putrequest("PUT", f"/uploads/{key}")
    connection.putheader("Content-Length", "100000")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    answer = connection.getresponse()
    found = re.search(r"<Code>(\w+)</Code>", answer.read().decode())
    connection.close()
    return answer.status, found and found.group(1)


def fails_at(rig, file, calls, index):
    """Whether there was a call of that index; if so, all that the row says."""
    rig.begin_anew()
    rig.backend.away = True
    gateway = rig.start(tracer(rig, [file], calls, "error=EIO", index))
    trace = rig.directory / "trace"
    injected = lambda: "INJECTED" in trace.read_text()  # noqa: E731
    if not gateway.ready():
        # It does not start on a disk that fails, and says so.
        assert injected() and gateway.child.wait(20) not in (0, 101), gateway.log()
        assert "os error 5" in gateway.log()
        rig.check()
        return True
    refused = False
    for key in UPLOADS:
        status = rig.put(key)
        # From the first that fails on, all are refused: none is 200 after it.
        assert status == (503 if refused or status != 200 else 200), gateway.log()
        refused = refused or status == 503
    assert refused == injected()
    rig.backend.away = False
    if not refused:
        # What is left to fail is what takes the delivered off the record.
        eventually("it is delivered", lambda: injected() or rig.is_empty())
        if not injected():
            assert gateway.stop() == 0
            return injected()
    eventually("it latches", lambda: gateway.metric("mizuchi_spool_latched") == 1)
    assert code(gateway, "later-100000") == (503, "SlowDown")
    status, text = gateway.page("/readyz")
    assert status == 503 and "disk has failed" in text
    # What was acknowledged and stands in a file goes on.
    in_files = {key for key in rig.acknowledged if "inline" not in key}
    eventually("files are delivered", lambda: in_files <= rig.backend.objects.keys())
    assert gateway.stop() == 0
    # Neither then nor while it was closed: the kernel may say well of pages that it has dropped.
    _, _, after = trace.read_text().partition("INJECTED")
    assert not re.search("sync", after), after
    rig.check()
    return True


@pytest.mark.long
@pytest.mark.parametrize("file,calls,least", PLACES)
def test_every_sync(rig, file, calls, least):
    """Each index once, until nothing fails."""
    index = 1
    while fails_at(rig, file, calls, index):
        index += 1
    print(f"{calls} on {file}: {index - 1} failed")
    assert index > least
