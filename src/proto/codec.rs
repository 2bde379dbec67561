//! Protobuf as tonic's own codec writes and reads it, with small buffers: each
//! stream keeps one of them for as long as it lasts, 8 KiB by default.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// A buffer grows to what a message needs, and is then handed on with it.
const BUFFER_BYTES: usize = 128;
/// As much is joined into one frame, which each stalled stream has waiting.
const FRAME_BYTES: usize = 16 << 10;

/// What `build.rs` has the generated clients and servers use.
#[derive(Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, FRAME_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, FRAME_BYTES))
    }
}
