//! What an upstream sends.

use walhub_proto::lsn::{Lsn, TimelineId};
use walhub_proto::record::RecordReader;
use walhub_proto::segment::SegmentSize;
use walhub_proto::time::{Instant, Now, Timestamp};
use walhub_proto::walreceiver::{LocalWal, ReceiverEvent, WalReceiver, WalReceiverConfig};
use walhub_proto::wire::error_response::ErrorResponse;

/// The body of an ErrorResponse or NoticeResponse.
pub(crate) fn error_response(bytes: &[u8]) {
    if let Ok(error) = ErrorResponse::decode(bytes) {
        drop(format!("{error:#} {error:?}"));
    }
}

/// Everything that comes after the connection is ready: results, WAL, ends of timelines. The second byte
/// says what is here already.
pub(crate) fn walreceiver(bytes: &[u8]) {
    let Some((&known, bytes)) = bytes.split_first() else { return };
    let size = SegmentSize::new(1 << 20).expect("a size");
    let local = if known & 1 == 0 {
        LocalWal::default()
    } else {
        LocalWal {
            system_identifier: None,
            segment_size: Some(size),
            timeline: TimelineId::new(u32::from(known >> 2) + 1),
            next_lsn: Some(Lsn(0x0030_0000)),
        }
    };
    let slot_name = (known & 2 != 0).then(|| "hub".to_owned());
    let slot_create = slot_name.is_some();
    let config = WalReceiverConfig { slot_name, slot_create, ..WalReceiverConfig::default() };
    let mut receiver = WalReceiver::new(config, at(0), local, 150_000);
    let mut records: Option<RecordReader> = None;
    let mut next = None;
    for (step, mut piece) in super::pieces(bytes).enumerate() {
        let now = at(u64::try_from(step).expect("few steps") * 3_000);
        loop {
            let event = receiver.handle_bytes(now, &mut piece);
            receiver.check();
            match event {
                Ok(Some(ReceiverEvent::Started { start, .. })) => {
                    next = Some(start);
                    let is_place = start.0 % 8 == 0 && start.0 % 8192 == 0;
                    records = is_place.then(|| RecordReader::new(start, size, super::no_crc));
                }
                Ok(Some(ReceiverEvent::Wal { start, bytes })) => {
                    assert_eq!(Some(start), next, "WAL is contiguous");
                    next = Some(start + u64::try_from(bytes.len()).expect("a length"));
                    assert_eq!(Some(receiver.next_lsn()), next);
                    if records.as_mut().is_some_and(|records| records.feed(bytes).is_err()) {
                        records = None;
                    }
                }
                Ok(Some(event)) => drop(format!("{event:?}")),
                Ok(None) => break,
                Err(violation) => {
                    drop(violation.to_string());
                    return;
                }
            }
        }
        assert!(piece.is_empty(), "all is taken when there is no event");
        while receiver.poll_transmit(now).is_some() {}
        if receiver.handle_timeout(now).is_err() {
            return;
        }
        if let Some(next) = next {
            receiver.handle_progress(now, next, next, next);
        }
    }
}

fn at(millis: u64) -> Now {
    let wall = Timestamp(i64::try_from(millis * 1000).expect("a short time"));
    Now { instant: Instant(millis * 1_000_000), wall }
}
