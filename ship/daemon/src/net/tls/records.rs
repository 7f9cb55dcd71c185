//! One TLS connection without a socket: bytes in, records out, and back.
//!
//! rustls' unbuffered interface keeps no buffers of its own, so that a connection that waits holds its keys and
//! nothing else. The same object goes with the socket: the control plane reads and writes through it (`stream`), and a
//! ship core does, which has its own ring (`TlsRecords`).
//!
//! Not here: sockets, certificates.

use std::fmt;
use std::io;
use std::mem;
use std::ops::DerefMut;

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus,
};
use walhub_hub::api::tls::TlsRecords;

/// A shorter piece goes into one record with its neighbours.
const PIECE_BYTES_MIN: usize = 2 << 10;
/// What is gathered of such pieces.
const GATHERED_BYTES_MAX: usize = 4 << 10;

/// A server's or a client's connection.
pub(in crate::net) trait Unbuffered:
    DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Send + 'static
{
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }
}

/// A connection, and the bytes that are neither here nor there.
pub(in crate::net) struct Records<C> {
    connection: C,
    /// Received, and no whole record yet.
    incoming: Vec<u8>,
    /// To be sent: parts of a handshake, and alerts.
    outgoing: Vec<u8>,
    closed_by_peer: bool,
    closed_by_us: bool,
}

impl<C> fmt::Debug for Records<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (incoming, outgoing) = (self.incoming.len(), self.outgoing.len());
        let mut debug = f.debug_struct("Records");
        debug.field("incoming", &incoming).field("outgoing", &outgoing).finish_non_exhaustive()
    }
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the TLS connection is closed")
}

impl<C: Unbuffered> Records<C> {
    /// Nothing was received or sent yet.
    pub(in crate::net) const fn new(connection: C) -> Self {
        Self {
            connection,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            closed_by_peer: false,
            closed_by_us: false,
        }
    }

    /// What was agreed on.
    pub(in crate::net) fn state(&self) -> &CommonState {
        &self.connection
    }

    /// Bytes that were received and are no whole record.
    pub(in crate::net) const fn incoming_len(&self) -> usize {
        self.incoming.len()
    }

    /// What the connection has to say for itself. Whoever takes it sends it.
    pub(in crate::net) const fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Begins: a client has something to say first.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub(in crate::net) fn begin(&mut self) -> io::Result<()> {
        self.open(&mut [], &mut Vec::new())
    }

