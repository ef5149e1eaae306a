"""R3: "power loss simulated: 0 acknowledged lost"."""

import fcntl
import os
import random
import signal
import struct
import subprocess
import threading
import time

import pytest
from rig import needs, needs_root

CYCLES = 300
CLIENTS = 4
# _IOR('X', 125, __u32), and EXT4_GOING_FLAGS_NOLOGFLUSH: nothing that is not on the disk comes there
# any more, not even the file system's own log (fs/ext4/ext4.h).
EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = struct.pack("I", 2)
SIZES = [100, 5_000, 60_000, 90_000, 400_000, 1_300_000]


class Disk:
    """ext4 in a file, mounted."""

    def __init__(self, directory):
        needs_root("mounting a file system")
        self.image = directory / "disk"
        self.mount_point = directory / "mounted"
        self.mount_point.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(512 << 20)
        self.run(needs("mkfs.ext4", "e2fsprogs"), "-q", self.image)
        self.mount()

    def run(self, *words):
        outcome = subprocess.run([str(word) for word in words], capture_output=True, text=True)
        assert outcome.returncode == 0, f"{words}: {outcome.stderr}"

    def mount(self):
        self.run("mount", "-o", "loop", self.image, self.mount_point)

    def lose_power(self):
        folder = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, NOLOGFLUSH)
        finally:
            os.close(folder)

    def unmount(self):
        self.run("umount", self.mount_point)

    def close(self):
        if os.path.ismount(self.mount_point):
            # A gateway may still have it, if the test has failed.
            self.run("umount", "--lazy", self.mount_point)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path)
    yield made
    made.close()


@pytest.mark.long
def test_what_was_not_synced_is_lost(disk):
    """Without this the next test would show nothing: it is a loss of power."""
    for name, synced in [("kept", True), ("lost", False)]:
        with open(disk.mount_point / name, "wb") as file:
            file.write(b"x" * 100_000)
            file.flush()
            if synced:
                os.fsync(file.fileno())
                folder = os.open(disk.mount_point, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
    disk.lose_power()
    disk.unmount()
    disk.mount()
    assert (disk.mount_point / "kept").read_bytes() == b"x" * 100_000
    lost = disk.mount_point / "lost"
    assert not lost.exists() or lost.read_bytes() != b"x" * 100_000


def upload(rig, gateway, cycle, client, acknowledged):
    for number in range(10_000):
        size = SIZES[(number + client) % len(SIZES)] + number
        key = f"{cycle}-{client}-{number}-{size}"
        status = gateway.put(key, chunked=number % 5 == 0)
        if status != 200:
            # Its disk has failed, or it is gone.
            return
        acknowledged.append(key)


@pytest.mark.long
def test_nothing_acknowledged_is_lost(rig, disk):
    rig.spool = disk.mount_point / "spool"
    total = 0
    for cycle in range(CYCLES):
        # What one cycle leaves the next finds, or delivers.
        rig.backend.away = cycle % 3 != 0
        gateway = rig.start()
        assert gateway.ready(), gateway.log()
        acknowledged = []
        clients = [
            threading.Thread(target=upload, args=[rig, gateway, cycle, client, acknowledged])
            for client in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        time.sleep(random.uniform(0, 0.3))
        # A processor without power does nothing more; one that runs on sees syncs that are under way
        # end well though nothing comes of them (jbd2 forgets what it gave up, and then finds nothing
        # to wait for). Threads that stand in a sync stay there: the disk goes in the middle of them.
        gateway.child.send_signal(signal.SIGSTOP)
        disk.lose_power()
        gateway.kill()
        for client in clients:
            client.join(60)
            assert not client.is_alive()
        rig.acknowledged.update(acknowledged)
        total += len(acknowledged)
        disk.unmount()
        disk.mount()
        if cycle % 10 == 9 or cycle == CYCLES - 1:
            rig.check()
            # What is right needs no further look.
            rig.acknowledged.clear()
            rig.backend.objects.clear()
    print(f"{CYCLES} cycles, {total} acknowledged")
    assert total > CYCLES
