//! What standing between etcd and its client costs at least: relays that decide
//! nothing.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    process::{self, Child, Command, Stdio},
    thread,
};

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use watchmark::proto::etcdserverpb::{
    WatchRequest, WatchResponse,
    watch_client::WatchClient,
    watch_server::{Watch, WatchServer},
};

/// Passes every connection on to `endpoint`, by threads that look at no byte;
/// the address of its own.
pub(crate) fn relay(endpoint: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&endpoint).unwrap());
            pass_on(&client, &server);
            pass_on(&server, &client);
        }
    });
    address
}

fn pass_on(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    to.set_nodelay(true).unwrap();
    // An end is an end, whichever it is.
    thread::spawn(move || io::copy(&mut from, &mut to));
}

/// Passes watches on by the libraries that watchmark uses, as a process; ends
/// with this one.
pub(crate) struct GrpcRelay {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl GrpcRelay {
    pub(crate) fn start(endpoint: &str) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args([GRPC_RELAY, endpoint])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut address).unwrap();
        let address = address.trim().parse().unwrap();
        Self { process, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for GrpcRelay {
    fn drop(&mut self) {
        // What it waits for.
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// The argument before the endpoint that makes this program a [`GrpcRelay`].
pub(crate) const GRPC_RELAY: &str = "--grpc-relay";

/// What a [`GrpcRelay`] runs.
pub(crate) async fn grpc_relay(endpoint: String) {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        process::exit(0);
    });
    let endpoint = Endpoint::from_shared(endpoint).unwrap();
    let relay = Relay(WatchClient::new(endpoint.connect_lazy()));
    let connections = TcpIncoming::bind("127.0.0.1:0".parse().unwrap());
    let connections = connections.unwrap().with_nodelay(Some(true));
    println!("{}", connections.local_addr().unwrap());
    Server::builder()
        .add_service(WatchServer::new(relay))
        .serve_with_incoming(connections)
        .await
        .unwrap();
}

struct Relay(WatchClient<Channel>);

#[tonic::async_trait]
impl Watch for Relay {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        requests: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = requests.into_inner();
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if send.send(request).await.is_err() {
                    return;
                }
            }
        });
        let responses = self.0.clone().watch(ReceiverStream::new(receive)).await?;
        Ok(Response::new(Box::pin(responses.into_inner())))
    }
}
