//! etcd-client, for what is rare and needs no `Bytes`: authentication and the
//! server's status. Owns the adapter between its client and our connections;
//! refuses to keep state. Invariant: a call uses exactly the connection given.

use etcd_client::{Channel, Client, Error};
use tonic::{
    body::Body,
    codegen::http::{HeaderValue, Request},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::{
    auth::Token,
    connect::{Connection, ServerVersion},
    version::Version,
};

/// A new token.
pub(super) async fn authenticate(
    connection: &Connection,
    user: &str,
    password: &str,
) -> Result<String, Error> {
    let mut auth = client(connection, &Token::default()).await?.auth_client();
    let answer = auth
        .authenticate(user.to_owned(), password.to_owned())
        .await?;
    Ok(answer.token().to_owned())
}

/// Who answers on this connection, and its version.
pub(super) async fn server_version(
    connection: &Connection,
    token: &Token,
) -> Result<ServerVersion, Error> {
    let mut maintenance = client(connection, token).await?.maintenance_client();
    let answer = maintenance.status().await?;
    Ok(ServerVersion {
        member_id: answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::member_id),
        version: Version::parse(answer.version()),
    })
}

/// Without credentials of its own it asks nobody while it is built.
async fn client(connection: &Connection, token: &Token) -> Result<Client, Error> {
    let header = token
        .value()
        .and_then(|token| HeaderValue::from_bytes(token.as_bytes()).ok())
        .map(|mut header| {
            header.set_sensitive(true);
            header
        });
    let channel = connection
        .channel()
        .map_request(move |mut request: Request<Body>| {
            if let Some(header) = &header {
                request.headers_mut().insert("token", header.clone());
            }
            request
        })
        .map_err(tower::BoxError::from);
    Client::from_channel(Channel::Custom(BoxCloneSyncService::new(channel)), None).await
}
