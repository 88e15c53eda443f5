import collections, datetime, decimal, hashlib, itertools, json, math, os, random, re, struct, sys, tempfile, zlib

text = open('text').read()
words = collections.Counter(re.findall(r'\w+', text.lower()))
print(words.most_common(20))
print(hashlib.sha256(text.encode()).hexdigest(), zlib.crc32(text.encode()))
print(json.dumps({'counts': sorted(set(words.values())), 'here': os.path.exists('text')}))
random.seed(7)
print([random.random() for _ in range(5)], math.factorial(200))
print(decimal.Decimal(2).sqrt(), datetime.datetime(2024, 2, 29).isoformat())
with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'x')
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', 42))
    print(os.stat(path).st_size, os.listdir(directory))
print(sum(1 for _ in itertools.permutations(range(7))), len(sys.stdin.read()))
try:
    open('/nonexistent')
except OSError as error:
    print(error)
