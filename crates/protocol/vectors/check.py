#!/usr/bin/env python3
"""A second reading of docs/protocol.md: checks the vectors beside it with nothing of the Rust code.

Needs python3-cryptography. Exits with an assertion error where text and vectors disagree.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import pathlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).resolve().parent
RAW = (Encoding.Raw, PublicFormat.Raw)


def main():
    for check in (keys, identities, credentials, servers, messages, announcements, control, certificates):
        check(json.loads((HERE / f"{check.__name__}.json").read_text()))
        print(f"{check.__name__}: agreed")


# Keys


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key, *parts):
    return hmac.digest(key, b"".join(parts), "sha256")


def derive(psk, label):
    return mac(mac(b"campfire/2", psk), label.encode(), b"\x01")


def keys(v):
    for case in v["derived"]:
        psk = bytes.fromhex(case["psk"])
        assert case["text"] == b64url(psk)
        for label, value in case["derive"].items():
            assert value == derive(psk, label).hex(), label
        assert case["fingerprint"] == derive(psk, "fingerprint")[:8].hex()
        assert case["network_id"] == derive(psk, "network")[:5].hex()
        assert case["relay_secret"] == b64url(derive(psk, "relay"))
    tag_key = derive(bytes.fromhex(v["derived"][0]["psk"]), "tag")
    for case in v["tags_of_the_first"]:
        assert case["tag"] == mac(tag_key, case["what"].encode())[:8].hex()


def identities(v):
    prefix = b"\xfd" + bytes.fromhex(v["network_id"])
    assert ipaddress.IPv6Network(v["prefix"]) == ipaddress.IPv6Network((prefix + bytes(10), 48))
    for case in v["identities"]:
        seed = bytes.fromhex(case["seed"])
        secret = Ed25519PrivateKey.from_private_bytes(seed)
        public = secret.public_key().public_bytes(*RAW)
        assert case["public_key"] == public.hex()
        x25519 = hashlib.sha512(seed).digest()[:32]
        assert case["x25519_secret"] == x25519.hex()
        assert case["x25519_public"] == X25519PrivateKey.from_private_bytes(x25519).public_key().public_bytes(*RAW).hex()
        assert case["signature_of_the_text_message"] == secret.sign(b"message").hex()
        h = sha256(b"campfire/2 address", public)
        assert case["address"] == str(ipaddress.IPv6Address(prefix + h[:10]))
        for pool in case["ipv4"]:
            network = ipaddress.IPv4Network(pool["pool"])
            if network.prefixlen > 29:
                assert pool["address"] is None
                continue
            host = 2 + int.from_bytes(h[10:14], "big") % (network.num_addresses - 3)
            assert pool["address"] == str(network.network_address + host)
    for case in v["wireguard_preshared"]:
        pair = sorted([bytes.fromhex(case["one"]), bytes.fromhex(case["other"])])
        assert case["preshared"] == mac(derive(bytes.fromhex(case["psk"]), "wireguard"), *pair).hex()


def credentials(v):
    secret, name = v["relay_secret"].encode(), v["user_name"]
    assert name.startswith(f"{v['expiry']}:")
    password = base64.b64encode(hmac.digest(secret, name.encode(), "sha1")).decode()
    assert v["password"] == password
    assert v["long_term_key_md5"] == hashlib.md5(f"{name}:{v['realm']}:{password}".encode()).hexdigest()
    assert v["long_term_key_sha256"] == sha256(f"{name}:{v['realm']}:{password}".encode()).hex()
    assert v["campfire_key"] == sha256(f"{name}:campfire:{password}".encode()).hex()
    member = sha256(b"campfire/2 member", bytes.fromhex(v["member_token"]))[:16]
    assert v["member_id"] == member.hex()
    assert v["push_key"] == mac(secret, b"push", member).hex()


def servers(v):
    psks = {case["fingerprint"]: bytes.fromhex(case["psk"]) for case in json.loads((HERE / "keys.json").read_text())["derived"]}
    for case in v["scores"]:
        key = derive(psks[case["fingerprint"]], "server")
        scores = [mac(key, server["id"].encode()) for server in case["best_first"]]
        assert scores == sorted(scores, reverse=True)
        for score, server in zip(scores, case["best_first"]):
            assert (server["score"], server["tag"]) == (score.hex(), score[:8].hex())


# STUN

NAMES = {
    0x0006: "USERNAME", 0x0009: "ERROR-CODE", 0x000C: "CHANNEL-NUMBER", 0x000D: "LIFETIME", 0x0015: "NONCE",
    0x001C: "INTEGRITY", 0x0020: "MAPPED", 0x0026: "PADDING", 0x4C01: "ROOM", 0x4C02: "TOKEN", 0x4C03: "FROM",
    0x4C04: "TO", 0x4C05: "TIME", 0x4C06: "ANNOUNCEMENT", 0x4C07: "TAGS", 0x4C08: "CURSOR", 0x4C09: "PREVIOUS",
    0x4C0A: "HEAD", 0x4C0B: "ENTRY", 0x4C0C: "RESET", 0x4C0D: "MEMBERS", 0x4C0E: "SERVER-ID", 0x4C0F: "DATA", 0x4C10: "LEAVING",
    0x4C11: "INSTANCE",
}  # fmt: skip


def stun(message, key):
    """Checks framing and integrity; gives type, transaction and attributes."""
    kind, length, cookie = struct.unpack(">HHI", message[:8])
    assert cookie == 0x2112A442 and length == len(message) - 20 and length % 4 == 0
    attributes, at = [], 20
    while at < len(message):
        number, size = struct.unpack(">HH", message[at : at + 4])
        value = message[at + 4 : at + 4 + size]
        if NAMES[number] == "INTEGRITY":
            assert at + 36 == len(message), "integrity is last"
            assert value == mac(key, message[:at])
        attributes.append((NAMES[number], value))
        at += 4 + (size + 3) // 4 * 4
    assert ("INTEGRITY" in dict(attributes)) == (key is not None)
    return kind, message[8:20], [a for a in attributes if a[0] != "INTEGRITY"]


def messages(v):
    psk = bytes.fromhex(json.loads((HERE / "keys.json").read_text())["derived"][0]["psk"])
    tags = {what: mac(derive(psk, "tag"), what.encode())[:8] for what in ("fdde:ad00:beef::1", "web-0")}
    member, other, token = (bytes.fromhex(v[k]) for k in ("member_id", "other_member_id", "member_token"))
    user, nonce = ("USERNAME", v["user_name"].encode()), ("NONCE", v["nonce"].encode())
    cursor = lambda sequence: bytes.fromhex("0102030405060708") + struct.pack(">Q", sequence)
    entries = [("ENTRY", other + b"opaque to servers"), ("ENTRY", bytes([7] * 16))]
    room, time = ("ROOM", derive(psk, "room")), ("TIME", struct.pack(">Q", 1_800_000_000_123))
    sixty, zero, later = ("LIFETIME", struct.pack(">I", 60)), ("LIFETIME", bytes(4)), ("TIME", struct.pack(">Q", 1_800_000_000_456))
    first = [user, room, ("TOKEN", token), sixty, time, ("CURSOR", bytes(16)), ("ANNOUNCEMENT", b"opaque to servers, too")]
    first.append(("TAGS", tags["fdde:ad00:beef::1"] + tags["web-0"]))
    transaction = bytes.fromhex(v["transaction"])
    mapped = lambda address, port: (
        "MAPPED",
        bytes([0, 1 if len(address) == 4 else 2])
        + struct.pack(">H", port ^ 0x2112)
        + bytes(a ^ b for a, b in zip(address, bytes.fromhex("2112a442") + transaction)),
    )
    used = sum(4 + (len(value) + 3) // 4 * 4 for _, value in first)
    pair = [("FROM", member), ("TO", other)]
    members = lambda count: ("MEMBERS", struct.pack(">I", count))
    expected = {
        "camp_first": (0x02E1, first + [("PADDING", bytes(1_200 - 20 - used - 4 - 36))]),
        "camp_with_nonce": (0x02E1, [user, nonce] + first[1:]),
        "camp_refresh": (0x02E1, [user, nonce, room, ("TOKEN", token), sixty, time, ("CURSOR", cursor(41))]),
        "camp_leave": (0x02E1, [user, nonce, room, ("TOKEN", token), zero, time, ("CURSOR", cursor(41))]),
        "camp_success": (0x03E1, [sixty, ("SERVER-ID", b"east-1"), ("INSTANCE", b"instance"), later, mapped(bytes([192, 0, 2, 7]), 51820), nonce, members(3),
                                  ("RESET", b""), ("CURSOR", cursor(41)), ("HEAD", struct.pack(">Q", 43))] + entries),
        "camp_success_of_a_large_room": (0x03E1, [sixty, ("INSTANCE", b"instance"), later, mapped(ipaddress.ip_address("2001:db8::7").packed, 51820), nonce,
                                                  members(10_000 | 1 << 31), ("CURSOR", cursor(41)), ("HEAD", struct.pack(">Q", 41)),
                                                  ("LEAVING", b"")]),
        "ember": (0x02F2, [("TO", member), ("PREVIOUS", cursor(39)), ("CURSOR", cursor(41))] + entries),
        "ember_leaving": (0x02F2, [("TO", member), ("PREVIOUS", cursor(41)), ("CURSOR", cursor(41)), ("LEAVING", b"")]),
        "find": (0x02E3, [user, nonce, ("FROM", member), ("TAGS", tags["web-0"])]),
        "find_success": (0x03E3, entries[:1]),
        "signal": (0x02E4, [user, nonce] + pair + [("DATA", b"a WireGuard message")]),
        "signal_success": (0x03E4, []),
        "signal_indication": (0x02F4, [("FROM", other), ("TO", member), ("DATA", b"a WireGuard message")]),
        "bind": (0x02E5, [user, nonce] + pair + [("CHANNEL-NUMBER", bytes.fromhex("40010000"))]),
        "bind_success": (0x03E5, []),
        "bind_release": (0x02E5, [user, nonce] + pair + [("CHANNEL-NUMBER", bytes.fromhex("40010000")), zero]),
        "bind_release_success": (0x03E5, []),
        "camp_failure_unproven": (0x03F1, [("ERROR-CODE", bytes([0, 0, 4, 1]) + b"Unauthorized"), nonce, later]),
        "signal_failure_no_such_member": (0x03F4, [("ERROR-CODE", bytes([0, 0, 4, 4]) + b"No such member")]),
    }  # fmt: skip
    assert [m["name"] for m in v["messages"]] and {m["name"] for m in v["messages"]} == set(expected)
    for message in v["messages"]:
        key = None if message["integrity_key"] == "none" else bytes.fromhex(v[message["integrity_key"]])
        data = bytes.fromhex(message["bytes"])
        kind, found, attributes = stun(data, key)
        assert found == transaction
        assert (kind, attributes) == expected[message["name"]], (message["name"], attributes)
        assert len(data) == 1_200 if message["name"] == "camp_first" else len(data) < 1_200


# Announcements and control messages


def hchacha20(key, nonce):
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a, b, c, d):
        for left, right, turn in ((a, b, 16), (c, d, 12), (a, b, 8), (c, d, 7)):
            state[left] = (state[left] + state[right]) & 0xFFFFFFFF
            mixed = state[{a: d, c: b}[left]] ^ state[left]
            state[{a: d, c: b}[left]] = (mixed << turn | mixed >> 32 - turn) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def cbor(data, at=0):
    """One item and where it ends: unsigned integers, strings, arrays, maps, simple values, of definite length."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info >= 24:
        assert info < 28, "indefinite"
        size = 1 << info - 24
        info, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major == 0:
        return info, at
    if major in (2, 3):
        assert at + info <= len(data)
        value = data[at : at + info]
        return (value if major == 2 else value.decode()), at + info
    if major in (4, 5):
        items = []
        for _ in range(info * (major - 3)):
            item, at = cbor(data, at)
            items.append(item)
        return (items if major == 4 else dict(zip(items[::2], items[1::2]))), at
    assert major == 7
    return {20: False, 21: True, 22: None}[info], at


