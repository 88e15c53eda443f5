# Changes in the working directory by the ways that Python's library has.
import fcntl, mmap, os, pickle, shutil, sqlite3, tarfile, tempfile, zipfile

with zipfile.ZipFile("/tmp/a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.write("text")
print(zipfile.ZipFile("/tmp/a.zip").testzip(), zipfile.ZipFile("/tmp/a.zip").extract("text", "unpacked"))
with tarfile.open("/tmp/a.tar", "w") as archive:
    archive.add("sub")
tarfile.open("/tmp/a.tar").extractall("untarred")
for name in ("/tmp/a.zip", "/tmp/a.tar"):
    os.unlink(name)

shutil.copytree("sub", "copy", symlinks=True)
shutil.move("copy", "moved")
shutil.rmtree("moved/deep")
shutil.copy2("text", "text2")
with tempfile.TemporaryFile(dir=".") as file, tempfile.NamedTemporaryFile() as named:
    print(file.write(b"unnamed"), named.write(b"named"))
os.rmdir(tempfile.mkdtemp(dir="."))

with open("numbers", "r+b") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    fcntl.lockf(file, fcntl.LOCK_EX)
    view = mmap.mmap(file.fileno(), 0)
    view[:5] = b"first"
    view.flush()
    view.close()
    print(os.pwritev(file.fileno(), [b"abc", b"d"], 100), os.pwrite(file.fileno(), b"end", file.seek(0, 2)))
    os.fsync(file.fileno())

directory = os.open(".", os.O_RDONLY)
os.mkdir("made", dir_fd=directory)
descriptor = os.open("made/sized", os.O_RDWR | os.O_CREAT, 0o640)
os.posix_fallocate(descriptor, 0, 1000)
os.truncate("made/sized", 10)
print(os.sendfile(descriptor, os.open("text", os.O_RDONLY), 0, 100))
print(os.copy_file_range(os.open("text", os.O_RDONLY), descriptor, 50), os.fstat(descriptor).st_size)
os.link("made/sized", "hard")
os.replace("hard", "replaced")
os.symlink("replaced", "soft")
os.utime("replaced", (1, 2))
print(os.stat("soft").st_mtime, os.stat("soft").st_nlink, oct(os.stat("soft").st_mode))

database = sqlite3.connect("python.db")
with database:
    database.execute("create table t (n)")
    database.executemany("insert into t values (?)", ((n,) for n in range(1000)))
print(database.execute("select sum(n) from t").fetchone())
pickle.dump([1, "two"], open("pickled", "wb"))
