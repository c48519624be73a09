"""Requests that no honest client sends, as the bytes on the socket. The same seed gives the same requests."""

import gzip
import json
import random
import struct
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

GOOD = (Path(__file__).parents[2] / "golden" / "images" / "cat_tiny_60x40.jpg").read_bytes()
PICTURE = GOOD[:-200]  # cut off, so refused before the network: it is the attack that is felt, not honest work
URI = "data:image/jpeg;base64," + b64encode(PICTURE).decode()
ROUTES = [
    (b"POST", b"/embed"),
    (b"POST", b"/v1/embeddings"),
    (b"GET", b"/v1/models"),
    (b"POST", b"/model/metric_learn:embed"),
    (b"POST", b"/model/metric_learn/version/1:embed"),
    (b"GET", b"/model/metric_learn"),
    (b"GET", b"/v2"),
    (b"GET", b"/v2/health/ready"),
    (b"GET", b"/v2/models/metric_learn"),
    (b"POST", b"/v2/models/metric_learn/infer"),
    (b"GET", b"/openapi.json"),
    (b"GET", b"/"),
]
METHODS = [
    *b"GET HEAD POST PUT DELETE PATCH OPTIONS TRACE CONNECT PRI get POSTX M-SEARCH PROPFIND".split(),
    b"",
    b"A" * 9000,
    b"G\x00T",
    b"PO ST",
    b"\xff\xfe",
]
TARGETS = [
    b"*",
    b"",
    b"//",
    b"/..;/embed",
    b"/../../etc/passwd",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/embed%00.jpg",
    b"/embed%",
    b"/%zz",
    b"/%c0%af",
    b"/embed\0",
    b"/embed\xff",
    b"/embed?" + b"a=" * 3000,
    b"/embed#part",
    b"/EMBED",
    b"/embed/",
    b"/" + b"a" * 70_000,
    b"/" + b"a/" * 5000,
    b"http://127.0.0.1/embed",
    b"http://other.example/embed",
    b"https://other.example:443/",
    b"file:///etc/passwd",
    b"other.example:443",
    b"/model/metric_learn/version/99999999999999999999:embed",
    b"/model/metric_learn/version/-1:embed",
    b"/model/metric_learn/version/%31:embed",
    b"/model/other:embed",
    b"/model/metric_learn:",
    b"/model/metric_learn:embed:embed",
    b"/v2/models/metric_learn/versions/0/ready",
    b"/v2/models//infer",
    b"/v2/models/%F0%9F%98%80/infer",
]
HOSTS = [
    b"",
    b"a b",
    b"evil.example",
    b"127.0.0.1:99999",
    b"[::1",
    b"user@host",
    b"h\0st",
    b"\xff",
    b"a" * 5000,
    b"a,b",
]
VALUES = [
    b"",
    b" ",
    b"\0",
    b"\xff\xfe",
    b"a\rb",
    b"0",
    b"-1",
    b"9" * 30,
    b"\x7f",
    b"x" * 3000,
    b"%s%n",
    b"\xe2\x80\xae",
]
NAMES = (
    b"Accept Accept-Encoding Authorization Connection Content-Encoding Content-Length Content-Type Cookie Expect Host "
    b"If-None-Match Keep-Alive Origin Range TE Trailer Transfer-Encoding Upgrade X-Forwarded-For X-Request-Id Via "
    b"traceparent Content_Length Transfer_Encoding X_Request_Id grpc-timeout x-metric-learn-deadline-ms HTTP2-Settings "
    b"Inference-Header-Content-Length"
).split()
LENGTHS = [
    b"+5",
    b"-5",
    b"0x5",
    b"5, 5",
    b"5,6",
    b"05",
    b"5 5",
    b"",
    b"1e3",
    b"18446744073709551616",
    b"9" * 400,
    "٥".encode(),
]
CODINGS = [
    b"chunked, identity",
    b"identity",
    b"xchunked",
    b"chunked, chunked",
    b" chunked",
    b"\tchunked",
    b"chunKed",
    b'"chunked"',
    b"gzip, chunked",
]
BOMB = gzip.compress(bytes(1 << 27)) * 8  # 1 GB in 1 MB


@dataclass(frozen=True)
class Attack:
    """parts are sent one after the other, `pause_s` apart. end: "wait" for the answer, "cut" off at once."""

    kind: str
    parts: tuple[bytes, ...]
    end: str = "wait"
    pause_s: float = 0.0
    most_answers: int = 1  # more would be an answer to what a proxy before the server took for a body


