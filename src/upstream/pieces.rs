//! Cuts a large `WatchResponse` or `RangeResponse` into smaller ones while its
//! bytes arrive. Owns the reading of gRPC's frames and of a message's outermost
//! fields; refuses to understand more. Invariant: the pieces, joined, are the
//! message, and of these every one but the last says `fragment`, as if etcd had
//! cut it.
//!
//! etcd packs up to 1,000 revisions into one response, which can be a
//! gigabyte, and a gRPC library hands on whole messages only. Asked to cut it
//! itself (`fragment`), etcd takes twelve times as long for transactions of
//! 128 operations: it measures everything again for every event.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use prost::encoding::{WireType, decode_key, decode_varint};
use tonic::{body::Body, codegen::http::Response, transport::Channel};
use tower::{BoxError, ServiceExt, util::MapResponse};

/// Messages above it are cut, into pieces that are larger only with a single
/// event or pair that is. What a subscriber gets at once, too.
const PIECE_BYTES: usize = 128 << 10;
/// A compression flag and the message's length.
pub(super) const PREFIX_BYTES: usize = 5;
/// `fragment = true`, in both.
pub(super) const FRAGMENT: &[u8] = &[7 << 3, 1];
/// The most that a field's key or a length takes.
const VARINT_BYTES_MAX: usize = 10;

/// A channel on which no such message is large.
pub(super) type InPieces = MapResponse<Channel, fn(Response<Body>) -> Response<Pieces>>;

/// `channel`, with what it answers cut into pieces.
pub(super) fn in_pieces(channel: Channel) -> InPieces {
    channel.map_response(|response| {
        response.map(|body| Pieces {
            body,
            cutter: Cutter::new(PIECE_BYTES),
            ready: VecDeque::new(),
        })
    })
}

/// A response's body with its large messages cut.
#[derive(Debug)]
pub(super) struct Pieces {
    body: Body,
    cutter: Cutter,
    ready: VecDeque<Bytes>,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let this = &mut *self;
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    if let Err(garbled) = this.cutter.cut(data, &mut this.ready) {
                        return Poll::Ready(Some(Err(garbled.into())));
                    }
                }
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status.into()))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The bytes are not what gRPC and protobuf prescribe.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("what etcd says is no message")]
pub(super) struct Garbled;

/// Where in the stream of bytes it is.
#[derive(Debug)]
pub(super) struct Cutter {
    piece_bytes: usize,
    /// Of a message that is passed on as it is, what is still to come.
    passing: usize,
    /// The large message that is being cut.
    large: Option<Large>,
    /// A part of a prefix, or fields of the large message, not passed on yet.
    kept: BytesMut,
}

#[derive(Debug, Default)]
struct Large {
    /// What is still to come of it.
    to_come: usize,
    /// How much of what is kept is whole fields.
    whole: usize,
    /// Its own `fragment`.
    is_fragment: bool,
}

impl Cutter {
    pub(super) fn new(piece_bytes: usize) -> Self {
        Self {
            piece_bytes,
            passing: 0,
            large: None,
            kept: BytesMut::new(),
        }
    }

    pub(super) fn cut(
        &mut self,
        mut data: Bytes,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), Garbled> {
        while !data.is_empty() {
            if self.passing > 0 {
                let part = data.split_to(self.passing.min(data.len()));
                self.passing -= part.len();
                out.push_back(part);
            } else if let Some(large) = &mut self.large {
                let part = data.split_to(large.to_come.min(data.len()));
                large.to_come -= part.len();
                self.kept.extend_from_slice(&part);
                if large.take_fields(self.piece_bytes, &mut self.kept, out)? {
                    self.large = None;
                }
            } else if let Some(&prefix) = data.first_chunk().filter(|_| self.kept.is_empty())
                && let Length::Small(length) = self.length(prefix)
            {
                // As most are: not even the prefix is copied. It goes by itself,
                // for tonic to make room for no more than the message.
                out.push_back(data.split_to(PREFIX_BYTES));
                self.passing = length;
            } else {
                let missing = PREFIX_BYTES - self.kept.len();
                let part = data.split_to(missing.min(data.len()));
                self.kept.extend_from_slice(&part);
                self.begin(out);
            }
        }
        Ok(())
    }

