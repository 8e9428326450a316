// usage: emulate no-ipv6|no-superpackets PROGRAM [ARGUMENT…]
// Runs a program, static ones too, with a kernel that is not here: some of its system calls fail as they would there (seccomp).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skip))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, (what))

static int die(const char *what) {
    perror(what);
    _exit(125);
}

static int filter(struct sock_filter *lines, unsigned short count, unsigned flags) {
    struct sock_fprog program = {.len = count, .filter = lines};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("no new privileges");
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

// There are no sockets of IPv6.
static void no_ipv6(void) {
    struct sock_filter lines[] = {
        LOAD(nr), UNLESS(SYS_socket, 3),
        LOAD(args[0]), UNLESS(AF_INET6, 1),
        RETURN(SECCOMP_RET_ERRNO | EAFNOSUPPORT), RETURN(SECCOMP_RET_ALLOW),
    };
    if (filter(lines, sizeof lines / sizeof *lines, 0)) die("seccomp");
}

// Answers for each writev of the program: EINVAL, if its first part is a virtio header with a GSO type.
static void answer(int listener) {
    struct seccomp_notif asked;
    struct pollfd waits = {.fd = listener, .events = POLLIN};
    while (poll(&waits, 1, -1) >= 0 || errno == EINTR) {
        if (waits.revents & POLLHUP) _exit(0);
        memset(&asked, 0, sizeof asked);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked)) continue;
        struct seccomp_notif_resp answer = {.id = asked.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        struct iovec first;
        unsigned char head[10];
        struct iovec to = {&first, sizeof first}, from = {(void *)asked.data.args[1], sizeof first};
        if (asked.data.args[2] > 1 && process_vm_readv(asked.pid, &to, 1, &from, 1, 0) == sizeof first && first.iov_len == sizeof head) {
            struct iovec into = {head, sizeof head};
            if (process_vm_readv(asked.pid, &into, 1, &first, 1, 0) == sizeof head && head[1] != 0) {
                answer.flags = 0;
                answer.error = -EINVAL;
            }
        }
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    die("poll");
}

// The program stays this process; a child answers for the kernel.
static void no_superpackets(void) {
    int told[2], taken[2], number;
    char byte;
    if (pipe2(told, O_CLOEXEC) || pipe2(taken, O_CLOEXEC)) die("pipe");
    pid_t program = getpid();
    if (fork() == 0) {
        if (read(told[0], &number, sizeof number) != sizeof number) die("read");
        int process = syscall(SYS_pidfd_open, program, 0);
        int listener = syscall(SYS_pidfd_getfd, process, number, 0);
        if (listener < 0) die("pidfd_getfd");
        if (write(taken[1], "x", 1) != 1) die("write");
        // Nothing of the program's may stay open here.
        close(process);
        for (int each = 0; each < 64; each++)
            if (each != listener && each != 2) close(each);
        answer(listener);
    }
    struct sock_filter lines[] = {
        LOAD(nr), UNLESS(SYS_writev, 1), RETURN(SECCOMP_RET_USER_NOTIF), RETURN(SECCOMP_RET_ALLOW),
    };
    number = filter(lines, sizeof lines / sizeof *lines, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if (number < 0) die("seccomp");
    if (write(told[1], &number, sizeof number) != sizeof number) die("write");
    if (read(taken[0], &byte, 1) != 1) die("read");
    close(number);
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "no-ipv6")) no_ipv6();
    else if (count > 2 && !strcmp(arguments[1], "no-superpackets")) no_superpackets();
    else return fprintf(stderr, "usage: emulate no-ipv6|no-superpackets PROGRAM [ARGUMENT...]\n"), 64;
    execv(arguments[2], arguments + 2);
    return die(arguments[2]);
}