def attacks(seed, count):
    chance = random.Random(seed)
    kinds = list(KINDS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield kind(chance)


def head(method, target, *lines, version=b"HTTP/1.1", host=b"127.0.0.1"):
    start = method + b" " + target + (b" " + version if version else b"")
    return b"\r\n".join([start, b"Host: " + host, *lines, b"", b""])


def sized(body, *lines, method=b"POST", target=b"/embed"):
    return head(method, target, b"Content-Length: %d" % len(body), *lines) + body


def odd_method(chance):
    _, target = chance.choice(ROUTES)
    body = chance.choice([b"", PICTURE])
    return Attack("method", (sized(body, method=chance.choice(METHODS), target=target),), most_answers=2)


def odd_target(chance):
    target = chance.choice(TARGETS)
    if chance.random() < 0.3:
        target = b"/" + bytes(chance.choice(b"%./:;?#&=\\ abz019\0\xff~") for _ in range(chance.randint(1, 60)))
    return Attack("target", (sized(b"x", method=chance.choice([b"GET", b"POST"]), target=target),), most_answers=2)


def odd_host(chance):
    method, target = chance.choice(ROUTES)
    return Attack("host", (head(method, target, b"Content-Length: 0", host=chance.choice(HOSTS)),))


def no_host(chance):
    method, target = chance.choice(ROUTES)
    return Attack("no host", (method + b" " + target + b" HTTP/1.1\r\nContent-Length: 0\r\n\r\n",))


def odd_header(chance):
    lines = [
        chance.choice(NAMES) + chance.choice([b": ", b":", b" : ", b":\t"]) + chance.choice(VALUES)
        for _ in range(chance.randint(1, 4))
    ]
    method, target = chance.choice(ROUTES)
    return Attack("header", (sized(b"x", *lines, method=method, target=target),), most_answers=2)


def broken_header(chance):
    line = chance.choice(
        [
            b"no colon",
            b": no name",
            b" folded: x",
            b"a b: c",
            b"a\0b: c",
            b"n\xffme: x",
            b"a: b\r\n c",
            b"a: b\nc: d",
            b"\r",
            b"a\x0b: b",
        ]
    )
    method, target = chance.choice(ROUTES)
    return Attack("broken header", (sized(b"x", line, method=method, target=target),), most_answers=2)


def many_headers(chance):
    lines = [b"X-%d: %s" % (number, b"v" * chance.choice([1, 20])) for number in range(chance.choice([50, 500, 3000]))]
    return Attack("many headers", (sized(PICTURE, *lines),), most_answers=2)


def large_header(chance):
    line = chance.choice(NAMES) + b": " + b"v" * chance.choice([8_000, 60_000, 300_000])
    return Attack("large header", (sized(PICTURE, line),), most_answers=2)


def repeated_header(chance):
    name, one, other = chance.choice(
        [
            (b"Content-Length", b"%d" % len(PICTURE), b"0"),
            (b"Content-Length", b"%d" % len(PICTURE), b"%d" % len(PICTURE)),
            (b"Content-Length", b"5", b"6"),
            (b"Host", b"a", b"b"),
            (b"Authorization", b"Bearer aaaaaaaaaaaaaaaaaaaa", b"Bearer bbbbbbbbbbbbbbbbbbbbbbb"),
            (b"Content-Type", b"application/json", b"image/jpeg"),
            (b"Transfer-Encoding", b"chunked", b"chunked"),
            (b"X-Request-Id", b"a", b"b"),
            (b"Content-Encoding", b"gzip", b"gzip"),
        ]
    )
    request = head(b"POST", b"/embed", name + b": " + one, name + b": " + other) + PICTURE
    return Attack("repeated header", (request,), most_answers=2)


def smuggled(chance):
    """One request to a proxy, two to a server that reads its length otherwise: the second must get no answer."""
    inner = head(b"GET", b"/v1/models")
    form = chance.randrange(4)
    if form == 0:
        lines, body = [b"Content-Length: %d" % (5 + len(inner)), b"Transfer-Encoding: chunked"], b"0\r\n\r\n" + inner
    elif form == 1:
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
        lines, body = [b"Content-Length: 4", b"Transfer-Encoding: chunked"], chunk
    elif form == 2:
        lines, body = (
            [b"Content-Length: %d" % (5 + len(inner)), b"Transfer-Encoding:" + chance.choice(CODINGS)],
            b"0\r\n\r\n" + inner,
        )
    else:
        lines, body = [b"Content-Length: " + chance.choice([b"+5", b"-5", b"0x5", b"5,6", b"5 5", b"1e3"])], inner
    return Attack("smuggled", (head(chance.choice([b"POST", b"GET"]), b"/embed", *lines) + body,), end="drain")


def odd_length(chance):
    body = chance.choice([b"12345", PICTURE])
    return Attack(
        "length", (head(b"POST", b"/embed", b"Content-Length: " + chance.choice(LENGTHS)) + body,), most_answers=3
    )


def odd_chunks(chance):
    good = b"%x\r\n%s\r\n" % (len(PICTURE), PICTURE)
    body = chance.choice(
        [
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\nhello",
            b"1" + b"0" * 40 + b"\r\nhello",
            b"5;" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"\r\n\r\n",
            b"zz\r\n",
            good + b"0\r\n" + b"T: v\r\n" * 5000 + b"\r\n",
            b"1;a=b;c=d\r\nx\r\n" * 5000 + b"0\r\n\r\n",
            b"0" * 100_000 + b"\r\n\r\n",
            good + b"0\r\nContent-Length: 5\r\n\r\n",
            good + b"00000000000000000000\r\n\r\n",
            b"".join(b"1\r\n%c\r\n" % byte for byte in PICTURE) + b"0\r\n\r\n",
        ]
    )
    return Attack("chunks", (head(b"POST", b"/embed", b"Transfer-Encoding: chunked") + body,), most_answers=3)


def short_body(chance):
    request = head(b"POST", b"/embed", b"Content-Length: %d" % (len(PICTURE) + chance.randint(1, 10**6))) + PICTURE
    return Attack("short body", (request,), end="cut" if chance.random() < 0.9 else "wait")


def gigabyte(chance):
    size = chance.choice([1 << 30, (1 << 31) - 1, 1 << 40, 2**63])
    method, target = chance.choice(ROUTES)
    lines = [b"Content-Length: %d" % size] + ([b"Expect: 100-continue"] if chance.random() < 0.3 else [])
    return Attack("gigabyte", (head(method, target, *lines) + PICTURE,), end=chance.choice(["wait", "wait", "cut"]))


def bomb(chance):
    coding = chance.choice([b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"identity", b"nonsense"])
    target = chance.choice(
        [b"/embed", b"/v1/embeddings", b"/v2/models/metric_learn/infer", b"/model/metric_learn:embed"]
    )
    body = BOMB if chance.random() < 0.5 else PICTURE
    return Attack("bomb", (sized(body, b"Content-Encoding: " + coding, target=target),), most_answers=2)


def slow(chance):
    request = sized(PICTURE)
    stop = chance.randint(1, len(request))
    step = chance.randint(1, 200)
    parts = tuple(request[start : start + step] for start in range(0, stop, step))[:40]
    return Attack("slow", parts, end="cut", pause_s=0.002)


def stalled(chance):
    """A head or a body that stops in the middle, on a connection that stays open."""
    request = sized(PICTURE)
    if chance.random() < 0.8:  # most of them cut, since the others last as long as the server lets them
        return Attack("stalled", (request[: chance.randrange(len(request))],), end="cut")
    return Attack("stalled", (request[: chance.randint(1, len(request) - 1)],))


def pipelined(chance):
    requests = []
    for _ in range(chance.randint(2, 20)):
        method, target = chance.choice(ROUTES)
        requests.append(sized(b"" if method == b"GET" else b"x", method=method, target=target))
    return Attack("pipelined", (b"".join(requests),), end=chance.choice(["cut", "wait"]), most_answers=len(requests))


def other_protocol(chance):
    request = chance.choice(
        [
            b"GET /\r\n",
            b"GET /\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
            head(b"GET", b"/", version=b"HTTP/1.0"),
            head(b"GET", b"/", version=b"HTTP/9.9"),
            head(b"GET", b"/", version=b"http/1.1"),
            head(b"GET", b"/", version=b"HTTP/1.1 x"),
            head(b"GET", b"/", version=b""),
            b"\r\n" * 50 + head(b"GET", b"/v1/models"),
            b"\0" * 2000,
            b"SSH-2.0-OpenSSH_9.0\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            head(
                b"GET",
                b"/",
                b"Upgrade: h2c",
                b"Connection: Upgrade, HTTP2-Settings",
                b"HTTP2-Settings: AAMAAABkAAQAAP__",
            ),
            head(
                b"GET",
                b"/",
                b"Upgrade: websocket",
                b"Connection: Upgrade",
                b"Sec-WebSocket-Key: AAAA",
                b"Sec-WebSocket-Version: 13",
            ),
            sized(PICTURE, b"Upgrade: h2c", b"Connection: Upgrade") + bytes(chance.randint(0, 40)),
            sized(PICTURE, b"Upgrade: websocket", b"Connection: upgrade")[: -chance.randint(1, 900)],
            chance.randbytes(chance.randint(1, 3000)),
        ]
    )
    return Attack("other protocol", (request,), end=chance.choice(["wait", "cut", "cut"]))


