# Runs a command on a terminal of its own, types to it, and tells what came back: the command's arguments are
# this script's. It leaves with 1 if an answer doesn't come or the terminal isn't left as it was.
import fcntl, os, pty, select, struct, sys, termios

# What to wait for, and what to type then.
STEPS = [
    (b">>> ", b"import os; os.get_terminal_size()\r"),
    (b"columns=99, lines=33", b""),
    (b">>> ", b"20 + 1\r"),
    (b"21\r\n", b""),
    # The line before, and in it another digit, with the editor's keys: the terminal must be in raw mode.
    (b">>> ", b"\x1b[A\x7f2\r"),
    (b"22\r\n", b""),
    (b">>> ", b"input('name? ')\r"),
    (b"name? ", b"Cairn\r"),
    (b"'Cairn'\r\n", b""),
    (b">>> ", b"raise SystemExit(3)\r"),
]
PATIENCE = 60

master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
before = termios.tcgetattr(slave)
child = os.fork()
if child == 0:
    os.login_tty(slave)
    os.execvp(sys.argv[1], sys.argv[1:])

seen = b""
for expected, answer in STEPS:
    while expected not in seen:
        if not select.select([master], [], [], PATIENCE)[0]:
            sys.exit(f"{expected} doesn't come, but {seen}")
        seen += os.read(master, 65536)
    seen = seen[seen.index(expected) + len(expected):]
    os.write(master, answer)

status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("status", status)
if termios.tcgetattr(slave) != before:
    sys.exit("the terminal isn't left as it was")
