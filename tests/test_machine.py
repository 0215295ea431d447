"""What a process may use of its machine: cores and memory of a container, a control group, a job of Slurm's."""

import os

import pytest

from vitft import compiling, machine

GB = 1 << 30


@pytest.fixture(autouse=True)
def _large(monkeypatch, tmp_path):
    """A machine of 64 cores and more memory than any limit below, whose groups are drawn."""
    monkeypatch.setattr(machine, "bound", lambda: 64)
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 20)
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 64),
        ({"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "32"}, 8),
        ({"SLURM_CPUS_ON_NODE": "32"}, 32),
        ({"SLURM_CPUS_PER_TASK": "96"}, 64),  # more than it is bound to
        ({"SLURM_CPUS_PER_TASK": ""}, 64),
    ],
)
def test_cores_are_those_of_a_task(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.cores() == expected


@pytest.mark.parametrize(
    ("groups", "limits", "variables", "expected"),
    [
        ("0::/\n", {"memory.max": 3 * GB}, {}, 3 * GB),  # a container's own root
        ("0::/job_7/step_0\n", {"job_7/memory.max": 2 * GB, "job_7/step_0/memory.max": "max"}, {}, 2 * GB),
        (
            "4:memory:/slurm/job_7/step_0\n1:cpu:/\n0::/\n",
            {"memory/slurm/job_7/memory.limit_in_bytes": 5 * GB, "cpu/memory.limit_in_bytes": GB},
            {},
            5 * GB,
        ),
        ("", {}, {"SLURM_MEM_PER_NODE": "4096"}, 4 * GB),
        ("", {}, {"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "16"}, 8 * GB),
        ("", {}, {"SLURM_MEM_PER_NODE": "0"}, 1 << 40),  # all of the node
    ],
)
def test_memory_is_what_a_container_or_a_job_may_take(monkeypatch, tmp_path, groups, limits, variables, expected):
    (tmp_path / "own").write_text(groups)
    for place, limit in limits.items():
        path = tmp_path / "groups" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.memory() == expected
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   1024 kB\n")
    assert machine.memory() == 1 << 20  # what is left, where that is less


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("/dev/sda1 / ext4 rw 0 0", None),
        ("/dev/sda1 / ext4 rw 0 0\nhead:/home {} nfs4 rw,vers=4.2,local_lock=none 0 0", ("nfs4", True)),
        ("head:/home {} nfs rw,vers=3,nolock,local_lock=all 0 0", ("nfs", False)),
        ("head:/home {} nfs rw,vers=3,local_lock=posix 0 0", ("nfs", True)),
        ("1@tcp:/fs {} lustre rw,flock,lazystatfs 0 0", ("lustre", True)),
        ("1@tcp:/fs {} lustre rw,lazystatfs 0 0", ("lustre", False)),
        ("1@tcp:/fs {} lustre rw,localflock 0 0", ("lustre", False)),
        ("head:/home / nfs4 rw 0 0\n/dev/sdb1 {} xfs rw 0 0", None),  # the nearest counts
        ("/dev/sdb1 {} xfs rw 0 0\nhead:/home / nfs4 rw 0 0", None),
        ("/dev/sdb1 {} xfs rw 0 0\nhead:/home {} nfs4 rw 0 0", ("nfs4", True)),  # the later one lies over it
        ("/dev/sda1 / ext4 rw 0 0\nhead:/home {}2 nfs4 rw 0 0", None),
    ],
)
def test_a_folder_is_shared_as_its_mount_says(monkeypatch, tmp_path, mounts, expected):
    place = tmp_path / "my runs"
    (place / "a").mkdir(parents=True)
    monkeypatch.setattr(machine, "_MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text(mounts.replace("{}", str(place).replace(" ", "\\040")) + "\n")
    assert machine.shared_by(place / "a") == expected


SHARED = ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "ceph", "9p", "afs", "gfs2", "ocfs2", "orangefs"]
SHARED += ["fuse.glusterfs", "fuse.ceph"]
ALONE = {"nfs": "nolock local_lock=all local_lock=flock", "cifs": "nobrl", "lustre": "localflock"}
ALONE |= {"nfs4": ALONE["nfs"], "smb3": ALONE["cifs"]}


@pytest.mark.parametrize("kind", [*SHARED, "ext4", "xfs", "tmpfs", "overlay", "btrfs", "fuse.sshfs"])
def test_locks_between_machines_hold_but_for_the_options_that_say_otherwise(monkeypatch, tmp_path, kind):
    """By mount(8), nfs(5), mount.cifs(8) and mount.lustre(8)."""
    monkeypatch.setattr(machine, "_MOUNTS", tmp_path / "mounts")
    options = {"rw,flock": True, **{f"rw,flock,{word}": False for word in ALONE.get(kind, "").split()}}
    for option, holds in options.items():
        (tmp_path / "mounts").write_text(f"x {tmp_path} {kind} {option} 0 0\n")
        assert machine.shared_by(tmp_path) == ((kind, holds) if kind in SHARED else None)


def test_code_is_compiled_for_each_kind_of_processor(monkeypatch, tmp_path):
    """One cache may be shared by machines of several kinds; -march=native is what torch compiles with."""
    core = "processor\t: {}\nmodel name\t: {}\ncpu MHz\t\t: {}\nflags\t\t: fpu {}\n\n"
    drawn = [
        [core.format(0, "A 1", 2100.0, "avx2"), core.format(1, "A 1", 3000.0, "avx2")],
        [core.format(0, "A 1", 1800.5, "avx2")],
        [core.format(0, "A 1", 2100.0, "avx2 avx512f")],
        [core.format(0, "B 2", 2100.0, "avx2")],
        ["processor\t: 0\nFeatures\t: fp asimd sve\nCPU part\t: 0xd40\n"],
        ["processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd40\n"],
        [""],
    ]
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    folders = []
    for cores in drawn:
        (tmp_path / "cpuinfo").write_text("".join(cores))
        folders.append(compiling.folder())
    assert folders[0] == folders[1] and len(set(folders)) == 6
    assert all(folder.parent == machine.cache() / "compiled" for folder in folders)
