//! Frames of `docs/protocol.md`: a header of nine bytes, then the payload.
//!
//! The decoder works on whatever bytes have come. It hands `DATA` on in the pieces in which it came,
//! so that bulk data is never gathered, and every other kind whole.

pub const HEADER: usize = 9;
pub const MESSAGE_MAX: usize = 1 << 20;
pub const DATA_MAX: usize = 64 << 10;
/// Credit that a stream starts with, and the most that may be under way.
pub const WINDOW: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 0,
    Request = 1,
    Response = 2,
    Error = 3,
    Event = 4,
    Data = 5,
    Credit = 6,
    Eof = 7,
    Stop = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            0 => Kind::Hello,
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Error,
            4 => Kind::Event,
            5 => Kind::Data,
            6 => Kind::Credit,
            7 => Kind::Eof,
            8 => Kind::Stop,
            _ => return None,
        })
    }
}

/// The header of a frame with `length` bytes of payload.
pub fn header(kind: Kind, id: u32, length: usize) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let (length_bytes, rest) = bytes.split_at_mut(4);
    let (id_bytes, kind_byte) = rest.split_at_mut(4);
    length_bytes.copy_from_slice(&(length as u32).to_le_bytes());
    id_bytes.copy_from_slice(&id.to_le_bytes());
    kind_byte.copy_from_slice(&[kind as u8]);
    bytes
}

/// Why the channel cannot go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A part of a `DATA` frame, or all of it.
    Data { id: u32, bytes: &'a [u8] },
    /// A whole frame of any other kind.
    Message { kind: Kind, id: u32, payload: Vec<u8> },
}

#[derive(Default)]
pub struct Decoder {
    header: Vec<u8>,
    frame: Option<Frame>,
}

struct Frame {
    kind: Kind,
    id: u32,
    missing: usize,
    payload: Vec<u8>,
}

impl Decoder {
    /// Takes the next item off the front of `input`; `None` when more bytes are needed.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, Broken> {
        let mut frame = match self.frame.take() {
            Some(frame) => frame,
            None => match self.begin(input)? {
                Some(frame) => frame,
                None => return Ok(None),
            },
        };
        let bytes = take(input, frame.missing);
        frame.missing -= bytes.len();
        if frame.kind == Kind::Data {
            let id = frame.id;
            if frame.missing > 0 {
                self.frame = Some(frame);
            }
            return Ok((!bytes.is_empty()).then_some(Item::Data { id, bytes }));
        }
        frame.payload.extend_from_slice(bytes);
        if frame.missing > 0 {
            self.frame = Some(frame);
            return Ok(None);
        }
        Ok(Some(Item::Message { kind: frame.kind, id: frame.id, payload: frame.payload }))
    }

    fn begin(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Broken> {
        self.header.extend_from_slice(take(input, HEADER - self.header.len()));
        let &[l0, l1, l2, l3, i0, i1, i2, i3, kind] = self.header.as_slice() else { return Ok(None) };
        self.header.clear();
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        let kind = Kind::from_byte(kind).ok_or(Broken("unknown kind of frame"))?;
        let fits = match kind {
            Kind::Data => (1..=DATA_MAX).contains(&length),
            Kind::Credit => length == 4,
            Kind::Eof | Kind::Stop => length == 0,
            _ => length <= MESSAGE_MAX,
        };
        if !fits {
            return Err(Broken("length of a frame is out of bounds"));
        }
        Ok(Some(Frame { kind, id, missing: length, payload: Vec::new() }))
    }
}

fn take<'a>(input: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(at_most.min(input.len()));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, id: u32, payload: &[u8]) -> Vec<u8> {
        [&header(kind, id, payload.len()), payload].concat()
    }

    /// Feeds `bytes` in pieces of `step`; data of one stream is joined.
    fn decode(bytes: &[u8], step: usize) -> Result<Vec<(Kind, u32, Vec<u8>)>, Broken> {
        let mut decoder = Decoder::default();
        let mut found: Vec<(Kind, u32, Vec<u8>)> = Vec::new();
        for piece in bytes.chunks(step) {
            let mut input = piece;
            while let Some(item) = decoder.next(&mut input)? {
                match (item, found.last_mut()) {
                    (Item::Data { id, bytes }, Some((Kind::Data, last, all))) if *last == id => all.extend(bytes),
                    (Item::Data { id, bytes }, _) => found.push((Kind::Data, id, bytes.to_vec())),
                    (Item::Message { kind, id, payload }, _) => found.push((kind, id, payload)),
                }
            }
            assert!(input.is_empty());
        }
        Ok(found)
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut() {
        let bytes = [
            frame(Kind::Request, 7, b"hello"),
            frame(Kind::Eof, 3, b""),
            frame(Kind::Data, 9, &[42; 1000]),
            frame(Kind::Credit, 9, &[1, 2, 3, 4]),
        ]
        .concat();
        let whole = decode(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[2], (Kind::Data, 9, vec![42; 1000]));
        for step in [1, 2, 8, 9, 10, 13, 1000] {
            assert_eq!(decode(&bytes, step).unwrap(), whole);
        }
    }

    #[test]
    fn an_unknown_kind_breaks_the_channel() {
        let mut bytes = frame(Kind::Stop, 1, b"");
        bytes[8] = 9;
        assert!(decode(&bytes, 9).is_err());
    }

    #[test]
    fn a_frame_over_its_limit_breaks_the_channel() {
        for (kind, length) in [(Kind::Request, MESSAGE_MAX + 1), (Kind::Data, DATA_MAX + 1), (Kind::Data, 0)] {
            assert!(decode(&header(kind, 1, length), 9).is_err());
        }
        assert!(decode(&header(Kind::Credit, 1, 5), 9).is_err());
        assert!(decode(&header(Kind::Eof, 1, 1), 9).is_err());
    }
}
