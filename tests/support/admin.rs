//! The admin port, asked by hand: one request a connection.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::wait;

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

/// Asks, once the port is open.
pub(crate) async fn ask(address: &str, method: &str, path: &str, headers: &[&str]) -> Answer {
    send(address, method, path, headers, "").await
}

/// As [`ask`], with a body.
pub(crate) async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let connect = async || TcpStream::connect(address).await.ok();
    let mut stream = wait::until("the admin port", connect).await;
    let names_host = headers
        .iter()
        .any(|it| it.to_lowercase().starts_with("host:"));
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !names_host {
        head += &format!("Host: {address}\r\n");
    }
    for header in headers {
        head += &format!("{header}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(wait::DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap_or_else(|_| panic!("{method} {path}: no answer"))
        .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        headers: head.to_lowercase(),
        body: body.to_owned(),
    }
}
