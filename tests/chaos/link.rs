//! A TCP proxy that does to connections what networks do: cuts them anywhere,
//! lets one direction stand still, or makes it slow.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::support::host::Host;

const PORT: u16 = 7000;
/// What is passed on at once.
const CHUNK_BYTES: usize = 16 << 10;
/// A slow direction passes this much ...
const SLOW_CHUNK_BYTES: usize = 512;
/// ... so often: 10 KB/s.
const SLOW_PAUSE: Duration = Duration::from_millis(50);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What happens to everything that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Connections end, wherever they are, and new ones are refused.
    Cut,
    /// Nothing passes in one direction; connections stay.
    Stalled(Direction),
    Slow(Direction),
}

/// One proxy; it ends, and its connections with it, when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    host: Host,
    weather: watch::Sender<Weather>,
    _proxy: JoinSet<()>,
}

impl Link {
    /// Begins to pass everything on to `to`, an `ip:port`.
    pub(crate) async fn to(to: &str) -> Self {
        let host = Host::claim();
        let listener = TcpListener::bind(host.address(PORT)).await.unwrap();
        let (weather, _) = watch::channel(Weather::Fair);
        let mut proxy = JoinSet::new();
        proxy.spawn(serve(listener, to.to_owned(), weather.clone()));
        Self {
            host,
            weather,
            _proxy: proxy,
        }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        self.host.url(PORT)
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn serve(listener: TcpListener, to: String, weather: watch::Sender<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(pass(stream, to.clone(), weather.subscribe()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until either side or a cut ends it.
async fn pass(client: TcpStream, to: String, mut weather: watch::Receiver<Weather>) {
    if *weather.borrow() == Weather::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(&to).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, Direction::ToServer, weather.clone()) => {}
        () = pump(from_server, to_client, Direction::ToClient, weather.clone()) => {}
        _ = weather.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut weather: watch::Receiver<Weather>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let moves = weather.wait_for(|weather| *weather != Weather::Stalled(direction));
        let Ok(is_slow) = moves.await.map(|now| *now == Weather::Slow(direction)) else {
            return;
        };
        let most = if is_slow {
            SLOW_CHUNK_BYTES
        } else {
            CHUNK_BYTES
        };
        let Ok(count @ 1..) = from.read(&mut chunk[..most]).await else {
            return;
        };
        // It may have changed while nothing came.
        let moves = weather.wait_for(|weather| *weather != Weather::Stalled(direction));
        if moves.await.is_err() || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
        if is_slow {
            sleep(SLOW_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(30);

    async fn connected() -> (Link, TcpStream, TcpStream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::to(&listener.local_addr().unwrap().to_string()).await;
        let client = TcpStream::connect(link.host.address(PORT)).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (link, client, server, listener)
    }

    async fn passes(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let read = timeout(LONG, to.read_exact(&mut byte)).await.unwrap();
        assert_eq!((read.unwrap(), byte[0]), (1, b'x'));
    }

    #[tokio::test]
    async fn a_stalled_direction_stands_still_and_goes_on() {
        let (link, mut client, mut server, _listener) = connected().await;
        passes(&mut client, &mut server).await;
        link.set(Weather::Stalled(Direction::ToServer));
        passes(&mut server, &mut client).await;
        client.write_all(b"y").await.unwrap();
        let mut byte = [0];
        let stalled = timeout(MOMENT, server.read_exact(&mut byte)).await;
        assert!(stalled.is_err());
        link.set(Weather::Fair);
        timeout(LONG, server.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(byte[0], b'y');
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_refuses_what_is_new() {
        let (link, mut client, mut server, listener) = connected().await;
        passes(&mut client, &mut server).await;
        link.set(Weather::Cut);
        let mut byte = [0];
        let read = timeout(LONG, client.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(link.host.address(PORT)).await.unwrap();
        let read = timeout(LONG, refused.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)));
        link.set(Weather::Fair);
        let mut client = TcpStream::connect(link.host.address(PORT)).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        passes(&mut client, &mut server).await;
    }
}
