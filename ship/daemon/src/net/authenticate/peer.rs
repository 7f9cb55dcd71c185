//! By the user that the kernel says it is.
//!
//! PostgreSQL: `auth_peer` (src/backend/libpq/auth.c).

use nix::unistd::{Uid, User};
use tokio::net::UnixStream;

use super::{Attempt, NotAuthenticated};
use crate::placement::spawn_blocking;
use crate::strerror::strerror;

/// The name of that user.
pub(super) async fn identify(attempt: &Attempt<'_>) -> Result<String, NotAuthenticated> {
    let peer = attempt.connection.stream.unix_socket().map(UnixStream::peer_cred);
    let name = match peer {
        Some(Ok(peer)) => name_of(peer.uid()).await,
        Some(Err(error)) => Err(format!("could not get peer credentials: {}", strerror(&error))),
        None => Err("could not get peer credentials: Operation not supported".to_owned()),
    };
    name.map_err(|reason| {
        tracing::info!("{reason}");
        attempt.failed(None).into()
    })
}

/// Who has a name may be known to another machine only.
async fn name_of(uid: u32) -> Result<String, String> {
    let look = move || User::from_uid(Uid::from_raw(uid));
    match spawn_blocking(look).await {
        Ok(Ok(Some(user))) => Ok(user.name),
        Ok(Ok(None)) => Err(format!("local user with ID {uid} does not exist")),
        Ok(Err(errno)) => Err(format!("could not look up local user ID {uid}: {}", errno.desc())),
        Err(_) => Err(format!("could not look up local user ID {uid}")),
    }
}