    /// Begins a message, once its prefix is there.
    fn begin(&mut self, out: &mut VecDeque<Bytes>) {
        let Ok(prefix) = <[u8; PREFIX_BYTES]>::try_from(&self.kept[..]) else {
            return;
        };
        let kept = self.kept.split().freeze();
        match self.length(prefix) {
            Length::Small(length) => {
                out.push_back(kept);
                self.passing = length;
            }
            Length::Large(length) => {
                self.large = Some(Large {
                    to_come: length,
                    ..Large::default()
                });
            }
        }
    }

    fn length(&self, [compressed, a, b, c, d]: [u8; PREFIX_BYTES]) -> Length {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed == 0 && length > self.piece_bytes {
            Length::Large(length)
        } else {
            Length::Small(length)
        }
    }
}

/// Of a message, in bytes.
enum Length {
    /// It passes as it is.
    Small(usize),
    Large(usize),
}

impl Large {
    /// Passes on what is a piece. Whether that was the last.
    fn take_fields(
        &mut self,
        piece_bytes: usize,
        kept: &mut BytesMut,
        out: &mut VecDeque<Bytes>,
    ) -> Result<bool, Garbled> {
        loop {
            let rest = kept.get(self.whole..).unwrap_or_default();
            let ahead = rest.len() + self.to_come;
            if ahead == 0 {
                self.pass_on(kept, self.is_fragment, out);
                return Ok(true);
            }
            match field(rest)? {
                Some(length) if length > ahead => return Err(Garbled),
                Some(length) if self.whole > 0 && self.whole + length > piece_bytes => {
                    self.pass_on(kept, true, out);
                }
                Some(length) if length <= rest.len() => {
                    self.is_fragment |= &rest[..length] == FRAGMENT;
                    self.whole += length;
                }
                Some(_) => return Ok(false),
                None if self.to_come == 0 => return Err(Garbled),
                None => return Ok(false),
            }
        }
    }

    fn pass_on(&mut self, kept: &mut BytesMut, fragment: bool, out: &mut VecDeque<Bytes>) {
        let mark: &[u8] = if fragment { FRAGMENT } else { &[] };
        let fields = kept.split_to(self.whole);
        self.whole = 0;
        let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
        prefix.put_u8(0);
        // A part of a message whose length fits is no longer than that, but for the mark.
        prefix.put_u32(u32::try_from(fields.len() + mark.len()).unwrap_or(u32::MAX));
        out.extend([prefix.freeze(), fields.freeze()]);
        if fragment {
            out.push_back(Bytes::from_static(FRAGMENT));
        }
    }
}

