//! What no client library sends: bytes, and HTTP/2 frames made by hand.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How a connection begins, before any frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer than a server should think about nonsense on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// HTTP/2's own numbers.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Data = 0,
    Headers = 1,
    RstStream = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    WindowUpdate = 8,
    Continuation = 9,
    Unknown = 0xee,
}

pub(crate) fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind as u8, flags], &stream.to_be_bytes()];
    [&head.concat(), payload].concat()
}

/// Headers that stand for themselves, without any table.
pub(crate) fn headers(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            assert!(text.len() < 127);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Of a call, as far as the server needs them.
pub(crate) fn call_headers(method: &str) -> Vec<u8> {
    headers(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &format!("/watchmark.v1.WatchService/{method}")),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// One connection to watchmark.
pub(crate) struct Rude {
    stream: TcpStream,
}

impl Rude {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream }
    }

    /// With the preface and empty settings.
    pub(crate) async fn connect_http2(address: &str) -> Self {
        let mut rude = Self::connect(address).await;
        rude.send(PREFACE).await;
        rude.send(&frame(Kind::Settings, 0, 0, &[])).await;
        rude
    }

    /// Sends, as long as anybody listens. Reads meanwhile: a server that can't
    /// answer waits.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let (mut answers, mut requests) = self.stream.split();
        let mut ignored = [0; 4096];
        let sending = requests.write_all(bytes);
        tokio::pin!(sending);
        let all = async {
            loop {
                tokio::select! {
                    _ = &mut sending => break,
                    read = answers.read(&mut ignored) => if matches!(read, Ok(0) | Err(_)) {
                        break;
                    },
                }
            }
        };
        let _ = timeout(DEADLINE, all).await;
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// What the server sends until it closes; `None`: it does not.
    pub(crate) async fn closed(&mut self) -> Option<Vec<u8>> {
        let mut answers = Vec::new();
        timeout(DEADLINE, self.stream.read_to_end(&mut answers))
            .await
            .ok()?
            // A reset is an end, too.
            .ok();
        Some(answers)
    }
}
