"""What a process gives up for good before it looks at a file from a stranger (Linux; elsewhere only limits are set).

1. Landlock (kernel 5.13 and newer): no file is opened but those listed, for reading; no TCP, no signals to others.
2. seccomp: no sockets, no new processes, no writing or renaming of files, no clocks, mounts, keys, modules, io_uring.
3. Limits: memory, processor time, files of 0 bytes, no core dump. No capabilities, if it had any.
4. Open files of the parent are closed; standard input, output and error are /dev/null.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_PDEATHSIG = 38, 22, 1
_SECCOMP_MODE_FILTER = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_RULE_PATH_BENEATH, _CREATE_RULESET_VERSION = 1, 1

# linux/landlock.h. Rights on files by the ABI that brought them.
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_NET_ABI, _NET_RIGHTS = 4, 0b11  # bind and connect, TCP
_SCOPE_ABI, _SCOPES = 6, 0b11  # abstract sockets and signals, outside the sandbox

# System calls: name -> number on x86_64, on aarch64 (None: does not exist there).
# fmt: off
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kill": (62, 129),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "mknod": (133, None), "mknodat": (259, 33), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "creat": (85, None),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "copy_file_range": (326, 285),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "move_mount": (429, 429),
    "open_tree": (428, 428), "mount_setattr": (442, 442), "swapon": (167, 224), "swapoff": (168, 225),
    "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "acct": (163, 89), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "syslog": (103, 116), "quotactl": (179, 60), "ioperm": (173, None), "iopl": (172, None),
    "personality": (135, 92), "setrlimit": (160, 164), "setpriority": (141, 140),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189),
    "semget": (64, 190), "semop": (65, 193), "mq_open": (240, 180), "mq_unlink": (241, 181),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)  # threads only; and "not implemented", so that libc falls back to clone
_OPEN, _OPENAT, _OPENAT2 = (2, None), (257, 56), (437, 437)  # for reading only
_PRLIMIT, _TGKILL, _TKILL = (302, 261), (234, 131), (200, 130)  # reading limits; signals to itself (abort)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
# fmt: on
_EPERM, _EACCES, _ENOSYS = 1, 13, 38
_CLONE_THREAD = 0x10000
_OPEN_MASK = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # WRONLY, RDWR, CREAT, TRUNC, APPEND, and __O_TMPFILE


@functools.cache
def support() -> dict[str, int | bool]:
    """What this kernel has: `landlock` (ABI, 0 where there is none) and `seccomp`. For `doctor` and the report."""
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return {"landlock": 0, "seccomp": False}
    abi = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    with_filter = os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
    return {"landlock": max(abi, 0), "seccomp": with_filter}


def described() -> str:
    """One line for the report."""
    found = support()
    parts = [f"Landlock ABI {found['landlock']}"] * bool(found["landlock"]) + ["seccomp"] * bool(found["seccomp"])
    return " and ".join(parts) or "limits only: this system has neither Landlock nor seccomp"


def confine(readable: Sequence[Path], keep: Iterable[int], gigabytes: float, seconds: float) -> None:
    """Of this process, for good. `readable`: files and folders that may still be opened; `keep`: open files that stay.

    `gigabytes`: addresses beyond what is mapped now. `seconds`: of processor time. Raises OSError where the kernel has
    a means and refuses it.
    """
    _close_all_but(keep)
    _limit(gigabytes, seconds)
    found = support()
    if sys.platform == "linux":
        _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if found["landlock"]:
        _landlock(int(found["landlock"]), [*_installation(), *readable])
    if sys.platform == "linux":
        _drop_capabilities()
    if found["seccomp"]:
        _seccomp()


def die_with_parent(signal: int) -> None:
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _close_all_but(keep: Iterable[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    start = 3
    for descriptor in sorted(set(keep)):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, 65536)


def _limit(gigabytes: float, seconds: float) -> None:
    import resource

    def lower(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_FSIZE, 0)
    lower(resource.RLIMIT_CPU, int(seconds) + 1)
    try:
        with open("/proc/self/statm") as pages:
            present = int(pages.read().split()[0]) * resource.getpagesize()
    except OSError:  # no /proc (macOS): RLIMIT_AS is not enforced there either; the time limit remains
        return
    lower(resource.RLIMIT_AS, present + int(gigabytes * 2**30))


def _installation() -> list[Path]:
    """What Python and its packages may still load."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    loaded = ("lipcert", "torch", "numpy", "onnx", "onnxruntime", "onnx2torch", "sympy", "google.protobuf")
    for name in loaded:
        folders |= set(getattr(sys.modules.get(name), "__path__", ()))
    folders |= {"/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store"}
    folders |= {"/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/null", "/dev/urandom"}
    return [Path(folder) for folder in folders if folder]