def mutated(chance):
    """A good request with some bytes changed, taken away or put in twice."""
    request = bytearray(
        chance.choice([sized(PICTURE), sized(b"", method=b"GET", target=b"/v1/models"), _openai(URI), _multipart(2)])
    )
    for _ in range(chance.randint(1, 6)):
        where = chance.randrange(min(len(request), 400))
        change = chance.randrange(3)
        if change == 0:
            request[where] = chance.randrange(256)
        elif change == 1:
            del request[where : where + chance.randint(1, 9)]
        else:
            request[where:where] = request[where : where + chance.randint(1, 60)]
    return Attack("mutated", (bytes(request),), end=chance.choice(["cut", "cut", "wait", "cut"]), most_answers=5)


def odd_json(chance):
    target = chance.choice(
        [b"/v1/embeddings", b"/model/metric_learn:embed", b"/v2/models/metric_learn/infer", b"/embed"]
    )
    value = _odd_value(chance, 3)
    raw = chance.choice(
        [
            lambda: json.dumps({"model": "metric_learn", "input": value}).encode(),
            lambda: json.dumps(
                {"model": value, "input": URI, chance.choice(["user", "dimensions", "\ud800"]): value}
            ).encode(),
            lambda: json.dumps({"instances": [{"image": {"b64": value}}, value]}).encode(),
            lambda: json.dumps(
                {"id": value, "inputs": [{"name": "image", "shape": [value], "datatype": "BYTES", "data": [value]}]}
            ).encode(),
            lambda: json.dumps(value).encode(),
            lambda: b"[" * 100_000,
            lambda: b'{"input": ' + b"[" * 8000 + b"]" * 8000 + b"}",
            lambda: b"{" + b'"input": "x",' * 8000 + b'"model": "x"}',
            lambda: b"{" + b",".join(b'"%d": 1' % number for number in range(8000)) + b"}",
            lambda: b'{"' + b"k" * 500_000 + b'": 1}',
            lambda: b'{"input": 0.' + b"9" * 200_000 + b"}",
            lambda: b'{"input":' * 50_000,
            lambda: b'{"input": 1e999999, "input": -0}',
            lambda: b'{"input": NaN}',
            lambda: b"1" * 200_000,
            lambda: b'{"input": "\xff\xfe"}',
            lambda: "{}".encode("utf-16"),
            lambda: b"\xef\xbb\xbf{}",
            lambda: b'{"a":"' + b"\\ud800" * 20_000 + b'"}',
            lambda: b"",
        ]
    )()
    return Attack("json", (sized(raw, b"Content-Type: application/json", target=target),))


