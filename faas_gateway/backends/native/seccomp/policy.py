"""Which system calls a sandbox may make: an allow-list, in the spirit of a container runtime's default.

`python -m faas_gateway.backends.native.seccomp.generate` compiles it. Three answers:

- allowed: the groups of ALLOWED, ALLOWED_NEW, and what `argument_rules` allows;
- EPERM: the groups of REFUSED. They reach other processes, the kernel's own machinery or namespaces, or have
  been the way into kernels too often for what they give;
- ENOSYS: whatever is not named here. A libc that finds a call missing falls back to an older one. So it does
  with clone3, which is in no group because its flags lie in memory, where a filter cannot read them.

Calls of the i386 and x32 tables kill the process: no program that we run makes them.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from faas_gateway.backends.native.seccomp.arguments import INT, Rule, equal, never, only, others


@dataclass(frozen=True)
class Group:
    why: str
    syscalls: tuple[str, ...]


def _group(why: str, syscalls: str) -> Group:
    return Group(why, tuple(syscalls.split()))


ALLOWED = (
    _group(
        "Descriptors and bytes.",
        """
        read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
        dup dup2 dup3 fcntl flock pipe pipe2 sendfile splice tee copy_file_range fadvise64 readahead
        fsync fdatasync sync syncfs sync_file_range truncate ftruncate fallocate
        """,
    ),
    _group(
        "Files by name. Devices cannot be made in a user namespace, so mknod makes FIFOs and sockets only.",
        """
        open openat openat2 creat access faccessat faccessat2 stat lstat fstat newfstatat statx statfs fstatfs
        getdents getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat
        link linkat symlink symlinkat readlink readlinkat mknod mknodat umask utime utimes utimensat futimesat
        """,
    ),
    _group(
        "Owners and modes: the user namespace bounds the ids, nosuid and no_new_privs the modes.",
        """
        chmod fchmod fchmodat chown lchown fchown fchownat
        setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
        removexattr lremovexattr fremovexattr
        """,
    ),
    _group(
        "Waiting for descriptors, timers and files.",
        """
        poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
        eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime
        inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
        """,
    ),
    _group(
        "Native asynchronous I/O on files: databases use it. io_uring is refused below.",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    _group(
        "Memory, with the placement on NUMA nodes that numpy, torch and OpenMP ask for.",
        """
        brk mmap munmap mremap mprotect msync mincore madvise mlock mlock2 mlockall munlock munlockall
        memfd_create remap_file_pages pkey_alloc pkey_free pkey_mprotect mbind get_mempolicy set_mempolicy
        """,
    ),
    _group(
        "Processes and threads; clone stands in argument_rules. They see their own pid namespace only.",
        """
        fork vfork execve execveat exit exit_group wait4 waitid set_tid_address gettid getpid getppid
        getpgid getpgrp setpgid getsid setsid futex set_robust_list get_robust_list rseq membarrier
        pidfd_open pidfd_send_signal restart_syscall
        """,
    ),
    _group(
        "Signals.",
        """
        kill tkill tgkill rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
        rt_sigqueueinfo rt_tgsigqueueinfo sigaltstack pause alarm getitimer setitimer
        """,
    ),
    _group(
        "Users, groups and capabilities: apt and tar set them, the user namespace bounds them.",
        """
        getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid
        setresgid setgroups setfsuid setfsgid capget capset
        """,
    ),
    _group(
        "Scheduling and limits: lowering is free, raising needs what a sandbox does not have.",
        """
        sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler
        sched_setscheduler sched_getattr sched_setattr sched_get_priority_max sched_get_priority_min
        sched_rr_get_interval getpriority setpriority ioprio_get ioprio_set
        getrlimit setrlimit prlimit64 getrusage getcpu
        """,
    ),
    _group(
        "Clocks, read and slept on, and what a program asks about the machine.",
        """
        time gettimeofday clock_gettime clock_getres nanosleep clock_nanosleep times
        timer_create timer_settime timer_gettime timer_getoverrun timer_delete
        uname sysinfo getrandom arch_prctl
        """,
    ),
    _group(
        "Sockets; socket and socketpair stand in argument_rules. The network namespace is the sandbox's own.",
        """
        bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
        sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
        """,
    ),
    _group(
        "System V and POSIX message passing: the ipc namespace is the sandbox's own.",
        """
        shmget shmat shmdt shmctl semget semop semtimedop semctl msgget msgsnd msgrcv msgctl
        mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
        """,
    ),
    _group(
        "Giving up rights: these only ever take away.",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    ),
)

#: Calls that libseccomp 2.5 does not know yet. From 424 on, all architectures share their numbers.
ALLOWED_NEW = {
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "file_getattr": 468,
    "file_setattr": 469,
}

REFUSED = (
    _group(
        "Reaching into another process: a cell that attached to pid 1 hung its sandbox for good.",
        "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd",
    ),
    _group("Moving another process's pages between nodes.", "move_pages migrate_pages"),
    _group("Opening files by handle walks around the root directory.", "name_to_handle_at open_by_handle_at"),
    _group(
        "Mounts, roots and namespaces: a sandbox is given its own and keeps them.",
        """
        mount umount2 pivot_root chroot unshare setns
        fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr
        """,
    ),
    _group(
        "Large kernel interfaces with a history of escapes, which data work does without.",
        """
        bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register vmsplice
        fanotify_init fanotify_mark memfd_secret
        """,
    ),
    _group("Kernel keyrings belong to a user id, not to a namespace.", "add_key request_key keyctl"),
    _group(
        "Managing the machine.",
        """
        kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct
        quotactl quotactl_fd syslog lookup_dcookie vhangup sethostname setdomainname iopl ioperm
        """,
    ),
    _group("Setting the clock.", "clock_settime clock_adjtime settimeofday adjtimex"),
)

#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME is a signal number to clone(2).
NAMESPACE_FLAGS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
SOCK_TYPE_MASK = 0xF
SOCK_PACKET = 10
NETLINK_ROUTE = 0
IOCTL_TYPE = 0xFF00
NSIO, TERMINAL = 0xB7, 0x54
"""Types of requests: linux/nsfs.h, asm/ioctls.h."""
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
PR_SET_MM = 35
PER_LINUX, ADDR_NO_RANDOMIZE, PERSONALITY_QUERY = 0, 0x0040000, 0xFFFFFFFF


RLIMIT_NPROC = 6
EVERYONE = 0xFFFFFFFF  # -1
POINTER = 0xFFFFFFFF_FFFFFFFF

KINDS = ("command", "guest")
"""command: what is executed. guest: the interpreter, which is made dormant by a snapshot and then forks branches."""

GUEST_ALLOWED = ("setns",)
"""For the fork into a branch's namespaces. It asks for capabilities in the namespace and in one's own: user code holds
none that are effective but in the sandbox's own user namespace, and sees no namespace but its own."""