def _landlock(abi: int, readable: Iterable[Path]) -> None:
    rights = sum(bits for since, bits in _FILE_RIGHTS if abi >= since)
    network = _NET_RIGHTS if abi >= _NET_ABI else 0
    scopes = _SCOPES if abi >= _SCOPE_ABI else 0
    attributes = struct.pack("QQQ", rights, network, scopes)
    size = 24 if abi >= _SCOPE_ABI else 16 if abi >= _NET_ABI else 8
    libc = _libc()
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)), "Landlock")
    for path in readable:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not on this system
            continue
        allowed = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        rule = struct.pack("=Qi", allowed, opened)
        number = ctypes.c_uint32(_RULE_PATH_BENEATH)
        _checked(libc.syscall(_ADD_RULE, ruleset, number, rule, ctypes.c_uint32(0)), f"Landlock {path}")
        os.close(opened)
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "Landlock")
    os.close(ruleset)


def _drop_capabilities() -> None:
    """All but reading files that belong to others, which root had; Landlock says which files."""
    libc = _libc()
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    held = ctypes.create_string_buffer(24)
    if libc.capget(header, held) == 0:
        effective, permitted, _ = struct.unpack_from("III", held.raw)
        read_all = 1 << 2  # CAP_DAC_READ_SEARCH
        libc.capset(header, struct.pack("IIIIII", effective & read_all, permitted & read_all, 0, 0, 0, 0))


# A program of the classic packet filter, on struct seccomp_data {int nr; u32 arch; u64 ip; u64 args[6]}.
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def _seccomp() -> None:
    column, architecture = _ARCHITECTURES[platform.machine()]
    program: list[bytes] = []

    def put(code: int, value: int, true: int = 0, false: int = 0) -> None:
        program.append(struct.pack("HBBI", code, true, false, value))

    def argument(place: int) -> int:
        return 16 + 8 * place  # the low half, on little-endian machines

    def on(numbers: tuple[int | None, int | None], *steps: tuple[int, int, int, int]) -> None:
        """Where the call is this one: `steps`, each (code, value, jump if true, jump if false)."""
        if (number := numbers[column]) is not None:
            put(_EQUAL, number, 0, len(steps))
            for step in steps:
                put(*step)

    def fail(error: int) -> tuple[int, int, int, int]:
        return _RETURN, _ERRNO | error, 0, 0

    allow = (_RETURN, _ALLOW, 0, 0)
    put(_LOAD, 4)
    put(_EQUAL, architecture, 1, 0)
    put(_RETURN, _KILL)
    put(_LOAD, 0)
    if column == 0:
        put(_AT_LEAST, 0x40000000, 0, 1)  # the x32 interface
        put(_RETURN, _ERRNO | _EPERM)
    for numbers in _DENIED.values():
        on(numbers, fail(_EPERM))
    on(_CLONE3, fail(_ENOSYS))
    on(_OPENAT2, fail(_ENOSYS))
    on(_CLONE, (_LOAD, argument(0), 0, 0), (_ANY_BIT, _CLONE_THREAD, 1, 0), fail(_EPERM), allow)
    on(_OPEN, (_LOAD, argument(1), 0, 0), (_ANY_BIT, _OPEN_MASK, 0, 1), fail(_EACCES), allow)
    on(_OPENAT, (_LOAD, argument(2), 0, 0), (_ANY_BIT, _OPEN_MASK, 0, 1), fail(_EACCES), allow)
    low, high = argument(2), argument(2) + 4
    on(_PRLIMIT, (_LOAD, low, 0, 0), (_EQUAL, 0, 0, 2), (_LOAD, high, 0, 0), (_EQUAL, 0, 1, 0), fail(_EPERM), allow)
    on(_TGKILL, (_LOAD, argument(0), 0, 0), (_EQUAL, os.getpid(), 1, 0), fail(_EPERM), allow)
    on(_TKILL, fail(_EPERM))
    put(*allow)
    code = ctypes.create_string_buffer(b"".join(program))
    pointer = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _checked(_libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer, 0, 0), "seccomp")