def odd_uri(chance):
    uri = chance.choice(
        [
            URI.upper(),
            URI[:-7],
            URI.replace("base64", "base32"),
            "data:,",
            "data:image/jpeg;base64," + "A" * chance.randint(0, 2000),
            "data:" + ";" * 5000,
            "http://127.0.0.1:1/a.jpg",
            "file:///etc/passwd",
            "data:image/svg+xml;base64,PHN2Zy8+",
            " " + URI,
            URI.replace(",", ",\n \t"),
            URI + "====",
            "d" * 100_000,
            URI.replace("/", "%2F").replace("+", "%2b"),
            URI + "%20" * 100_000,
            URI + "%" * 100_000,
            URI + " \t" * 100_000,
            "data:image/jpeg;base64," + "=" * 100_000,
            "data:image/jpeg;base64," + "QQ==" * 100_000,
        ]
    )
    return Attack(
        "uri", (_openai(chance.choice([uri, [uri], [URI, uri], [{"type": "image_url", "image_url": {"url": uri}}]])),)
    )


def odd_multipart(chance):
    boundary = chance.choice([b"b", b"", b"x" * 5000, b"\xff", b'b"; a="c', b"a b"])
    body = chance.choice(
        [
            b"--b\r\n\r\n",
            b"--b--\r\n",
            b"--b\r\n" * 10_000,
            b'--b\r\nContent-Disposition: form-data; name="' + b"n" * 50_000 + b'"\r\n\r\nx\r\n--b--\r\n',
            b"--b\r\nContent-Disposition: form-data; name=a; filename=../../etc/passwd\r\n\r\n"
            + PICTURE
            + b"\r\n--b--\r\n",
            b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n" + PICTURE,
            b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
            b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 10_000 + b"--b--\r\n",
            b"\r\n--" * 100_000,
            b"--b\r\n" + b"X: y\r\n" * 3000 + b"\r\nx\r\n--b--\r\n",
            b"\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!\r\n--b--",
            (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n") * 3000 + b"--b--",
            b"x" * 10_000,
        ]
    )
    return Attack(
        "multipart", (sized(body, b"Content-Type: multipart/form-data; boundary=" + boundary),), most_answers=2
    )


def odd_tensor(chance):
    """The binary tensor extension of the Open Inference Protocol with lengths that do not fit."""
    size = chance.choice([len(PICTURE) + 4, 0, -1, 1 << 62, 7])
    tensor = {
        "name": "image",
        "shape": [chance.choice([1, 0, -1, 1 << 40, 2])],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": size},
    }
    text = json.dumps(
        {"inputs": [tensor], "outputs": [{"name": "embedding", "parameters": {"binary_data": True}}]}
    ).encode()
    length = chance.choice([len(text), 0, -1, len(text) + 5, 1 << 62])
    data = struct.pack("<I", chance.choice([len(PICTURE), 0, 0xFFFFFFFF, 3])) + PICTURE
    line = b"Inference-Header-Content-Length: %d" % length
    return Attack("tensor", (sized(text + data, line, target=b"/v2/models/metric_learn/infer"),))


def odd_shape(chance):
    """Tensors in JSON whose shape, numbers or nesting do not fit."""
    one = b"1," * 150_527 + b"1"
    data = chance.choice([b"", b"1", one, one.replace(b"1", b"-1"), one.replace(b"1", b"1.5"), b"[" * 900 + b"]" * 900])
    shape = chance.choice(
        [
            b"1,224,224,3",
            b"0,224,224,3",
            b"4611686018427387904,224,224,3",
            b"9" * 5000,
            b"1.5",
            b"true",
            b"1," * 9999 + b"1",
        ]
    )
    tensor = b'{"name": "pixels", "datatype": "UINT8", "shape": [%b], "data": [%b]}' % (shape, data)
    body = b'{"inputs": [%b]}' % b",".join([tensor] * chance.choice([1, 1, 1, 2] if len(tensor) > 9999 else [1, 300]))
    return Attack(
        "shape",
        (sized(body, b"Content-Type: application/json", target=b"/v2/models/metric_learn/infer"),),
        most_answers=2,
    )


def honest(chance):
    uri = "data:image/jpeg;base64," + b64encode(GOOD).decode()
    request = chance.choice([sized(GOOD), sized(GOOD, b"Accept: application/x-npy"), _openai([uri])])
    return Attack("honest", (request,))


KINDS = [
    odd_method,
    odd_target,
    odd_host,
    no_host,
    odd_header,
    broken_header,
    many_headers,
    large_header,
    repeated_header,
    smuggled,
    odd_length,
    odd_chunks,
    short_body,
    gigabyte,
    bomb,
    slow,
    stalled,
    pipelined,
    other_protocol,
    mutated,
    odd_json,
    odd_uri,
    odd_multipart,
    odd_tensor,
    odd_shape,
    honest,
]


def _openai(value):
    body = json.dumps({"model": "metric_learn", "input": value}).encode()
    return sized(body, b"Content-Type: application/json", target=b"/v1/embeddings")


def _multipart(count):
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + PICTURE + b"\r\n"
    return sized(part * count + b"--b--\r\n", b"Content-Type: multipart/form-data; boundary=b")


def _odd_value(chance, depth):
    plain = [None, True, 0, -1, 1 << 70, 1.5, "", "x", "\0", "\ud800", URI, "A" * 5000, [], {}, [[]], "🖼"]
    if depth and chance.random() < 0.4:
        if chance.random() < 0.5:
            return [_odd_value(chance, depth - 1) for _ in range(chance.randint(0, 4))]
        return {
            chance.choice(["b64", "type", "shape", "url", "image_url", "text"]): _odd_value(chance, depth - 1)
            for _ in range(2)
        }
    return chance.choice(plain)
