//! Whether a file is the segment that its name says, by its kind and the header of its first page.
//!
//! Not here: whether its records are valid (`crate::store::verify`).

use std::io;
use std::path::Path;

use walhub_engine::files::is_read_failure;
use walhub_engine::io::Fs;
use walhub_proto::lsn::TimelineId;
use walhub_proto::page::{LONG_HEADER_LEN, PageHeader, PageWant};
use walhub_proto::record::WalViolation;
use walhub_proto::recovery::ControlFile;
use walhub_proto::segment::SegNo;

/// What is wrong with the file of a segment, as far as its first page tells.
#[must_use]
pub fn head_fault(
    fs: &dyn Fs,
    path: &Path,
    control: &ControlFile,
    timeline: TimelineId,
    segno: SegNo,
) -> Option<String> {
    let start = segno.start(control.segment_size);
    // The first segment of a relay may begin with nothing.
    if start < control.start_lsn {
        return None;
    }
    let mut head = [0; LONG_HEADER_LEN];
    match fs.read_at(path, 0, &mut head) {
        Ok(count) if count == head.len() => {}
        Ok(count) => return Some(format!("file ends at offset {count}")),
        // Gone since the directory was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        // What could not be read now says nothing about what is there.
        Err(error) if is_read_failure(&error) => {
            tracing::warn!("could not look at a WAL segment: {error}");
            return None;
        }
        Err(error) => return Some(error.to_string()),
    }
    let want = PageWant {
        system_identifier: Some(control.system_identifier),
        timeline: Some(timeline),
        ..PageWant::new(control.segment_size)
    };
    let violation = WalViolation::Page(PageHeader::decode(&head)?.check(start, &want).err()?);
    Some(format!("{violation} ({})", violation.numbers()))
}