def announcements(v):
    room, member, key, nonce = (bytes.fromhex(v[k]) for k in ("room", "member_id", "announce_key", "nonce"))
    aad = b"campfire/2 announce" + room + member
    assert v["aad"] == aad.hex()
    cipher = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    for case in v["announcements"]:
        sealed = bytes.fromhex(case["sealed"])
        assert sealed[:24] == nonce and len(sealed) <= 700
        plaintext = cipher.decrypt(bytes(4) + nonce[16:], sealed[24:], aad)
        assert case["plaintext"] == plaintext.hex()
        (content, signature), end = cbor(plaintext)
        assert end == len(plaintext)
        signed = b"campfire/2 announcement" + room + member + content
        assert (case["content"], case["signed"], case["signature"]) == (content.hex(), signed.hex(), signature.hex())
        fields, end = cbor(content)
        assert end == len(content) and list(fields) == sorted(fields) and fields[0] == 2
        Ed25519PublicKey.from_public_bytes(fields[1]).verify(signature, signed)
        assert case["fields"] == described(fields), described(fields)


def described(fields):
    eights = lambda data: [data[i : i + 8].hex() for i in range(0, len(data), 8)]
    record = fields.get(13)
    return {
        "public_key": fields[1].hex(),
        "session": {"started": int.from_bytes(fields[2][:8], "big"), "nonce": fields[2][8:].hex()},
        "sequence": fields[3],
        "sent_at": fields[4],
        "name": fields.get(5, ""),
        "namespace": fields.get(6, ""),
        "cluster": fields.get(7, ""),
        "fingerprints": eights(fields.get(8, b"")),
        "servers": eights(fields.get(9, b"")),
        "routes": [f"{ipaddress.ip_address(route[:-1])}/{route[-1]}" for route in fields.get(10, [])],
        "ipv4": str(ipaddress.ip_address(fields[11])) if 11 in fields else None,
        "features": fields.get(12, 0),
        "record": record and {"version": record[0], "servers": [described_server(server) for server in record[1]]},
    }


