//! etcd-client, for what is rare and needs no `Bytes`: authentication and the
//! server's status. Owns the adapter between its client and our connections;
//! refuses to keep state. Invariant: a call uses exactly the connection given.

use etcd_client::{Channel, Client, Error};
use tonic::{
    body::Body,
    codegen::http::{HeaderValue, Request},
    metadata::{Ascii, MetadataValue},
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use super::{
    connect::{Connection, ServerVersion},
    version::Version,
};
use crate::resume::Revision;

type Token = MetadataValue<Ascii>;

/// What a server says of itself.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Member {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    /// `None`: unreadable.
    pub(super) version: Option<Version>,
    /// Its own, which may lag.
    pub(super) revision: Option<Revision>,
    pub(super) has_leader: bool,
}

impl From<Member> for ServerVersion {
    fn from(member: Member) -> Self {
        Self {
            member_id: member.member_id,
            version: member.version,
        }
    }
}

/// A new token.
pub(super) async fn authenticate(
    connection: &Connection,
    user: &str,
    password: &str,
) -> Result<String, Error> {
    let mut auth = client(connection, None).await?.auth_client();
    let answer = auth
        .authenticate(user.to_owned(), password.to_owned())
        .await?;
    Ok(answer.token().to_owned())
}

/// Who answers on this connection, and its version.
pub(super) async fn server_version(
    connection: &Connection,
    token: Option<&Token>,
) -> Result<ServerVersion, Error> {
    Ok(member(connection, token).await?.into())
}

/// Who answers on this connection, and how it is.
pub(super) async fn member(
    connection: &Connection,
    token: Option<&Token>,
) -> Result<Member, Error> {
    let mut maintenance = client(connection, token).await?.maintenance_client();
    let answer = maintenance.status().await?;
    let header = answer.header();
    Ok(Member {
        cluster_id: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
        member_id: header.map_or(0, etcd_client::ResponseHeader::member_id),
        version: Version::parse(answer.version()),
        revision: header.and_then(|header| Revision::new(header.revision())),
        has_leader: answer.leader() != 0,
    })
}

/// Without credentials of its own it asks nobody while it is built.
async fn client(connection: &Connection, token: Option<&Token>) -> Result<Client, Error> {
    let header = token
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
