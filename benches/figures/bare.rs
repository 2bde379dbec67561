//! What standing between etcd and its client costs at least: relays that decide
//! nothing.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    thread,
};

use futures_util::Stream;
use tokio::{runtime, sync::mpsc};
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

/// Passes watches on to `endpoint` by the libraries that watchmark uses, with
/// threads of its own; the address of its own.
pub(crate) fn grpc_relay(endpoint: &str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_multi_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
            let relay = Relay(WatchClient::new(endpoint.connect_lazy()));
            Server::builder()
                .add_service(WatchServer::new(relay))
                .serve_with_incoming(connections)
                .await
                .unwrap();
        });
    });
    address
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
