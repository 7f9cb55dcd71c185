//! The SQL console: monitoring views and functions over the hub.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Encoder, Report};
use walhub_proto::wire::frontend::{self, Frontend};

use crate::hub::handle::{Client, Hub};
use crate::settings::Settings;

/// What the console needs to know about its session.
pub struct ConsoleParams {
    /// Who asks.
    pub client: Client,
    /// `database` of the startup packet, or the user's name.
    pub database: String,
    /// Every parameter of the startup packet.
    pub startup_options: BTreeMap<String, String>,
    /// The hub.
    pub hub: Arc<dyn Hub<OwnedFd>>,
    /// The settings.
    pub settings: watch::Receiver<Arc<Settings>>,
}

/// Serves queries until the client goes away.
///
/// # Errors
/// When the connection fails.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut read_buffer: Vec<u8>,
    _params: ConsoleParams,
) -> io::Result<()> {
    let mut out = Encoder::new();
    loop {
        let done = match frontend::decode(&read_buffer) {
            Ok(None) => {
                if stream.read_buf(&mut read_buffer).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            Ok(Some((Frontend::Terminate, _))) | Err(_) => return Ok(()),
            Ok(Some((_, len))) => len,
        };
        read_buffer.drain(..done);
        out.report(&Report::error(SqlState::FEATURE_NOT_SUPPORTED, "SQL is not supported"));
        out.ready_for_query(b'I');
        stream.write_all(&out.take()).await?;
    }
}