    /// Takes bytes, and appends what the records carry to `plain`.
    ///
    /// # Errors
    /// As [`TlsRecords::open`]; what the peer is told about it is in [`Records::outgoing`].
    pub(in crate::net) fn open(
        &mut self,
        received: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> io::Result<()> {
        if self.incoming.is_empty() {
            // The usual case: whole records, decrypted where they are.
            let used = self.process(received, plain)?;
            self.incoming = received[used..].to_vec();
            return Ok(());
        }
        let mut incoming = mem::take(&mut self.incoming);
        incoming.extend_from_slice(received);
        let used = self.process(&mut incoming, plain)?;
        incoming.drain(..used);
        self.incoming = if incoming.is_empty() { Vec::new() } else { incoming };
        Ok(())
    }

    /// Processes whole records; how many bytes they were.
    fn process(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process(&mut bytes[used..]);
            let is_done = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(failed)?;
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                    false
                }
                // It is in `outgoing`, which is sent before anything that is encrypted later.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.closed_by_peer = true;
                    false
                }
                Ok(
                    ConnectionState::BlockedHandshake
                    | ConnectionState::WriteTraffic(_)
                    | ConnectionState::Closed,
                ) => true,
                // Nothing of the kind is agreed to: `max_early_data_size` is 0.
                Ok(_) => return Err(ended()),
                Err(error) => {
                    self.encode_alert();
                    return Err(failed(error));
                }
            };
            used += discard;
            if is_done {
                return Ok(used);
            }
        }
    }

    /// After an error: the peer is told.
    fn encode_alert(&mut self) {
        loop {
            let UnbufferedStatus { state, .. } = self.connection.process(&mut []);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return,
            }
        }
    }

    /// Encrypts all pieces into `room`, behind what the connection has to say for itself; the length.
    ///
    /// # Errors
    /// As [`TlsRecords::seal`].
    pub(in crate::net) fn seal(&mut self, pieces: &[&[u8]], room: &mut [u8]) -> io::Result<usize> {
        let own = mem::take(&mut self.outgoing);
        let Some(start) = room.get_mut(..own.len()) else {
            self.outgoing = own;
            return Err(failed(rustls::Error::General("no room for a handshake".into())));
        };
        start.copy_from_slice(&own);
        let mut written = own.len();
        let (mut gathered, mut len) = ([0; GATHERED_BYTES_MAX], 0);
        for piece in pieces {
            let is_large = piece.len() >= PIECE_BYTES_MIN;
            if is_large || len + piece.len() > GATHERED_BYTES_MAX {
                written += self.encrypt(&gathered[..len], &mut room[written..])?;
                len = 0;
            }
            if is_large {
                written += self.encrypt(piece, &mut room[written..])?;
            } else {
                gathered[len..len + piece.len()].copy_from_slice(piece);
                len += piece.len();
            }
        }
        Ok(written + self.encrypt(&gathered[..len], &mut room[written..])?)
    }

    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> io::Result<usize> {
        if plain.is_empty() {
            return Ok(0);
        }
        if self.closed_by_us {
            return Err(ended());
        }
        self.write(room, |mut traffic, room| {
            traffic.encrypt(plain, room).map_err(|error| io::Error::other(error.to_string()))
        })
    }

    /// Has `write` put something into `room`, behind what the connection says before it.
    fn write(
        &mut self,
        room: &mut [u8],
        write: impl FnOnce(
            rustls::unbuffered::WriteTraffic<'_, C::Data>,
            &mut [u8],
        ) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut own = Vec::new();
        loop {
            let UnbufferedStatus { discard, state } = self.connection.process(&mut self.incoming);
            match state.map_err(failed)? {
                ConnectionState::WriteTraffic(traffic) => {
                    let Some(start) = room.get_mut(..own.len()) else { return Err(ended()) };
                    start.copy_from_slice(&own);
                    let written = write(traffic, &mut room[own.len()..])?;
                    self.incoming.drain(..discard);
                    return Ok(own.len() + written);
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, &mut own),
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => return Err(ended()),
            }
            self.incoming.drain(..discard);
        }
    }

    /// From now on the connection has to say that nothing more comes.
    pub(in crate::net) fn close(&mut self) {
        if mem::replace(&mut self.closed_by_us, true) {
            return;
        }
        let mut room = [0; 256];
        // A connection that cannot say so is closed without it.
        let said = self.write(&mut room, |mut traffic, room| {
            traffic.queue_close_notify(room).map_err(|error| io::Error::other(error.to_string()))
        });
        self.outgoing.extend_from_slice(&room[..said.unwrap_or(0)]);
    }

    /// Whether the peer has said that nothing more comes.
    pub(in crate::net) const fn is_closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        data.encode(&mut [])
    else {
        return;
    };
    let start = out.len();
    out.resize(start + required_size, 0);
    let encoded = data.encode(&mut out[start..]);
    assert!(encoded.is_ok(), "a record does not take the room that it asked for");
}

impl<C: Unbuffered> TlsRecords for Records<C> {
    fn seal(&mut self, pieces: &[&[u8]], room: &mut [u8]) -> io::Result<usize> {
        Self::seal(self, pieces, room)
    }

    fn open(&mut self, received: &mut [u8], plain: &mut Vec<u8>) -> io::Result<()> {
        Self::open(self, received, plain)
    }

    fn is_closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    fn has_words(&self) -> bool {
        !self.outgoing.is_empty()
    }

    fn close(&mut self) {
        Self::close(self);
    }
}

#[cfg(test)]
mod tests;
