//! Names of hosts, and the addresses of names.
//!
//! A resolver may take its time, and whoever comes from an address whose name servers are slow can make it: so few are
//! asked at a time, on threads that are nobody's, and the others wait.
//!
//! PostgreSQL: `pg_getnameinfo_all`, `pg_getaddrinfo_all` (src/common/ip.c).

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use tokio::sync::Semaphore;

use crate::placement::spawn_blocking;
use crate::strerror::strerror;

/// Of the threads for work that blocks, those that may wait for a resolver at a time.
const LOOKUPS_MAX: usize = 2;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// The name of the host at an address.
///
/// # Errors
/// The resolver's words for why there is none.
pub(super) async fn name_of(address: IpAddr) -> Result<String, String> {
    look_up(move || {
        let address = SocketAddr::new(address, 0);
        let (name, _service) = dns_lookup::getnameinfo(&address, libc::NI_NAMEREQD)?;
        Ok(name)
    })
    .await
}

/// The addresses of a name.
///
/// # Errors
/// The resolver's words for why there are none.
pub(super) async fn addresses_of(name: String) -> Result<Vec<IpAddr>, String> {
    look_up(move || {
        let addresses = (name.as_str(), 0).to_socket_addrs()?;
        Ok(addresses.map(|address| address.ip().to_canonical()).collect())
    })
    .await
}

async fn look_up<T: Send + 'static>(
    lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let permit = LOOKUPS.acquire().await;
    // The permit goes with the work, which goes on when nobody waits for it any more.
    let answer = spawn_blocking(move || {
        let _permit = permit;
        lookup()
    });
    let answer = answer.await.unwrap_or_else(|_| Err(io::Error::other("it was given up")));
    answer.map_err(|error| {
        let text = strerror(&error);
        let words = text.strip_prefix("failed to lookup address information: ");
        words.unwrap_or(&text).to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_both_ways() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let addresses = addresses_of("localhost".to_owned()).await.unwrap();
            assert!(addresses.iter().any(IpAddr::is_loopback), "{addresses:?}");
            assert!(name_of([127, 0, 0, 1].into()).await.is_ok());
            let error = addresses_of("no.such.invalid".to_owned()).await.unwrap_err();
            assert!(!error.is_empty() && !error.contains("failed to lookup"), "{error}");
        });
    }
}
