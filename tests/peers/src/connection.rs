//! Messages over a blocking socket, as either end of the protocol sees them.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use walhub_proto::wire::reader::FRAME_HEADER_LEN;

/// The longest message that is taken.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Takes a socket over.
    ///
    /// # Errors
    /// When it is no TCP socket any more.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(socket) })
    }

    /// Sends messages that were encoded before.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn send(&mut self, messages: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(messages)
    }

    /// Reads a message into `body`; returns its type.
    ///
    /// # Errors
    /// When the connection is lost, or the message is of a length that cannot be.
    pub fn receive(&mut self, body: &mut Vec<u8>) -> io::Result<u8> {
        let mut head = [0; FRAME_HEADER_LEN];
        self.reader.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).ok();
        let length = length.and_then(|length| length.checked_sub(4));
        let length = length.filter(|&length| length <= MESSAGE_BYTES_MAX);
        body.resize(length.ok_or(io::ErrorKind::InvalidData)?, 0);
        self.reader.read_exact(body)?;
        Ok(kind)
    }

    /// Reads a packet whose first four bytes are its length; returns all of it.
    ///
    /// # Errors
    /// When the connection is lost, or the packet is of a length that cannot be.
    pub fn receive_packet(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut packet = vec![0; 4];
        self.reader.read_exact(&mut packet)?;
        let length = packet.first_chunk().map(|word| u32::from_be_bytes(*word));
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| (4..=bytes_max).contains(length));
        packet.resize(length.ok_or(io::ErrorKind::InvalidData)?, 0);
        self.reader.read_exact(packet.get_mut(4..).unwrap_or_default())?;
        Ok(packet)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// What was read of the socket and not taken yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.reader.buffer()
    }

    /// The socket, and what was read of it and not taken yet.
    #[must_use]
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let unread = self.unread().to_vec();
        (self.reader.into_inner(), unread)
    }
}
