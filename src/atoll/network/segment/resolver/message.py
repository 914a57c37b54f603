"""DNS messages on the wire: questions read, answers written. dnspython knows the format.

Nothing here raises for what comes from a guest or from a resolver. Sources: RFC 1035, 6891 (EDNS), 8914 (extended
errors), 9619 (one question a message).
"""

import random
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from atoll.network.segment.resolver.names import Address

_HEADER = struct.Struct("!6H")
_RESPONSE = 0x8000
_RECURSION_DESIRED = 0x0100
# What fits everywhere without fragments (DNS flag day 2020), and what fits without EDNS.
_PAYLOAD_BYTES = 1232
_PLAIN_BYTES = 512
# Containers come and go, and nobody shall ask where one was.
_TTL_S = 1


class Question(NamedTuple):
    """A message that asks something, `wire` as it came."""

    wire: bytes
    message: dns.message.Message
    name: dns.name.Name
    kind: dns.rdatatype.RdataType
    over_tcp: bool

    @property
    def is_of_the_internet(self) -> bool:
        """Its class is IN, and what it asks for is a record, not a transfer or something of the protocol's own."""
        is_meta = dns.rdatatype.is_metatype(self.kind) and self.kind != dns.rdatatype.ANY
        return self.message.question[0].rdclass == dns.rdataclass.IN and not is_meta


def read_question(wire: bytes, over_tcp: bool) -> Question | bytes | None:
    """The question in a message; or the answer to one that is malformed; None if it deserves none."""
    if len(wire) < _HEADER.size or _is_answer(wire):
        return None
    if dns.opcode.from_flags(_HEADER.unpack_from(wire)[1]) != dns.opcode.QUERY:
        return bare_answer(wire, dns.rcode.NOTIMP)
    message = _parse(wire)
    if message is None or len(message.question) != 1 or message.question[0].rdtype == dns.rdatatype.NONE:
        return bare_answer(wire, dns.rcode.FORMERR)
    asked = message.question[0]
    question = Question(wire, message, asked.name, asked.rdtype, over_tcp)
    return answer(question, dns.rcode.BADVERS) if message.edns > 0 else question


def bare_answer(wire: bytes, rcode: dns.rcode.Rcode) -> bytes | None:
    """The answer to a message of which nothing but the header may be readable; None if that is not, either."""
    if len(wire) < _HEADER.size or _is_answer(wire):
        return None
    number, flags, *_ = _HEADER.unpack_from(wire)
    kept = flags & (0x7800 | _RECURSION_DESIRED)
    return _HEADER.pack(number, _RESPONSE | kept | rcode, 0, 0, 0, 0)


def answer(
    question: Question,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    records: Sequence[dns.rdata.Rdata] = (),
    why: dns.edns.EDECode | None = None,
) -> bytes:
    """An answer of ours, as long as the client can take; `why` goes with an error to who understands EDNS."""
    response = dns.message.make_response(question.message, recursion_available=True, our_payload=_PAYLOAD_BYTES)
    response.set_rcode(rcode)
    if question.message.edns >= 0 and why is not None:
        response.use_edns(0, payload=_PAYLOAD_BYTES, options=[dns.edns.EDEOption(why)])
    for kind in dict.fromkeys(record.rdtype for record in records):
        chosen = [record for record in records if record.rdtype == kind]
        response.answer.append(dns.rrset.from_rdata_list(question.name, _TTL_S, chosen))
    if question.over_tcp:
        return response.to_wire(max_size=65535, prefer_truncation=True)
    room = (
        _PLAIN_BYTES if question.message.edns < 0 else min(max(question.message.payload, _PLAIN_BYTES), _PAYLOAD_BYTES)
    )
    return response.to_wire(max_size=room, prefer_truncation=True)


def address_records(addresses: Iterable[Address], kind: dns.rdatatype.RdataType) -> list[dns.rdata.Rdata]:
    """Of the addresses those that are asked for."""
    records: list[dns.rdata.Rdata] = []
    for address in addresses:
        if address.version == 4 and kind in (dns.rdatatype.A, dns.rdatatype.ANY):
            records.append(dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.A, address.packed, 0, 4))
        if address.version == 6 and kind in (dns.rdatatype.AAAA, dns.rdatatype.ANY):
            records.append(dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.AAAA, address.packed, 0, 16))
    return records


def shuffled(records: list[dns.rdata.Rdata]) -> list[dns.rdata.Rdata]:
    """The same in any order: who shares a name shares its clients."""
    return random.sample(records, len(records))


def pointer_record(name: dns.name.Name) -> dns.rdata.Rdata:
    """What an address turned round points to."""
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.PTR, name.to_text())


def numbered(wire: bytes, number: int) -> bytes:
    """The same message with another number."""
    return number.to_bytes(2, "big") + wire[2:]


def number_of(wire: bytes) -> int:
    """A message's number."""
    return int.from_bytes(wire[:2], "big")


def rcode_of(wire: bytes) -> int:
    """How an answer says that it went, without what EDNS adds to it."""
    return wire[3] & 0x0F


def answers(wire: bytes, asked: bytes) -> bool:
    """Whether a message from a resolver is the answer to what we asked: the same number and question."""
    if len(wire) < _HEADER.size or not _is_answer(wire) or wire[:2] != asked[:2]:
        return False
    answered, question = _parse(wire, question_only=True), _parse(asked, question_only=True)
    if answered is None or question is None or len(answered.question) != 1:
        return False
    one, other = answered.question[0], question.question[0]
    return (one.name, one.rdtype, one.rdclass) == (other.name, other.rdtype, other.rdclass)


def addresses_in(wire: bytes) -> dict[str, int] | None:
    """The addresses that an answer gives, each with its time to live in seconds; None if the answer is malformed."""
    message = _parse(wire)
    if message is None:
        return None
    return {
        record.address: rrset.ttl
        for rrset in message.answer
        for record in rrset
        if rrset.rdclass == dns.rdataclass.IN and rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA)
    }


def _is_answer(wire: bytes) -> bool:
    return bool(wire[2] & 0x80)


def _parse(wire: bytes, question_only: bool = False) -> dns.message.Message | None:
    try:
        return dns.message.from_wire(wire, question_only=question_only)
    except (dns.exception.DNSException, ValueError, IndexError, struct.error):
        # dnspython's own errors, and those of Python's that its readers of single records let pass.
        return None