/// How long the first field is; `None`: not known yet.
fn field(mut bytes: &[u8]) -> Result<Option<usize>, Garbled> {
    let length = bytes.len();
    let is_short = length < 2 * VARINT_BYTES_MAX;
    let or_short = |garbled| if is_short { Ok(None) } else { Err(garbled) };
    let Ok((_, kind)) = decode_key(&mut bytes) else {
        return or_short(Garbled);
    };
    let body = match kind {
        WireType::Varint => match decode_varint(&mut bytes) {
            Ok(_) => 0,
            Err(_) => return or_short(Garbled),
        },
        WireType::LengthDelimited => match decode_varint(&mut bytes) {
            Ok(body) => usize::try_from(body).map_err(|_| Garbled)?,
            Err(_) => return or_short(Garbled),
        },
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::StartGroup | WireType::EndGroup => return Err(Garbled),
    };
    let head = length - bytes.len();
    head.checked_add(body).map(Some).ok_or(Garbled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::{
        etcdserverpb::{ResponseHeader, WatchResponse},
        watchmark::v1::{Event, KeyValue},
    };

    fn response(sizes: &[usize], fragment: bool) -> WatchResponse {
        let event = |(n, &size): (usize, &usize)| Event {
            kv: Some(KeyValue {
                key: format!("k{n}").into(),
                mod_revision: n as i64 + 1,
                value: vec![7; size].into(),
                ..KeyValue::default()
            }),
            ..Event::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                revision: 9,
                ..ResponseHeader::default()
            }),
            fragment,
            events: sizes.iter().enumerate().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    fn framed(messages: &[WatchResponse]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.put_u8(0);
            bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
            message.encode(&mut bytes).unwrap();
        }
        bytes
    }

    /// The messages that come out when `bytes` arrive so many at a time.
    fn pieces(bytes: &[u8], at_a_time: usize) -> Result<Vec<WatchResponse>, Garbled> {
        let mut cutter = Cutter::new(PIECE_BYTES);
        let mut out = VecDeque::new();
        for part in bytes.chunks(at_a_time) {
            cutter.cut(Bytes::copy_from_slice(part), &mut out)?;
        }
        let bytes: Vec<u8> = out.into_iter().flatten().collect();
        let mut rest = &bytes[..];
        let mut messages = Vec::new();
        while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX_BYTES>() {
            let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
            let (message, after) = after.split_at(length);
            messages.push(WatchResponse::decode(message).unwrap());
            rest = after;
        }
        assert!(rest.is_empty());
        Ok(messages)
    }

    fn assert_same(messages: &[WatchResponse], pieces: &[WatchResponse]) {
        let mut pieces = pieces.iter();
        for message in messages {
            let mut joined = WatchResponse::default();
            loop {
                let piece = pieces.next().unwrap();
                joined.header = joined.header.or(piece.header);
                joined.events.extend(piece.events.iter().cloned());
                if joined.events.len() == message.events.len() {
                    joined.fragment = piece.fragment;
                    break;
                }
                assert!(piece.fragment);
                let is_small = piece.encoded_len() <= PIECE_BYTES + FRAGMENT.len();
                assert!(is_small || piece.events.len() == 1);
            }
            assert_eq!(&joined, message);
        }
        assert!(pieces.next().is_none());
    }

    #[test]
    fn a_small_message_passes_as_it_is() {
        let message = response(&[100; 100], false);
        let bytes = framed(std::slice::from_ref(&message));
        assert_eq!(pieces(&bytes, 16_384), Ok(vec![message]));
    }

    #[test]
    fn a_prefix_may_come_in_parts() {
        let messages = [&[10, 0][..], &[], &[3]].map(|sizes| response(sizes, false));
        let bytes = framed(&messages);
        for at_a_time in 1..30 {
            assert_eq!(pieces(&bytes, at_a_time), Ok(messages.to_vec()));
        }
    }

    #[test]
    fn a_large_message_is_held_by_no_more_than_a_piece() {
        let bytes = framed(&[response(&[1000; 10_000], false)]);
        let mut cutter = Cutter::new(PIECE_BYTES);
        let mut out = VecDeque::new();
        for part in bytes.chunks(16_384) {
            cutter.cut(Bytes::copy_from_slice(part), &mut out).unwrap();
            assert!(cutter.kept.len() <= PIECE_BYTES + 20_000);
        }
        assert_same(
            &[response(&[1000; 10_000], false)],
            &pieces(&bytes, 16_384).unwrap(),
        );
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let large = u32::try_from(PIECE_BYTES + 1).unwrap();
        // An event that claims to be longer than its message, an unknown wire
        // type, a group, and a number that does not end.
        for start in [
            &[0x5a, 0xff, 0xff, 0xff, 0x7f][..],
            &[0x0f],
            &[0x0b],
            &[0xff; 11],
        ] {
            let mut bytes = vec![0];
            bytes.put_u32(large);
            bytes.extend(start);
            bytes.resize(PREFIX_BYTES + large as usize, 0xff);
            assert_eq!(pieces(&bytes, 1000), Err(Garbled));
        }
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_message(
            many in proptest::collection::vec(
                (proptest::collection::vec(0..200_000_usize, 0..12), any::<bool>()), 1..4),
            at_a_time in 1..70_000_usize,
        ) {
            let messages: Vec<_> = many.iter().map(|(sizes, fragment)| response(sizes, *fragment)).collect();
            let pieces = pieces(&framed(&messages), at_a_time).unwrap();
            assert_same(&messages, &pieces);
        }
    }
}