def guest_rules() -> Iterator[Rule]:
    """For a guest alone. Its hard limit of processes is above its soft one, for the time when it is dormant and its
    branches count too: so the soft one must not be raised from inside."""
    yield Rule("setrlimit", (equal(0, RLIMIT_NPROC),), errno.EPERM)
    for match in others(0, (RLIMIT_NPROC,)):
        yield Rule("setrlimit", (match,))
    yield Rule("prlimit64", (equal(1, RLIMIT_NPROC), equal(2, 0, POINTER)))
    for match in others(2, (0,), POINTER):
        yield Rule("prlimit64", (equal(1, RLIMIT_NPROC), match), errno.EPERM)
    for match in others(1, (RLIMIT_NPROC,)):
        yield Rule("prlimit64", (match,))
    # to every process there is: where a dormant relative is in the same pid namespace, to it too
    yield from never("kill", 0, (EVERYONE,), errno=errno.EPERM)


def argument_rules() -> Iterator[Rule]:
    """The calls whose arguments decide. For each of them the rules cover every value, and none overlaps."""
    # Threads and processes, but no namespace: those are what a nested user namespace is made of.
    yield from only("clone", 0, (0,), mask=NAMESPACE_FLAGS, otherwise=errno.EPERM)

    # AF_VSOCK reaches the hypervisor, AF_ALG and the rest are attack surface. Of netlink, libc needs the
    # routing family for getifaddrs. SOCK_PACKET is an old way to get AF_PACKET from AF_INET.
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    yield Rule("socket", (equal(0, socket.AF_UNIX),))
    yield Rule("socket", (equal(0, socket.AF_INET6),))
    yield from never(
        "socket",
        1,
        (SOCK_PACKET,),
        mask=SOCK_TYPE_MASK,
        errno=errno.EAFNOSUPPORT,
        given=(equal(0, socket.AF_INET),),
    )
    yield from only("socket", 2, (NETLINK_ROUTE,), otherwise=errno.EAFNOSUPPORT, given=(equal(0, socket.AF_NETLINK),))
    for match in others(0, families):
        yield Rule("socket", (match,), errno.EAFNOSUPPORT)
    yield from only("socketpair", 0, (socket.AF_UNIX,), otherwise=errno.EAFNOSUPPORT)

    # NS_MNT_GET_NEXT (Linux 6.12) opens other mount namespaces of one's user namespace, among them the base tree that
    # the init is in; later kernels leave it to the host's root. All of its type: the size in a request may be any.
    yield Rule("ioctl", (equal(1, NSIO << 8, IOCTL_TYPE),), errno.EPERM)
    for match in others(1, (NSIO << 8, TERMINAL << 8), IOCTL_TYPE):
        yield Rule("ioctl", (match,))
    # TIOCSTI types into a terminal, TIOCLINUX pastes into a console, TIOCSETD loads line disciplines.
    terminal = (TIOCSTI, TIOCLINUX, TIOCSETD)
    for request in terminal:
        yield Rule("ioctl", (equal(1, request),), errno.EPERM)
    for match in others(1, (request & ~IOCTL_TYPE for request in terminal), INT & ~IOCTL_TYPE):
        yield Rule("ioctl", (equal(1, match.value | TERMINAL << 8, match.mask | IOCTL_TYPE),))

    # PR_SET_MM redraws a process's memory map, for checkpoint tools. PR_SET_SECCOMP only takes away.
    yield from never("prctl", 0, (PR_SET_MM,), errno=errno.EPERM)

    # Asking is harmless, and sanitizers turn address randomisation off for themselves. The rest is for
    # programs of other systems, and weakens what protects against null pointers.
    yield from only("personality", 0, (PER_LINUX, ADDR_NO_RANDOMIZE, PERSONALITY_QUERY), otherwise=errno.EPERM)