def described_server(server):
    name, addresses, pin = server
    transports = ["udp", "tcp", "tls"]
    addresses = [{"host": host, "port": port, "transport": transports[transport]} for host, port, transport, _ in addresses]
    return {"id": name, "addresses": addresses, "certificate_pin": pin and pin.hex()}


def control(v):
    kinds = {"Candidates": 1, "Punch": 2, "PunchAck": 3, "Probe": 4, "ProbeReply": 5, "Goodbye": 6, "Chain": 7}
    for case in v["messages"]:
        data = bytes.fromhex(case["bytes"])
        array, end = cbor(data)
        assert array[0] == kinds[case["message"].split(" ")[0]]
        assert not any(data[end:])
        if array[0] in (4, 5):
            assert len(data) == max(end, array[-1])


# Certificates


def certificates(v):
    root = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(v["root_seed"])).public_key().public_bytes(*RAW)
    assert v["root"] == b64url(root)
    for label in v["labels"]:
        digest = sha256(b"campfire/2 label", label["key"].encode(), b"\0", label["value"].encode())
        assert label["digest"] == digest[:10].hex()
    for case in v["chains"]:
        chain = bytes.fromhex(case["chain"])
        assert len(chain) <= 790
        reason, issuer, peer = judged(chain, root, v["now"])
        assert reason is None, reason
        assert case["fields"] == certified(issuer, peer), certified(issuer, peer)
        for time in case["holds"]:
            assert judged(chain, root, time["now"])[0] == (None if time["holds"] else "CertificateExpired")
    for case in v["refused"]:
        assert judged(bytes.fromhex(case["chain"]), root, v["now"])[0] == case["reason"], case["why"]
    for case in v["malformed"]:
        try:
            judged(bytes.fromhex(case["chain"]), root, v["now"])
        except (AssertionError, IndexError):
            continue
        raise AssertionError(case["why"])
    secret = base64.urlsafe_b64decode(v["issuer_text"] + "=" * (-len(v["issuer_text"]) % 4))
    assert secret[:32].hex() == v["issuer_seed"]
    (content, signature), end = cbor(secret[32:])
    assert end == len(secret) - 32
    Ed25519PublicKey.from_public_bytes(root).verify(signature, b"campfire/2 issuer certificate" + content)


