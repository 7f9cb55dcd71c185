//! What clients and standbys send.

use std::num::NonZeroU32;

use walhub_proto::command;
use walhub_proto::lsn::Lsn;
use walhub_proto::password::ScramSecret;
use walhub_proto::pgoutput::PgoutputOptions;
use walhub_proto::scram::{
    Credential, Exchange, InitialResponse, RAW_NONCE_LEN, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Step,
};
use walhub_proto::time::{Instant, Now, Timestamp};
use walhub_proto::walsender::{Transmit, WalSender, WalSenderConfig};
use walhub_proto::wire::{frontend, startup};

/// The first packet, and the messages after it.
pub(crate) fn frontend(bytes: &[u8]) {
    if let Ok(Some((packet, len))) = startup::decode(bytes) {
        // The same packet, cut or with more after it, is not another one.
        assert_eq!(startup::decode(&bytes[..len]), Ok(Some((packet, len))));
        for cut in 0..len {
            assert_eq!(startup::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
    }
    let mut rest = bytes;
    while let Ok(Some((message, len))) = frontend::decode(rest) {
        assert!(0 < len && len <= rest.len());
        assert_eq!(frontend::decode(&rest[..len]), Ok(Some((message, len))));
        assert_eq!(frontend::decode(&rest[..len - 1]), Ok(None));
        rest = &rest[len..];
    }
}

/// What a client says to be let in: nobody is who does not know the password.
///
/// The first byte says whether there is TLS and channel binding; then come messages, each in a line.
pub(crate) fn sasl(bytes: &[u8]) {
    let _ = InitialResponse::decode(bytes).map_err(|rule| rule.to_string());
    let Some((&flags, rest)) = bytes.split_first() else { return };
    let end_point = (flags & 1 != 0).then_some(&b"a certificate's hash"[..]);
    let mechanism = if flags & 2 == 0 { SCRAM_SHA_256 } else { SCRAM_SHA_256_PLUS };
    let secret = ScramSecret::build(b"pencil", b"salt", NonZeroU32::MIN);
    let credential =
        if flags & 4 == 0 { Credential::Secret(secret) } else { Credential::Mock(secret) };
    let Ok(mut exchange) =
        Exchange::new(mechanism.as_bytes(), end_point, credential, &[0; RAW_NONCE_LEN])
    else {
        return;
    };
    for (number, message) in rest.split(|&byte| byte == b'\n').enumerate() {
        match exchange.handle(Some(message).filter(|_| number > 0 || flags & 8 == 0)) {
            Ok(Step::Continue(reply)) => assert!(reply.len() <= message.len() + 100),
            Ok(Step::Success(_)) => panic!("nobody knows the password"),
            Ok(Step::Failure) => return,
            Err(violation) => {
                let report = violation.report();
                assert!(!report.message.is_empty());
                return;
            }
        }
    }
}

/// A replication command, and the options of a logical stream in it.
pub(crate) fn command(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match command::parse(text) {
        Ok(Some(command)) => {
            if let command::Command::StartLogicalReplication { options, .. } = &command {
                let _ = PgoutputOptions::parse(options).map_err(|error| format!("{error:?}"));
            }
            // Spaces at the end mean nothing.
            assert_eq!(command::parse(&format!("{text} ")), Ok(Some(command)));
        }
        Ok(None) => {}
        Err(error) => drop(format!("{error} {error:?}")),
    }
}

/// What a standby says while WAL is streamed to it: the walsender is given time, WAL and room meanwhile.
pub(crate) fn walsender(bytes: &[u8]) {
    let start = Lsn(0x0300_0000);
    let mut sender = WalSender::new(WalSenderConfig::default(), at(0), start, None);
    let mut kept = Vec::new();
    for (step, piece) in super::pieces(bytes).enumerate() {
        let step = u64::try_from(step).expect("few steps");
        let now = at(step * 7_000);
        kept.extend_from_slice(piece);
        let mut rest = &kept[..];
        loop {
            let before = rest.len();
            match sender.handle_bytes(now, &mut rest) {
                Ok(Some(_)) => {}
                Ok(None) if rest.len() == before => break,
                Ok(None) => {}
                Err(violation) => {
                    drop(violation.to_string());
                    return;
                }
            }
            sender.check();
        }
        kept = rest.to_vec();
        sender.handle_sendable(now, start + step * 100);
        sender.handle_timeout(now);
        while let Some(transmit) = sender.poll_transmit(now) {
            if let Transmit::Wal { range, .. } = transmit {
                assert!(range.end <= start + step * 100, "what may not be sent yet");
            }
            sender.handle_sent(now);
            sender.check();
        }
        if sender.is_timed_out() || !sender.takes_messages() {
            return;
        }
    }
}

fn at(millis: u64) -> Now {
    let wall = Timestamp(i64::try_from(millis * 1000).expect("a short time"));
    Now { instant: Instant(millis * 1_000_000), wall }
}
