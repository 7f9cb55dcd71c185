//! Memory that the kernel sends from until the other end has acknowledged it.
//!
//! The memory is kept here as long as the kernel would need it: what was sent from it is not free for
//! anything else, which a hub must be able to live with.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use walhub_engine::io::{Done, Released, Token};

use crate::net::Effect;
use crate::rng::{Rng, bytes};
use crate::world::CoreKey;

/// One send without a copy.
#[derive(Debug)]
struct Unacked {
    key: CoreKey,
    token: Token,
    /// Position in the stream after its last byte.
    end: u64,
    bytes: usize,
    _memory: Vec<Bytes>,
}

/// What one end of a connection has sent, and sent from memory.
#[derive(Debug, Default)]
pub(crate) struct Unreleased {
    sent: u64,
    acked: u64,
    sends: VecDeque<Unacked>,
}

impl Unreleased {
    /// Bytes went out.
    pub(crate) fn handle_sent(&mut self, count: usize) {
        self.sent += bytes(count);
    }

    /// The last `bytes` that went out were sent without a copy.
    pub(crate) fn push(&mut self, key: CoreKey, token: Token, bytes: usize, memory: Vec<Bytes>) {
        self.sends.push_back(Unacked { key, token, end: self.sent, bytes, _memory: memory });
    }

    /// The other end has, or will never want, this many bytes more.
    pub(crate) fn handle_acked(&mut self, count: usize) {
        self.acked += bytes(count);
    }

    /// There is nobody any more who could acknowledge.
    pub(crate) fn give_up(&mut self) {
        self.acked = self.sent;
    }

    /// What the kernel does not need any more, told at `at`.
    pub(crate) fn released(&mut self, at: u64, rng: &mut Rng) -> Vec<Effect> {
        let mut effects = Vec::new();
        while self.sends.front().is_some_and(|send| send.end <= self.acked) {
            let Some(send) = self.sends.pop_front() else { break };
            let released = Released { bytes: send.bytes, copied: rng.chance(20) };
            let done: io::Result<Done> = Ok(Done::Released(released));
            effects.push(Effect::Later(at, send.key, send.token, done));
        }
        effects
    }
}
