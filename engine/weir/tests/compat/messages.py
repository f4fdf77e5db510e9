"""The records every client writes and must read back, byte for byte."""
import sys

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
BASE_MS = 1_700_000_000_000


def pattern(length, seed):
    state, out = seed * 2654435761 + 1, bytearray()
    while len(out) < length:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out += state.to_bytes(8, "big")
    return bytes(out[:length])


def messages(codec):
    """(key, value, headers, timestamp_ms) in order."""
    seed = CODECS.index(codec) + 1
    rows = [
        (b"key", b"value", [], BASE_MS),
        (None, b"no key", [], BASE_MS + 1),
        (b"tombstone", None, [], BASE_MS + 2),
        (b"", b"", [], BASE_MS + 3),
        (b"headers", b"x", [("a", b"1"), ("a", b"2"), ("empty", b"")], BASE_MS + 4),
        (b"text", b"abc" * 5000, [], BASE_MS + 5),
    ]
    rows += [(b"k%d" % n, pattern(n * 7 % 900, n + seed), [], BASE_MS + 10 + n) for n in range(200)]
    # A batch may have 1048588 bytes with its header, also where a codec makes random bytes longer.
    large = pattern(600_000, seed) + bytes(1024 * 1024 - 200 - 600_000)
    rows.append((b"large", large, [], BASE_MS + 1000))
    return rows


def check(codec, got):
    expected = messages(codec)
    for index, (want, have) in enumerate(zip(expected, got)):
        have = (have[0], have[1], [(k, bytes(v)) for k, v in (have[2] or [])], have[3])
        if want != have:
            show = lambda row: [str(part)[:60] for part in row]
            sys.exit(f"{codec}: record {index} differs: wrote {show(want)}, read {show(have)}")
    if len(expected) != len(got):
        sys.exit(f"{codec}: wrote {len(expected)} records, read {len(got)}")


def main(client, produce, consume):
    mode, address, topic_prefix = sys.argv[1:4]
    for codec in CODECS:
        topic = f"{topic_prefix}-{codec}"
        if mode == "produce":
            produce(address, topic, codec, messages(codec))
        else:
            check(codec, consume(address, topic, len(messages(codec))))
    print(f"{client} {mode} ok")