def judged(chain, root, now):
    """Why a chain is refused, None if it is not; and what it says."""
    outer, end = cbor(chain)
    assert end == len(chain) and len(outer) == 2
    certificates = []
    for (content, signature), keys, required in zip(outer, (range(9), range(13)), ({0, 1, 2, 3, 4, 7, 8}, {0, 1, 2, 10, 11, 12})):
        fields, end = cbor(content)
        assert end == len(content) and list(fields) == sorted(fields) and len(signature) == 64
        assert required <= set(fields) <= set(keys) and fields[0] == 2
        certificates.append(fields)
    issuer, peer = certificates
    if issuer[2] != root[:8]:
        return "UnknownIssuer", issuer, peer
    for (content, signature), key, label in zip(outer, (root, issuer[1]), ("issuer", "peer")):
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, f"campfire/2 {label} certificate".encode() + content)
        except InvalidSignature:
            return "NotCertified", issuer, peer
    kind = issuer[3][0]
    if kind == 2:
        granted = [network(route) for route in issuer.get(6, [])]
        offered = [network(route) for route in peer.get(9, [])]
        inside = lambda route: any(route.version == grant.version and route.subnet_of(grant) for grant in granted)
        covered = peer[2] == issuer[3][1] and set(peer) <= {0, 1, 2, 9, 10, 11, 12} and all(map(inside, offered))
    else:
        namespaces = issuer.get(5, [])
        served = 3 in peer and (namespaces == ["*"] or peer[3] in namespaces)
        covered = served and 9 not in peer and (4 in peer) == (kind == 1)
    if not (covered and issuer[4] & 1 and peer[12] <= issuer[8]):
        return "OutOfScope", issuer, peer
    begun = now + 900 >= max(issuer[7], peer[11])
    return (None if begun and now < min(issuer[8], peer[12]) + 900 else "CertificateExpired"), issuer, peer


