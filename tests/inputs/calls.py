# Calls that ordinary single-threaded programs make now and then, and what they answer.
import csv, datetime, glob, io, locale, mmap, os, re, resource, select, signal, sys, time, zoneinfo

r, w = os.pipe()
poll = select.poll()
poll.register(r, select.POLLIN)
print(poll.poll(0))
os.write(w, b"x")
print(poll.poll()[0][1], [len(ready) for ready in select.select([r], [w], [], 1)])
epoll = select.epoll()
epoll.register(r)
print(len(epoll.poll(1)))

print(signal.signal(signal.SIGTERM, lambda *a: None), signal.getsignal(signal.SIGUSR2))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
signal.raise_signal(signal.SIGUSR1)
print(signal.sigpending(), signal.sigtimedwait([signal.SIGUSR1], 1).si_signo)
print(signal.sigpending(), signal.sigtimedwait([signal.SIGUSR1], 0))
print(signal.setitimer(signal.ITIMER_REAL, 0), signal.getitimer(signal.ITIMER_REAL))

print(os.nice(0), os.nice(3), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
print(os.sched_getparam(0), os.sched_get_priority_max(os.SCHED_RR), os.sched_get_priority_min(os.SCHED_FIFO))
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
print(len(os.sched_getaffinity(0)), os.getresuid() == (os.getuid(),) * 3)
os.setuid(os.getuid())
os.setresgid(-1, os.getgid(), -1)
try:
    os.wait()
except ChildProcessError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0)
os.sync()

with open("text", "rb") as file:
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    view[:4] = b"ABCD"
    parts = [bytearray(5), bytearray(9)]
    print(view.find(b"GNU"), len(view), view[:4], os.preadv(file.fileno(), parts, 30), parts)
print(sorted(map(str, os.walk("."))), sorted(glob.glob("**", recursive=True)))
print(re.findall(r"\bGNU \w+", open("text").read())[:3], os.readlink("sub/link"), os.path.realpath("sub/link"))
print([open("/proc/self/" + name).read().split()[0] for name in ("comm", "cmdline")])

before = time.monotonic()
time.sleep(0.01)
print(time.monotonic() - before >= 0.01, time.process_time() > 0, locale.setlocale(locale.LC_ALL, ""))
# A machine may be without the time zones of others.
there = os.path.exists("/usr/share/zoneinfo/America/New_York")
zone = zoneinfo.ZoneInfo("America/New_York") if there else datetime.timezone.utc
print(datetime.datetime(2024, 7, 1, tzinfo=zone), time.localtime(0).tm_zone)
text = io.StringIO()
csv.writer(text).writerows([["a", 1], ["b c", 'd"e']])
print(repr(text.getvalue()), len(sys.stdin.read()))
