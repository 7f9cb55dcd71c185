//! By the user that the kernel says it is.
//!
//! PostgreSQL: `auth_peer` (src/backend/libpq/auth.c).

use nix::unistd::{Uid, User};

use super::{Attempt, NotAuthenticated};
use crate::net::stream::Stream;
use crate::placement::spawn_blocking;

/// The name of that user.
pub(super) async fn identify(attempt: &Attempt<'_>) -> Result<String, NotAuthenticated> {
    let uid = match &attempt.connection.stream {
        Stream::Unix(stream) => stream.peer_cred().map(|peer| peer.uid()),
        _ => Err(std::io::ErrorKind::Unsupported.into()),
    };
    let name = match uid {
        Ok(uid) => name_of(uid).await,
        Err(error) => Err(format!("could not get peer credentials: {error}")),
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