def network(route):
    return ipaddress.ip_network((route[:-1], route[-1]))


def certified(issuer, peer):
    kind = issuer[3][0]
    hexed = lambda key: peer[key].hex() if key in peer else None
    texts = lambda routes: [str(network(route)) for route in routes]
    return {
        "issuer": {
            "key": issuer[1].hex(),
            "root": issuer[2].hex(),
            "scope": "other" if kind == 1 else {"external" if kind == 2 else "cluster": issuer[3][1]},
            "rights": {"certify": bool(issuer[4] & 1), "publish": bool(issuer[4] & 2), "revoke": bool(issuer[4] & 4)},
            "namespaces": issuer.get(5, []),
            "routes": texts(issuer.get(6, [])),
            "from": issuer[7],
            "until": issuer[8],
        },
        "peer": {
            "identity": peer[1].hex(),
            "name": peer[2],
            "namespace": peer.get(3, ""),
            "pod": hexed(5),
            "service_account": hexed(6),
            "labels": [peer.get(7, b"")[i : i + 10].hex() for i in range(0, len(peer.get(7, b"")), 10)],
            "ipv4": str(ipaddress.ip_address(peer[8])) if 8 in peer else None,
            "routes": texts(peer.get(9, [])),
            "born": peer[10],
            "issued": peer[11],
            "until": peer[12],
        },
        "cluster": [issuer[3][-1], f"other/{peer.get(4)}", ""][kind],
        "since": max(peer[10], issuer[7]) if kind == 2 else peer[10],
    }


if __name__ == "__main__":
    main()
